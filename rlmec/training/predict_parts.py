"""Parts of the predict stages: the fixed portions of work that are computed and stored at once.

In: the items of a stage. Out: parts, and a loader that gives each rank its share of those that are
missing. Completions depend on the prompts that are computed with them. What a part holds, and its
seed, therefore depend on the data and the settings alone: a stage that was interrupted, or that
runs on several ranks, writes the same bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch.utils.data import DataLoader, Dataset

from rlmec.data.row import Row
from rlmec.lm.generation import Decoding


@dataclass(frozen=True)
class GenerationPart:
    """Prompts to complete together."""

    index: int
    prompts: list[list[int]]
    decoding: Decoding
    seed: int


class Draft(NamedTuple):
    """A prompt and the draft of its completion."""

    prompt: list[int]
    ids: list[int]


@dataclass(frozen=True)
class ScoringPart:
    """Rows whose scored tokens get log-probs, and drafts that are scored and rewritten at once.

    A rewrite has at most `max_completion_length` tokens. `alternatives` is the number of likeliest
    tokens to keep where they are not a draft's.
    """

    index: int
    rows: list[Row]
    drafts: list[Draft] = field(default_factory=list)
    max_completion_length: int = 0
    alternatives: int = 0


def part_seed(seed: int, stage: str, index: int) -> int:
    """The seed of one part: a hash of the stage's seed, the stage's name, and the part's number."""
    return zlib.crc32(f"{seed}/{stage}/{index}".encode())


def cut(count: int, size: int) -> list[range]:
    """The numbers 0..count-1 in runs of `size`; the last run may be shorter."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


class Sealed:
    """Carries a part through Lightning, which would copy every list of a plain batch."""

    def __init__(self, part: Any) -> None:
        self.part = part


class PartList(Dataset):
    """One rank's share of the missing parts, filled up with None so that all ranks have as many:
    Lightning fails on a rank that has nothing to predict.

    A part is asked for when its turn comes, so `parts` may make it then.
    """

    def __init__(self, parts: Sequence[Any], missing: Sequence[int], rank: int, world: int) -> None:
        self.parts = parts
        self.own = list(missing[rank::world])
        self.most = -(-len(missing) // world)  # rounded up

    def __len__(self) -> int:
        return self.most

    def __getitem__(self, at: int) -> Sealed:
        if not 0 <= at < self.most:
            raise IndexError(f"part {at} of {self.most}")
        return Sealed(self.parts[self.own[at]] if at < len(self.own) else None)


def part_loader(parts: Sequence[Any], missing: Sequence[int], rank: int, world: int) -> DataLoader:
    """A loader that gives one rank its share of the missing parts, each part as one batch.

    The trainer must not add a sampler of its own (`use_distributed_sampler=False`): it would divide
    the share among the ranks a second time.
    """
    return DataLoader(
        PartList(parts, missing, rank, world), batch_size=None, collate_fn=lambda part: part
    )
