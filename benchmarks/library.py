"""Decoding with the library's own `generate`, as a user would call it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rlmec.batching import pad_left

PAD = 0


@torch.no_grad()
def generate(
    network: Any,
    prompts: Sequence[Sequence[int]],
    limit: int,
    end_ids: Sequence[int] = (),
    **arguments: Any,
) -> list[list[int]]:
    """Completions up to and with their end token, prompts padded on the left."""
    ids, attention = (x.to(network.device) for x in pad_left(prompts, PAD))  # [B, T] twice
    arguments = {"do_sample": False, **arguments}
    if end_ids:
        arguments["eos_token_id"] = list(end_ids)
    found = network.generate(
        ids, attention_mask=attention, max_new_tokens=limit, pad_token_id=PAD, **arguments
    )
    return [_cut(row, set(end_ids)) for row in found[:, ids.shape[1] :].tolist()]


def _cut(row: list[int], ends: set[int]) -> list[int]:
    at = next((i for i, token in enumerate(row) if token in ends), len(row) - 1)
    return row[: at + 1]


SPREAD = {"initializer_range": 0.2, "tie_word_embeddings": False}
"""Changes of a shape that make greedy text vary (at usual random weights a network repeats one
token, which flatters any look-up): weights drawn widely, head and input table apart."""
