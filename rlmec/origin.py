"""`rlmec.json` beside a model's weights: the prompts that it was trained with.

A model directory says which tokenizer it has, but not which words a rewriting prompt is made of.
In: templates, the tokenizer's digest. Out: the file, and what it says on reading.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rlmec.artifacts import atomic_write_json
from rlmec.prompts import Templates

FILE = "rlmec.json"
FORMAT = 1


@dataclass(frozen=True)
class Origin:
    """What a model of this project was trained as (`kind`: policy or grm), with the templates of
    its prompts, its tokenizer's digest and the longest completion it was asked for."""

    kind: str
    templates: Templates
    tokenizer: str
    max_completion_length: int


def write_origin(folder: Path, origin: Origin) -> None:
    """Writes `rlmec.json` of a model directory."""
    atomic_write_json(folder / FILE, {"format": FORMAT, **asdict(origin)})


def read_origin(folder: Path) -> Origin | None:
    """What `rlmec.json` says, None where there is none; ValueError naming a file it cannot read."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.pop("format") != FORMAT:
            raise ValueError("it was written by another version of this project")
        return Origin(**(found | {"templates": Templates(**found["templates"])}))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"[:300]
        raise ValueError(f"{path} cannot be read: {reason!a}") from error
