"""Decoding with the `generate` of transformers, as a user would call it, and its greedy texts."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from rlmec.data.collate import pad_left

PAD = 0
TIE = 1e-5
"""Two logits that differ by at most this much are equally good."""


@torch.no_grad()
def generate(
    network: Any,
    prompts: Sequence[Sequence[int]],
    limit: int,
    end_ids: Sequence[int] = (),
    **arguments: Any,
) -> list[list[int]]:
    """Return completions up to and including their end token; prompts are padded on the left."""
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
    """Return the share of our greedy texts that differ from the library's and are wrong.

    At the first different token, the network in double precision decides: our text is wrong if the
    logit of the library's token is larger by more than TIE. Rounding alone may choose between two
    equally good tokens. In half precision every difference counts.
    """
    found = zip(prompts, theirs, ours, strict=True)
    differing = [(prompt, a, b) for prompt, a, b in found if a != b]
    if differing and greedy_limit(precision) is not None:
        exact = copy.deepcopy(network).double()
        differing = [texts for texts in differing if _worse(exact, *texts)]
    return len(differing) / len(ours)


def greedy_limit(precision: str) -> float | None:
    """Return the allowed `greedy_error`; None in half precision, where rounding decides."""
    return 0.0 if precision == "32-true" else None


@torch.no_grad()
def _worse(exact: Any, prompt: Sequence[int], theirs: list[int], ours: list[int]) -> bool:
    """Whether our text is wrong where it first differs from the library's."""
    both = zip(theirs, ours, strict=False)
    at = next((i for i, (a, b) in enumerate(both) if a != b), None)
    if at is None:  # one of them ends too early
        return True

    ids = torch.tensor([[*prompt, *theirs[:at]]], device=exact.device)
    logits = exact(input_ids=ids).logits[0, -1]
    return bool(logits[theirs[at]] - logits[ours[at]] > TIE)


def spread(shape: dict[str, Any]) -> dict[str, Any]:
    """Return changes of a shape that make its greedy text vary.

    With usual random weights a network repeats one token, which flatters any look-up. These changes
    draw the weights from a wider distribution, so that logits have a standard deviation of about 3
    for every width, and separate the head from the input table.
    """
    width = shape["hidden_size"] if "hidden_size" in shape else shape["n_embd"]
    return {"initializer_range": 3.2 / width**0.5, "tie_word_embeddings": False}
