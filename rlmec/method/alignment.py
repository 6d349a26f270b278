"""The edit script of two token sequences: what a correction removes, keeps and adds.

In: two sequences of token ids, a source (the attempt) and a target (its correction). Out: a minimal
script of unit-cost insertions, deletions and substitutions (Levenshtein), as ranges and as one mask
per side. Where several minimal scripts exist, the script is the one that rapidfuzz finds, which
depends on the two sequences alone.

Departs from the authors' scripts: an insertion is marked wherever it occurs, also at the very
start, and a deletion is marked on the token of the source that goes, not on a kept token of the
target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from rapidfuzz.distance import Levenshtein


class Opcode(NamedTuple):
    """`source[source_start:source_end]` becomes `target[target_start:target_end]`.

    `tag` is "equal", "replace" (both ranges have the same length), "insert" (the source range is
    empty) or "delete" (the target range is empty).
    """

    tag: str
    source_start: int
    source_end: int
    target_start: int
    target_end: int


@dataclass(frozen=True, eq=False)
class EditScript:
    """A minimal edit script from a source to a target, as single edits and as masks."""

    edits: Any = field(repr=False)  # rapidfuzz.distance.Editops
    edited: np.ndarray = field(repr=False)  # [target] bool, True where inserted or substituted
    removed: np.ndarray = field(repr=False)  # [source] bool, True where deleted or substituted

    @property
    def distance(self) -> int:
        """Number of single edits."""
        return len(self.edits)

    @cached_property
    def opcodes(self) -> tuple[Opcode, ...]:
        """The edits as ranges that cover both sides from left to right without gaps."""
        found = self.edits.as_opcodes()
        return tuple(Opcode(o.tag, o.src_start, o.src_end, o.dest_start, o.dest_end) for o in found)

    @property
    def first_edit(self) -> int | None:
        """Source position of the first edit, None where the sequences are equal.

        The position of an insertion is that of the source token behind it, which is the length of
        the source where tokens are only appended.
        """
        return self.edits[0].src_pos if len(self.edits) else None


def edit_script(source: Sequence[int], target: Sequence[int]) -> EditScript:
    """The minimal script that turns `source` into `target`.

    Ids are non-negative integers. Substitutions are marked in both masks, so
    `edited.sum() + removed.sum() - substitutions == distance`. Source: docs/method.md, step 7.
    """
    edits: Any = Levenshtein.editops(source, target)
    edited = np.zeros(len(target), dtype=bool)  # [target]
    removed = np.zeros(len(source), dtype=bool)  # [source]

    single = edits.as_list()
    edited[[to for tag, _, to in single if tag != "delete"]] = True
    removed[[of for tag, of, _ in single if tag != "insert"]] = True
    return EditScript(edits, edited, removed)


def apply(script: EditScript, source: Sequence[int], target: Sequence[int]) -> list[int]:
    """The target, rebuilt from the source's kept tokens and the target's edited ones.

    The result equals `target` exactly when the script is right. Raises ValueError if a sequence has
    another length than the script's.
    """
    if (len(source), len(target)) != (len(script.removed), len(script.edited)):
        raise ValueError(
            f"a script from {len(script.removed)} to {len(script.edited)} tokens does not fit "
            f"sequences of {len(source)} and {len(target)}"
        )
    out: list[int] = []
    for op in script.opcodes:
        if op.tag == "equal":
            out.extend(source[op.source_start : op.source_end])
        else:
            out.extend(target[op.target_start : op.target_end])
    return out


def edit_ratio(source: Sequence[int], target: Sequence[int]) -> float:
    """Edit distance divided by the longer length, in [0, 1]; 0.0 for two empty sequences."""
    longer = max(len(source), len(target))
    return Levenshtein.distance(source, target) / longer if longer else 0.0


def edit_weights(
    script: EditScript, edited_weight: float = 1.0, kept_weight: float = 0.5
) -> np.ndarray:
    """Imitation weight w_j of each token of the target, float32 [target].

    Inserted and substituted tokens have `edited_weight`, kept ones `kept_weight`. Source:
    docs/method.md, w_j of step 7.
    """
    return np.where(script.edited, edited_weight, kept_weight).astype(np.float32)  # [target]
