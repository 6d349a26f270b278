"""The records that pass from stage to stage: problems, attempts, corrections and scores; and pairs.

Every record is a frozen dataclass. Its constructor checks that per-token fields have equal lengths,
so a record that does not fit is refused where it is made, with its id and both numbers. A
completion includes its end-of-sequence token unless it was cut at the length limit. Pure.
"""

from __future__ import annotations

import hashlib
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np

Verdict = Literal["right", "wrong", "no_answer", "unparsable", "timeout", "memory", "crash"]
"""The result of comparing an attempt's final answer with the gold answer.

"no_answer": the attempt has none. "unparsable": the gold answer cannot be read. "timeout",
"memory", "crash": the comparison was stopped at a limit or failed, so the answer does not count as
right and is not known to be wrong.
"""
VERDICTS: tuple[str, ...] = typing.get_args(Verdict)
UNDECIDED = ("timeout", "memory", "crash")
"""Verdicts after which it is not known whether the answer is right."""

Ids = list[int]
Floats = list[float]

GRM = "grm"
"""The `source` of a correction that the GRM made."""


def is_right(verdict: str, clipped: bool) -> bool:
    """`Attempt.is_right`, computed from the two fields that decide it."""
    return verdict == "right" and not clipped


def is_wrong(verdict: str, clipped: bool) -> bool:
    """`Attempt.is_wrong`, computed from the two fields that decide it."""
    return not is_right(verdict, clipped) and verdict not in ("unparsable", *UNDECIDED)


def _same_length(record: str, id_: str, **lengths: int) -> None:
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} has {n}" for name, n in lengths.items())
        raise ValueError(f"{record} {id_!r}: fields of one completion differ in length: {shown}")


@dataclass(frozen=True)
class Problem:
    """A question with its gold answer and, if the data has one, its reference solution.

    `options` are the texts to choose from, in the order of their letters; an open question has
    none. `kind` is the task's name for a group of problems. Raises ValueError without an id or a
    question.
    """

    id: str
    question: str
    answer: str
    solution: str | None = None
    kind: str = ""
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.id or not self.question.strip():
            raise ValueError(f"problem {self.id!r}: an id and a question are needed")
        # Rows of a table have lists where the record has a tuple.
        object.__setattr__(self, "options", tuple(self.options))


@dataclass(frozen=True)
class Attempt:
    """A sampled or imported solution of a problem, judged by its final answer.

    `logprobs` are the sampler's own log-probabilities (nats), one per token; an imported solution
    has none. `clipped` means that the completion was cut at the length limit; such an attempt is
    never right. `label` is the verdict that came with imported data, if any. Raises ValueError for
    an unknown verdict, a completion without a token, or log-probabilities of another number.
    """

    id: str
    problem_id: str
    prompt_ids: Ids
    completion_ids: Ids
    logprobs: Floats
    text: str
    verdict: str
    clipped: bool
    tokenizer: str
    source: str = "policy"
    label: bool | None = None

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(
                f"attempt {self.id!r}: verdict {self.verdict!r} is none of {', '.join(VERDICTS)}"
            )
        if not self.completion_ids:
            raise ValueError(f"attempt {self.id!r}: the completion has no token")
        if self.logprobs:
            _same_length(
                "attempt",
                self.id,
                completion_ids=len(self.completion_ids),
                logprobs=len(self.logprobs),
            )

    @property
    def is_right(self) -> bool:
        """Whether its answer is right and it was not cut at the length limit."""
        return is_right(self.verdict, self.clipped)

    @property
    def is_wrong(self) -> bool:
        """Whether it is known not to be right.

        An attempt is neither right nor wrong if the gold answer cannot be read or the answers could
        not be compared.
        """
        return is_wrong(self.verdict, self.clipped)


@dataclass(frozen=True)
class Draws:
    """How often an attempt was drawn that stands for several identical ones."""

    attempt_id: str
    count: int


@dataclass(frozen=True)
class Correction:
    """A rewrite of a wrong attempt, accepted or rejected with the reason why.

    `edit_ratio` is the token edit distance divided by the length of the longer completion. `reason`
    is "accepted" or the reason of the rejection (`method.acceptance.REASONS` and `REFUSALS`).
    `source` is the name of the teacher, or GRM.
    """

    attempt_id: str
    problem_id: str
    completion_ids: Ids
    text: str
    verdict: str
    edit_ratio: float
    reason: str
    source: str
    tokenizer: str

    @property
    def accepted(self) -> bool:
        """Whether it may be trained on."""
        return self.reason == "accepted"


@dataclass(frozen=True)
class Score:
    """Raw log-probabilities (nats) of an attempt's tokens, under two models.

    `grm_logprobs` are those of the GRM under its rewriting prompt, `old_logprobs` those of the
    policy before training. Raises ValueError if their numbers differ.
    """

    attempt_id: str
    grm_logprobs: Floats
    old_logprobs: Floats
    tokenizer: str

    def __post_init__(self) -> None:
        _same_length(
            "score of attempt",
            self.attempt_id,
            grm_logprobs=len(self.grm_logprobs),
            old_logprobs=len(self.old_logprobs),
        )


@dataclass(frozen=True)
class SequenceLogprobs:
    """Log-probs (nats) of the scored tokens of one sequence under one model."""

    id: str
    logprobs: Floats
    tokenizer: str


@dataclass(frozen=True)
class Alternatives:
    """What the GRM would have written in the places where it disagrees with an attempt.

    `places` are indices of tokens of the attempt that are not the GRM's likeliest ones, given the
    attempt's tokens before them. `ids` and `logprobs` (nats) hold equally many of its likeliest
    tokens for each place, the likeliest first, one place after the other. Raises ValueError if
    their numbers do not fit.
    """

    attempt_id: str
    places: Ids
    ids: Ids
    logprobs: Floats
    tokenizer: str

    def __post_init__(self) -> None:
        what = "alternatives of attempt"
        _same_length(what, self.attempt_id, ids=len(self.ids), logprobs=len(self.logprobs))
        if len(self.ids) % max(len(self.places), 1):
            raise ValueError(
                f"{what} {self.attempt_id!r}: {len(self.ids)} ids for {len(self.places)} places"
            )


@dataclass(frozen=True)
class Pair:
    """An attempt and its target, with the credit of every token.

    The target of a wrong attempt is its accepted correction; a right attempt is its own target. A
    wrong attempt without a correction has an empty target. `old_logprobs` and `token_rewards` have
    one value per token of the attempt, `edit_weights` one per token of the target. `corrected_by`
    is the source of the correction. Raises ValueError for arrays of another length.
    """

    attempt: Attempt
    target_ids: Ids
    old_logprobs: np.ndarray = field(repr=False)
    token_rewards: np.ndarray = field(repr=False)
    edit_weights: np.ndarray = field(repr=False)
    corrected_by: str = ""

    def __post_init__(self) -> None:
        _same_length(
            "pair of attempt",
            self.attempt.id,
            completion_ids=len(self.attempt.completion_ids),
            old_logprobs=len(self.old_logprobs),
            token_rewards=len(self.token_rewards),
        )
        _same_length(
            "pair of attempt",
            self.attempt.id,
            target_ids=len(self.target_ids),
            edit_weights=len(self.edit_weights),
        )


def require_same_tokenizer(expected: str, found: str, what: str) -> None:
    """Raise ValueError if `what` was made with another tokenizer; the arguments are digests."""
    if expected != found:
        raise ValueError(
            f"{what} was made with tokenizer {found[:12]}, but {expected[:12]} is in use: make it "
            "again with this model"
        )


def columns(record: type) -> dict[str, str]:
    """The Arrow type name of each field of a record, for writing tables of it.

    Raises TypeError for a field that is not a plain value or a list of plain values.
    """
    hints = typing.get_type_hints(record)
    return {f.name: _arrow_name(hints[f.name], f.name) for f in fields(record)}


def _arrow_name(hint: Any, name: str) -> str:
    if isinstance(hint, types.UnionType):
        hint = next(a for a in typing.get_args(hint) if a is not type(None))
    if typing.get_origin(hint) in (list, tuple):
        of = {int: "list<int32>", float: "list<float32>", str: "list<string>"}
        return of[typing.get_args(hint)[0]]
    plain = {str: "string", bool: "bool", int: "int64", float: "float64"}
    if hint not in plain:
        raise TypeError(f"field {name!r} of type {hint} has no column type")
    return plain[hint]


def by_id(records: Sequence[Any], key: str = "id") -> dict[str, Any]:
    """Records by the value of their field `key`; raises ValueError if two have the same."""
    out: dict[str, Any] = {}
    for record in records:
        id_ = getattr(record, key)
        if id_ in out:
            raise ValueError(f"two {type(record).__name__} records with {key} {id_!r}")
        out[id_] = record
    return out


def hash_share(seed: int, what: str, id_: str) -> float:
    """A number in [0, 1) for an id, a fixed and evenly spread function of (seed, what, id).

    `what` names the purpose. Numbers of different seeds or purposes are independent.
    """
    # A cryptographic hash, because CRCs of two prefixes differ by a constant only.
    found = hashlib.sha256(f"{seed}/{what}/{id_}".encode()).digest()
    return int.from_bytes(found[:6], "big") / 2**48
