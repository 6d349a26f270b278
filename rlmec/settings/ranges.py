"""Types of settings that have a range, for the settings classes and the signatures of targets.

Each name is a plain type with constraints of `annotated_types`. `settings.binding` casts a value to
the plain type and then lets pydantic check the constraints, so a value out of range ends the run
before anything heavy is imported. A target reads its own numbers in the same way: annotate its
parameters with these names, imported from this module (`signatures` reads them from source).
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen, Predicate


@dataclass(frozen=True)
class Note:
    """What a refusal adds: how to write what the user may have meant."""

    text: str


@dataclass(frozen=True)
class Home:
    """Marks a text as a path: `~` at its start becomes the home folder."""


ALL = Note("null takes all of them")
NO_LIMIT = Note("null sets no limit")

# --- whole numbers ---

PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
AtMost = Annotated[int, Ge(1), ALL]
"""How many are taken; next to `| None`, where null takes all."""
AtMostOrNone = Annotated[int, Ge(0), Note("0 takes none, a large number takes all")]
Budgeted = Annotated[int, Ge(0), NO_LIMIT]
Kept = Annotated[int, Ge(1), Note("a large number keeps all")]
Seed = Annotated[int, Ge(0), Lt(2**32)]
VocabularySize = Annotated[int, Ge(258), Note("256 bytes and 2 special tokens need 258")]

# --- other numbers ---

PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
BudgetedCost = Annotated[float, Ge(0), NO_LIMIT]
Share = Annotated[float, Ge(0), Le(1)]
PositiveShare = Annotated[float, Gt(0), Le(1)]
ShareBelowOne = Annotated[float, Ge(0), Lt(1)]
Temperature = Annotated[float, Ge(0), Note("0 decodes greedily")]
TopP = Annotated[float, Gt(0), Le(1), Note("1 keeps all tokens")]
GradientClip = Annotated[float, Ge(0), Note("null clips nothing")]
AnyFloat = Annotated[float, Note("any finite number")]
"""A number whose sign and size are free, such as a reward."""

# --- texts ---

PathText = Annotated[str, MinLen(1), Home()]
"""A file, a folder, or a name on the hub."""

Precision = Annotated[
    Literal["32-true", "bf16-mixed", "16-mixed", "32", "bf16", "16"],
    Note(
        "a precision that casts weights would round rewards and old log-probs too, and lose small "
        "updates: use precision=bf16-mixed (frozen weights in half precision: "
        "model.dtype=bfloat16 with model.lora)"
    ),
]


def is_mixed(precision: str) -> bool:
    """Whether matrices are multiplied in half precision; "bf16" is short for "bf16-mixed"."""
    return not precision.startswith("32")


Dtype = Literal["float32", "bfloat16", "float16"]
Attention = Literal[
    "sdpa",
    "eager",
    "flash_attention_2",
    "flash_attention_3",
    "flash_attention_4",
    "flex_attention",
]
Split = Literal["train", "dev", "test"]
Operation = Literal["add", "subtract", "multiply", "divide"]
StageName = Literal[
    "warmup",
    "sample",
    "teach",
    "grm",
    "score",
    "policy",
    "evaluate",
    "report",
    "export",
    "plan",
    "status",
    "prune",
]
"""What `stage=` may name. `stages.flow` has the order of those that make artifacts."""


def _is_device_list(text: str) -> bool:
    """Whether a text is one number above 0, or numbers between commas."""
    parts = text.split(",")
    return all(part.strip().isdigit() for part in parts) and (len(parts) > 1 or int(text) > 0)


_DEVICES = Note("a number, auto or -1 for all, or a list of device numbers such as '0,2'")
Devices = (
    Annotated[int, Ge(1), _DEVICES]
    | Literal[-1, "auto", "-1"]
    | Annotated[str, Predicate(_is_device_list), _DEVICES]
)
"""A number of devices, all of them (-1 or auto), or a list of their numbers."""


def _is_date(text: str) -> bool:
    """Whether a text is an ISO date with dashes."""
    try:
        return str(datetime.date.fromisoformat(text)) == text
    except ValueError:
        return False


DateText = Annotated[str, Predicate(_is_date), Note("a date such as 2024-07-26")]


# --- the words for a range ---


def range_text(rules: Iterable[Any]) -> str:
    """The range that constraints describe, in words: "at least 1", "more than 0 and at most 1"."""
    words = []
    for rule in rules:
        match rule:
            case Ge(ge=bound):
                words.append(f"at least {bound}")
            case Gt(gt=bound):
                words.append(f"more than {bound}")
            case Le(le=bound):
                words.append(f"at most {bound}")
            case Lt(lt=bound):
                words.append(f"less than {bound}")
            case MinLen():
                words.append("a text that is not empty")
    return " and ".join(words) or "another value"


def note_of(rules: Iterable[Any]) -> str:
    """The note among constraints, as the end of a message; empty without one."""
    return "".join(f" ({rule.text})" for rule in rules if isinstance(rule, Note))


def with_home(text: str) -> str:
    """A path with `~` or `~user` at its start replaced by that home folder."""
    return os.path.expanduser(text)
