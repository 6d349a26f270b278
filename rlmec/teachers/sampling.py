"""What the teachers share that sample from a network on this machine.

In: prompts as token ids, a network. Out: its completions, grouped by prompt, with their counts.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from rlmec.lm.generation import Completion, Decoding, generate
from rlmec.prompts import Codec
from rlmec.teachers.base import Proposals, WrongAttempt


def in_batches(
    attempts: Sequence[WrongAttempt],
    size: int,
    correct: Callable[[Sequence[WrongAttempt]], list[Proposals]],
    tick: Callable[[], None],
) -> list[Proposals]:
    """What `correct` proposes for `size` attempts at a time; `tick` is called once per attempt."""
    out: list[Proposals] = []
    for start in range(0, len(attempts), size):
        batch = attempts[start : start + size]
        out += correct(batch)
        for _ in batch:
            tick()
    return out


def sampled(
    network: Any, codec: Codec, prompts: list[list[int]], decoding: Decoding, seed: int
) -> list[list[Completion]]:
    """The `num_generations` completions of each prompt; none for no prompts.

    They are a function of the network, the decoding, `seed` and all prompts together.
    """
    if not prompts:
        return []
    completions = generate(
        network,
        prompts,
        decoding,
        end_ids=codec.end_ids,
        pad_id=codec.pad_id,
        seed=zlib.crc32(f"{seed}/{prompts}".encode()),
    )
    n = decoding.num_generations
    return [completions[at : at + n] for at in range(0, len(completions), n)]


def count(counts: Counter[str], completions: Sequence[Completion]) -> None:
    """Add completions to the counts `calls` and `output_tokens`."""
    counts["calls"] += len(completions)
    counts["output_tokens"] += sum(len(completion.ids) for completion in completions)
