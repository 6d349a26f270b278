"""Sampling and greedy decoding with a key/value cache; finished rows leave the batch.

In: prompts as ids. Out: completions as ids with the log-probability that the network itself
(temperature 1, no truncation) gave to each token, and whether the length limit cut them. The prompt
of several samples is computed once. Every sample has random numbers of its own, so that it does not
matter which rows are computed together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from rlmec.data.collate import pad_left
from rlmec.lm.chunked_head import evaluating
from rlmec.lm.kv_cache import (
    Slots,
    batches,
    slots_obstacle,
    table_of,
)
from rlmec.runtime import signals

GATHERED = 4
"""With the library's own cache, finished rows leave once they are this part (1 / 4) of all."""


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

    A completion ends with any of `end_ids`. It is a function of the network, its prompt, the
    decoding and (seed, number of the prompt, number of the sample), up to rounding that differs
    between batches; a longer limit goes on where a shorter one cut. The same call gives the same on
    the same machine. The network is put in eval mode and back. RunStopped is raised between two
    tokens where a signal asks the run to stop.
    """
    n, limit = decoding.num_generations, decoding.max_completion_length
    out: list[Completion | None] = [None] * (n * len(prompts))
    kind = _SlotRows if slots_obstacle(network) is None else _LibraryRows
    with evaluating(network):
        if not prompts:
            raise ValueError("0 sequences to complete")
        for group in batches(network, [len(ids) + limit for ids in prompts], n):
            rows = kind(network, pad_id)
            numbers = [i * n + j for i in group for j in range(n)]
            first = rows.begin([prompts[i] for i in group], n)
            done = _decode(rows, first, decoding, end_ids, _draws(seed, group, decoding))
            for number, completion in zip(numbers, done, strict=True):
                out[number] = completion
    return [completion for completion in out if completion is not None]


class _Rows(Protocol):
    """Rows that are decoded together, one token a step."""

    def begin(self, prompts: Sequence[Sequence[int]], copies: int) -> torch.Tensor:
        """Logits [R, V] after every prompt, `copies` rows for each side by side."""
        ...

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """[R] -> [R, V]: the logits after one more token of every row."""
        ...

    def keep(self, going: torch.Tensor) -> torch.Tensor | None:
        """Drops the rows that are not `going` (bool [R]), or not yet (None); else which row now
        stands at each place."""
        ...


class _SlotRows:
    """Rows in slots: the gaps of finished rows are filled from the end, the rest stays in place."""

    def __init__(self, network: Any, pad_id: int) -> None:
        self.slots = Slots(network)

    def begin(self, prompts: Sequence[Sequence[int]], copies: int) -> torch.Tensor:
        ids, lengths = table_of(prompts)
        self.width = ids.shape[1]
        states = self.slots.begin(ids, lengths, np.arange(len(ids)), lengths - 1)  # [P, size]
        logits = self.slots.logits(states)  # [P, V]
        if copies > 1:
            self.slots.repeat(copies)
        ends = self.slots.tensor(lengths)  # [P]
        self.position = ends.repeat_interleave(copies)  # [R], of the next token
        return logits.repeat_interleave(copies, 0)

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        self.width += 1
        states = self.slots.feed(tokens[:, None], self.position, self.width)
        self.position = self.position + 1
        return self.slots.logits(states[:, 0])

    def keep(self, going: torch.Tensor) -> torch.Tensor:
        order = self.slots.keep(going)
        self.position = self.position[order]
        return order


class _LibraryRows:
    """Rows in the library's own cache, for networks that `Slots` cannot be used with."""

    def __init__(self, network: Any, pad_id: int) -> None:
        from transformers import DynamicCache

        self.network, self.pad_id = network, pad_id
        self.cache = DynamicCache(config=network.config)
        self.device = next(network.parameters()).device

    def begin(self, prompts: Sequence[Sequence[int]], copies: int) -> torch.Tensor:
        ids, self.attention = (x.to(self.device) for x in pad_left(prompts, self.pad_id))  # [P, T]
        logits = self._run(ids, (self.attention.cumsum(1) - 1).clamp(min=0))  # [P, V]
        if copies > 1:
            self.cache.batch_repeat_interleave(copies)
            self.attention = self.attention.repeat_interleave(copies, 0)
        self.position = self.attention.sum(1)  # [R]
        return logits.repeat_interleave(copies, 0)

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        ones = self.attention.new_ones(len(tokens), 1)
        self.attention = torch.cat([self.attention, ones], 1)
        self.position = self.position + 1
        return self._run(tokens[:, None], self.position[:, None] - 1)

    def keep(self, going: torch.Tensor) -> torch.Tensor | None:
        if int((~going).sum()) * GATHERED < len(going):
            return None
        order = going.nonzero()[:, 0]
        self.cache.batch_select_indices(order)
        self.attention, self.position = self.attention[order], self.position[order]
        return order

    def _run(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return self.network(
            input_ids=ids,
            attention_mask=self.attention,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]


def _decode(
    cache: _Rows,
    logits: torch.Tensor,
    decoding: Decoding,
    end_ids: Sequence[int],
    draws: torch.Tensor,
) -> list[Completion]:
    """Completions of rows whose first logits [R, V] are given, by `draws` [R, limit, 2]."""
    device, limit = logits.device, decoding.max_completion_length
    is_end = torch.zeros(logits.shape[1], dtype=torch.bool, device=device)  # [V]
    is_end[[i for i in end_ids if 0 <= i < logits.shape[1]]] = True
    rows = torch.arange(len(logits), device=device)  # the row at each place
    tokens = torch.zeros(len(rows), limit, dtype=torch.int64, device=device)  # [R, limit]
    logprobs = torch.zeros(len(rows), limit, device=device)  # [R, limit]
    lengths = torch.full((len(rows),), limit, device=device)  # [R]
    draws = draws.to(device)
    for step in range(limit):
        signals.check()
        token, logprob = _choose(logits.float(), decoding, draws[rows, step])  # [open] twice
        tokens[rows, step], logprobs[rows, step] = token, logprob
        ended = is_end[token] & (lengths[rows] == limit)
        lengths[rows[ended]] = step + 1
        going = lengths[rows] == limit
        if step + 1 == limit or not going.any():
            break
        if not going.all() and (order := cache.keep(going)) is not None:
            rows, token = rows[order], token[order]
        logits = cache.step(token)
    return _completions(tokens.cpu(), logprobs.cpu(), lengths.tolist(), end_ids)


def _draws(seed: int, numbers: Sequence[int], decoding: Decoding) -> torch.Tensor:
    """Two uniform numbers in [0, 1) for each token of each row: float32 [R, limit, 2].

    A row's numbers are those of (seed, number of its prompt, number of its sample).
    """
    n, shape = decoding.num_generations, (decoding.max_completion_length, 2)
    if decoding.temperature == 0:
        return torch.zeros(1, *shape).expand(len(numbers) * n, -1, -1)
    keys = [(seed, number, j) for number in numbers for j in range(n)]
    return torch.from_numpy(
        np.stack([np.random.default_rng(key).random(shape, dtype=np.float32) for key in keys])
    )


def _choose(
    logits: torch.Tensor, decoding: Decoding, draws: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The next token of every row and its untruncated log-probability: [R, V], [R, 2] -> [R], [R].

    A draw from all tokens stands where its token is of the nucleus; elsewhere a second one is made
    from the nucleus alone. That is a draw from the nucleus, with few rows to sort.
    """
    own = logits.log_softmax(-1)  # [R, V]
    if decoding.temperature == 0:
        token = own.argmax(-1)
    else:
        probabilities = (logits / decoding.temperature).softmax(-1)
        token = _drawn(probabilities, draws[:, 0])
        if decoding.top_p < 1:
            out = _mass_before(probabilities, token) >= decoding.top_p
            redrawn = out.nonzero()[:, 0]
            if len(redrawn):
                kept = _nucleus(probabilities[redrawn], decoding.top_p)
                token[redrawn] = _drawn(kept, draws[redrawn, 1])
    return token, own.gather(-1, token[:, None])[:, 0]


def _drawn(weights: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """The token in whose share of the weights [R, V] the draw in [0, 1) falls: [R]."""
    sums = weights.cumsum(-1)
    token = torch.searchsorted(sums, draws[:, None] * sums[:, -1:], right=True)[:, 0]
    return token.clamp(max=weights.shape[-1] - 1)


def _mass_before(probabilities: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    """The mass of the tokens ahead of `token` [R] by falling probability, 0 for the best: [R]."""
    own = probabilities.gather(-1, token[:, None])  # [R, 1]
    ahead = torch.where(probabilities > own, probabilities, 0.0).sum(-1)
    tied = probabilities == own
    tied &= torch.arange(probabilities.shape[-1], device=token.device) < token[:, None]
    return ahead + own[:, 0] * tied.sum(-1)


def _nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keeps the fewest most likely tokens whose mass reaches `top_p` (the best one always)."""
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
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
