"""Sampling and greedy decoding with a key/value cache.

In: a causal network and prompts as token ids. Out: completions as token ids, the log-probability
that the network itself (temperature 1, no truncation) gave to each token, and whether the length
limit cut the completion.

A prompt with several samples is computed once, and finished rows leave the batch. Every sample has
random numbers of its own, so a sample does not depend on the rows that are computed with it (up to
rounding).
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
    cache_argument,
    slots_obstacle,
    table_of,
)
from rlmec.runtime import signals
from rlmec.runtime.display import within

GATHERED = 4
"""In the library's own cache, finished rows leave once they are 1 / GATHERED of all rows: leaving
copies the whole cache there."""


@dataclass(frozen=True)
class Decoding:
    """How to decode. A `temperature` of 0 is greedy decoding."""

    max_completion_length: int
    temperature: float = 0.0
    top_p: float = 1.0
    num_generations: int = 1


@dataclass(frozen=True)
class Completion:
    """Token ids, the end token included unless `clipped`, and the network's log-probs (nats)."""

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
    """`num_generations` completions for every prompt, one after another, in the prompts' order.

    A completion ends with any of `end_ids`. It is a function of the network, the prompt, the
    decoding, and (seed, number of the prompt, number of the sample), up to rounding that differs
    between batches. With a larger length limit it goes on where a smaller one cut it. The same call
    gives the same result on the same machine.

    The network is in eval mode meanwhile and then returns to the mode it was in. Raises RunStopped
    between two tokens when a signal asks the run to stop.
    """
    if not prompts:
        raise ValueError("0 sequences to complete")
    n = decoding.num_generations
    limit = decoding.max_completion_length
    kind = _SlotRows if slots_obstacle(network) is None else _LibraryRows

    completions: list[Completion | None] = [None] * (n * len(prompts))
    before = 0  # completions of the groups before
    with evaluating(network):
        for group in batches(network, [len(ids) + limit for ids in prompts], n):
            rows = kind(network, pad_id)
            first_logits = rows.begin([prompts[i] for i in group], n)  # [R, V]
            draws = _draws(seed, group, decoding)
            done = _decode(rows, first_logits, decoding, end_ids, draws, before, len(completions))
            before += len(done)

            numbers = [i * n + j for i in group for j in range(n)]
            for number, completion in zip(numbers, done, strict=True):
                completions[number] = completion
    return [completion for completion in completions if completion is not None]


# --- rows in a cache ---


class _Rows(Protocol):
    """Rows that are decoded together, one token of each per step."""

    def begin(self, prompts: Sequence[Sequence[int]], copies: int) -> torch.Tensor:
        """Logits [R, V] after the prompts, with `copies` adjacent rows for each prompt."""
        ...

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits [R, V] after one more token [R] of every row."""
        ...

    def keep(self, going: torch.Tensor) -> torch.Tensor | None:
        """Drops the rows that are not `going` (bool [R]). Returns which row is now at each place,
        or None if all rows stay for now."""
        ...


class _SlotRows:
    """Rows in `Slots`: rows from the end fill the gaps of finished rows, the others do not move."""

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
    """Rows in the library's own cache, padded on the left, where `Slots` cannot be used."""

    def __init__(self, network: Any, pad_id: int) -> None:
        from transformers import DynamicCache

        self.network, self.pad_id = network, pad_id
        self.cache = DynamicCache(config=network.config)
        self.device = next(network.parameters()).device

    def begin(self, prompts: Sequence[Sequence[int]], copies: int) -> torch.Tensor:
        ids, self.attention = (x.to(self.device) for x in pad_left(prompts, self.pad_id))  # [P, T]
        positions = (self.attention.cumsum(1) - 1).clamp(min=0)  # [P, T], padding at 0
        logits = self._run(ids, positions)  # [P, V]

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
            use_cache=True,
            logits_to_keep=1,
            **{cache_argument(type(self.network)): self.cache},
        ).logits[:, -1]


# --- decoding ---


def _decode(
    cache: _Rows,
    logits: torch.Tensor,
    decoding: Decoding,
    end_ids: Sequence[int],
    draws: torch.Tensor,
    before: int,
    total: int,
) -> list[Completion]:
    """Completions of the R rows whose first logits [R, V] are given, by `draws` [R, limit, 2].

    Progress is shown as if `before` of `total` completions had ended already.
    """
    device = logits.device
    limit = decoding.max_completion_length
    draws = draws.to(device)
    is_end = torch.zeros(logits.shape[1], dtype=torch.bool, device=device)  # [V]
    is_end[[i for i in end_ids if 0 <= i < logits.shape[1]]] = True

    rows = torch.arange(len(logits), device=device)  # [places], the row at each place of the cache
    tokens = torch.zeros(len(rows), limit, dtype=torch.int64, device=device)  # [R, limit]
    logprobs = torch.zeros(len(rows), limit, device=device)  # [R, limit]
    lengths = torch.full((len(rows),), limit, device=device)  # [R]

    for step in range(limit):
        signals.check()
        token, logprob = _choose(logits.float(), decoding, draws[rows, step])  # [places] each
        tokens[rows, step] = token
        logprobs[rows, step] = logprob

        # A row that has ended may stay in the cache for some steps; its first end token counts.
        ended = is_end[token] & (lengths[rows] == limit)
        lengths[rows[ended]] = step + 1
        going = lengths[rows] == limit
        left = int(going.sum())
        done = before + len(tokens) - left
        # Rows that go on count by their tokens, because for minutes none may end.
        share = (done + left * (step + 1) / limit) / total
        within(done, total, f"completions, token {step + 1}", share)
        if step + 1 == limit or not left:
            break

        if left < len(going):
            order = cache.keep(going)
            if order is not None:
                rows = rows[order]
                token = token[order]
        logits = cache.step(token)

    return _completions(tokens.cpu(), logprobs.cpu(), lengths.tolist(), end_ids)


def _completions(
    tokens: torch.Tensor, logprobs: torch.Tensor, lengths: list[int], end_ids: Sequence[int]
) -> list[Completion]:
    completions = []
    for row, values, length in zip(tokens.tolist(), logprobs.tolist(), lengths, strict=True):
        ids = row[:length]
        completions.append(Completion(ids, values[:length], clipped=ids[-1] not in end_ids))
    return completions


def _draws(seed: int, numbers: Sequence[int], decoding: Decoding) -> torch.Tensor:
    """Two uniform numbers in [0, 1) for each token of each row: float32 [R, limit, 2].

    A row has its own generator, seeded by (seed, number of its prompt, number of its sample), so
    its numbers do not depend on the rows next to it.
    """
    n = decoding.num_generations
    shape = (decoding.max_completion_length, 2)
    if decoding.temperature == 0:
        return torch.zeros(1, *shape).expand(len(numbers) * n, -1, -1)
    keys = [(seed, number, j) for number in numbers for j in range(n)]
    return torch.from_numpy(
        np.stack([np.random.default_rng(key).random(shape, dtype=np.float32) for key in keys])
    )


def _choose(
    logits: torch.Tensor, decoding: Decoding, draws: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The next token of every row, and its log-prob under the network itself.

    `logits` [R, V] and two `draws` per row [R, 2] give two [R].
    """
    own_logprobs = logits.log_softmax(-1)  # [R, V]
    if decoding.temperature == 0:
        token = own_logprobs.argmax(-1)
    else:
        probabilities = (logits / decoding.temperature).softmax(-1)
        token = _drawn(probabilities, draws[:, 0])

        # A first draw is from all tokens. It stays if it lies in the nucleus; otherwise a second
        # one is from the nucleus alone. Together that is a draw from the nucleus, but only the few
        # rows with a second draw must be sorted.
        if decoding.top_p < 1:
            outside = _mass_before(probabilities, token) >= decoding.top_p
            redrawn = outside.nonzero()[:, 0]
            if len(redrawn):
                nucleus = _nucleus(probabilities[redrawn], decoding.top_p)
                token[redrawn] = _drawn(nucleus, draws[redrawn, 1])

    return token, own_logprobs.gather(-1, token[:, None])[:, 0]


def _drawn(weights: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """The token [R] in whose share of the weights [R, V] the draw [R] in [0, 1) falls."""
    sums = weights.cumsum(-1)
    token = torch.searchsorted(sums, draws[:, None] * sums[:, -1:], right=True)[:, 0]
    return token.clamp(max=weights.shape[-1] - 1)  # rounding can put a draw after the last sum


def _mass_before(probabilities: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    """The mass [R] of the tokens that come before `token` [R] by falling probability.

    Of equally likely tokens the one with the lower id comes first, as in the stable sort of
    `_nucleus`.
    """
    own = probabilities.gather(-1, token[:, None])  # [R, 1]
    ahead = torch.where(probabilities > own, probabilities, 0.0).sum(-1)
    tied = probabilities == own
    tied &= torch.arange(probabilities.shape[-1], device=token.device) < token[:, None]
    return ahead + own[:, 0] * tied.sum(-1)


def _nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keeps the fewest most likely tokens whose mass reaches `top_p`, at least one: [R, V]."""
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    outside = ordered.cumsum(-1) - ordered >= top_p  # the mass before the token already suffices
    outside[..., 0] = False
    return torch.zeros_like(probabilities).scatter(-1, order, ordered.masked_fill(outside, 0.0))
