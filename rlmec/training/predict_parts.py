"""Fixed parts of the predict stages: what is computed at once, whatever the number of ranks.

A part's composition and seed depend on the data and the settings alone, so that a stage that was
cut off, or that runs on several ranks, writes the same bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch.utils.data import DataLoader, Dataset

from rlmec.data.row import Row
from rlmec.lm.draft_decoding import Rewrite, rewrite
from rlmec.lm.generation import Completion, Decoding, generate


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
    """Rows whose completion tokens are to be scored, and drafts to be scored and rewritten."""

    index: int
    rows: list[Row]
    drafts: list[Draft] = field(default_factory=list)
    max_completion_length: int = 0


def generate_part(
    network: Any, part: GenerationPart, end_ids: Sequence[int], pad_id: int
) -> list[Completion]:
    """Completions of a part's prompts, by its own decoding and seed."""
    return generate(
        network, part.prompts, part.decoding, end_ids=end_ids, pad_id=pad_id, seed=part.seed
    )


def rewrite_part(
    network: Any, part: ScoringPart, end_ids: Sequence[int], pad_id: int
) -> list[Rewrite]:
    """What becomes of a part's drafts, and their tokens' log-probs, from the same passes."""
    if not part.drafts:
        return []
    return rewrite(
        network,
        [draft.prompt for draft in part.drafts],
        [draft.ids for draft in part.drafts],
        part.max_completion_length,
        end_ids=end_ids,
        pad_id=pad_id,
    )


def part_seed(seed: int, stage: str, index: int) -> int:
    """The seed of one part: a function of the stage's seed, its name and the part's number."""
    return zlib.crc32(f"{seed}/{stage}/{index}".encode())


def cut(count: int, size: int) -> list[range]:
    """0..count-1 in runs of `size`, the last one shorter."""
    return [range(a, min(a + size, count)) for a in range(0, count, size)]


class Sealed:
    """Carries a part through Lightning untouched (it would copy every list of a plain batch)."""

    def __init__(self, part: Any) -> None:
        self.part = part


class PartList(Dataset):
    """This rank's share of the missing parts, filled up so that every rank has as many."""

    def __init__(self, parts: Sequence[Any], missing: Sequence[int], rank: int, world: int) -> None:
        mine = [parts[i] for i in missing[rank::world]]
        self.items = mine + [None] * (-(-len(missing) // world) - len(mine))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, at: int) -> Sealed:
        return Sealed(self.items[at])


def part_loader(parts: Sequence[Any], missing: Sequence[int], rank: int, world: int) -> DataLoader:
    """A loader that hands out whole parts (no batching, no sampler of Lightning's)."""
    return DataLoader(
        PartList(parts, missing, rank, world), batch_size=None, collate_fn=lambda part: part
    )
