"""Sampling and greedy decoding with a key/value cache; finished rows leave the batch.

In: prompts as ids. Out: completions as ids with the log-probability that the network itself
(temperature 1, no truncation) gave to each token, and whether the length limit cut them. The prompt
of several samples is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rlmec.batching import pad_left


@dataclass(frozen=True)
class Decoding:
    """How to decode; `temperature` 0 is greedy."""

    max_completion_length: int
    temperature: float = 0.0
    top_p: float = 1.0
    num_generations: int = 1


@dataclass(frozen=True)
class Completion:
    """Ids with their end token (unless `clipped`), and the network's own log-probs (nats)."""

    ids: list[int]
    logprobs: list[float]
    clipped: bool


@torch.no_grad()
def generate(
    network: Any,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    *,
    end_ids: Sequence[int],
    pad_id: int,
    seed: int = 0,
) -> list[Completion]:
    """Completions of every prompt, `num_generations` in a row for each, in the prompts' order.

    A completion ends with any of `end_ids`. The same prompts, settings and seed give the same
    completions on the same machine; the network is put in eval mode and back.
    """
    was_training = network.training
    network.eval()
    try:
        return _decode(network, prompts, decoding, end_ids, pad_id, seed)
    finally:
        network.train(was_training)


def _decode(
    network: Any,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    end_ids: Sequence[int],
    pad_id: int,
    seed: int,
) -> list[Completion]:
    from transformers import DynamicCache

    device = next(network.parameters()).device
    generator = torch.Generator(device=device).manual_seed(seed)
    ends = torch.tensor(list(end_ids), device=device)  # [E]
    n, limit = decoding.num_generations, decoding.max_completion_length
    ids, attention = (x.to(device) for x in pad_left(prompts, pad_id))  # [P, T] twice
    positions = (attention.cumsum(1) - 1).clamp(min=0)  # [P, T]
    cache = DynamicCache(config=network.config)
    logits = network(
        input_ids=ids,
        attention_mask=attention,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]  # [P, V]
    if n > 1:
        cache.batch_repeat_interleave(n)
        logits, attention = logits.repeat_interleave(n, 0), attention.repeat_interleave(n, 0)
    position = attention.sum(1)  # [R], the next token's position
    rows = torch.arange(len(logits), device=device)  # rows still open
    tokens = torch.full((len(rows), limit), pad_id, device=device)  # [R, limit]
    logprobs = torch.zeros(len(rows), limit, device=device)  # [R, limit]
    lengths = torch.full((len(rows),), limit, device=device)
    for step in range(limit):
        token, logprob = _choose(logits.float(), decoding, generator)  # [open] twice
        tokens[rows, step], logprobs[rows, step] = token, logprob
        going = ~torch.isin(token, ends)
        lengths[rows[~going]] = step + 1
        if not going.any() or step + 1 == limit:
            break
        if not going.all():
            keep = going.nonzero()[:, 0]
            cache.batch_select_indices(keep)
            rows, token = rows[keep], token[keep]
            attention, position = attention[keep], position[keep]
        attention = torch.cat([attention, attention.new_ones(len(rows), 1)], 1)
        logits = network(
            input_ids=token[:, None],
            attention_mask=attention,
            position_ids=position[:, None],
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]  # [open, V]
        position = position + 1
    return _completions(tokens.cpu(), logprobs.cpu(), lengths.tolist(), end_ids)


def _choose(
    logits: torch.Tensor, decoding: Decoding, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """The next token of every row and its untruncated log-probability: [R, V] -> [R], [R]."""
    own = logits.log_softmax(-1)
    if decoding.temperature == 0:
        token = own.argmax(-1)
    else:
        probabilities = (logits / decoding.temperature).softmax(-1)
        if decoding.top_p < 1:
            probabilities = _nucleus(probabilities, decoding.top_p)
        token = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
    return token, own.gather(-1, token[:, None])[:, 0]


def _nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keeps the fewest most likely tokens whose mass reaches `top_p` (the best one always)."""
    ordered, order = probabilities.sort(-1, descending=True)
    outside = ordered.cumsum(-1) - ordered >= top_p  # mass before the token already suffices
    outside[..., 0] = False
    return torch.zeros_like(probabilities).scatter(-1, order, ordered.masked_fill(outside, 0.0))


def _completions(
    tokens: torch.Tensor, logprobs: torch.Tensor, lengths: list[int], end_ids: Sequence[int]
) -> list[Completion]:
    out = []
    for row, values, length in zip(tokens.tolist(), logprobs.tolist(), lengths, strict=True):
        ids = row[:length]
        out.append(Completion(ids, values[:length], clipped=ids[-1] not in end_ids))
    return out
