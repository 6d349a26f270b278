"""Decoding with the library's own `generate`, as a user would call it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from rlmec.data.collate import pad_left

PAD = 0
TIE = 1e-5
"""Two logits that differ by no more are as good as each other."""


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


def greedy_error(
    network: Any,
    prompts: Sequence[Sequence[int]],
    theirs: list[list[int]],
    ours: list[list[int]],
    precision: str = "32-true",
) -> float:
    """Share of our greedy texts that differ from the library's and are wrong.

    At the first token that differs the network in double precision decides: ours is wrong where
    the library's token is the better one by more than TIE (of logits), since rounding alone may
    choose between two that are as good. In half precision every difference counts.
    """
    found = zip(prompts, theirs, ours, strict=True)
    differing = [(prompt, a, b) for prompt, a, b in found if a != b]
    if differing and greedy_limit(precision) is not None:
        exact = copy.deepcopy(network).double()
        differing = [texts for texts in differing if _worse(exact, *texts)]
    return len(differing) / len(ours)


def greedy_limit(precision: str) -> float | None:
    """The `greedy_error` that is allowed; None in half precision, where rounding decides."""
    return 0.0 if precision == "32-true" else None


@torch.no_grad()
def _worse(exact: Any, prompt: Sequence[int], theirs: list[int], ours: list[int]) -> bool:
    both = zip(theirs, ours, strict=False)
    at = next((i for i, (a, b) in enumerate(both) if a != b), None)
    if at is None:  # one of them ends too early
        return True
    ids = torch.tensor([[*prompt, *theirs[:at]]], device=exact.device)
    logits = exact(input_ids=ids).logits[0, -1]
    return bool(logits[theirs[at]] - logits[ours[at]] > TIE)


def spread(shape: dict[str, Any]) -> dict[str, Any]:
    """Changes of a shape that make greedy text vary (at usual random weights a network repeats one
    token, which flatters any look-up): weights drawn widely, logits with a deviation of about 3
    whatever the width, head and input table apart."""
    width = shape["hidden_size"] if "hidden_size" in shape else shape["n_embd"]
    return {"initializer_range": 3.2 / width**0.5, "tie_word_embeddings": False}
