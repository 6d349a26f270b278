"""A plain loop as a careful user would write it: two rows per pair, no library besides torch.

The strong form sorts the rows by length, pads on the right (so that no mask is needed), and
computes the logits of tokens with credit only. The usual form pads rows in their given order and
computes all logits, of which the loss takes those with credit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.batches import CLIPPED, PAD
from benchmarks.peers.base import OURS, Peer, Work
from benchmarks.peers.jobs import TrainingJob
from rlmec.method.objectives import TokenBatch

LEAST = 512
MAX_PADDING = 0.1
"""The strong form cuts off a batch of LEAST tokens where more than MAX_PADDING would be padding."""


@dataclass(frozen=True)
class PlainRow:
    """A text with the credit of its completion: rewards of an attempt, or imitation weights."""

    ids: list[int]
    start: int
    rewards: np.ndarray
    old_logprobs: np.ndarray
    weights: np.ndarray

    @property
    def last(self) -> int:
        """The number of ids before the last token with credit, which are all that it needs.

        0 if no token has credit.
        """
        (places,) = np.nonzero((self.rewards != 0) | (self.weights != 0))
        return self.start + int(places[-1]) if len(places) else 0


def plain_rows(job: TrainingJob) -> list[PlainRow]:
    """Return two rows per pair: the attempt with its rewards, the correction with its weights."""
    rows = []
    for pair in job.pairs:
        prompt = pair.attempt.prompt_ids
        attempt = [*prompt, *pair.attempt.completion_ids]
        none = np.zeros_like(pair.token_rewards)
        rows.append(
            PlainRow(attempt, len(prompt), pair.token_rewards, pair.old_logprobs, none),
        )
        target = [*prompt, *pair.target_ids]
        none = np.zeros_like(pair.edit_weights)
        rows.append(PlainRow(target, len(prompt), none, none, pair.edit_weights))
    return rows


def cut(lengths: Sequence[int], most: int, least: int, max_padding: float) -> list[list[int]]:
    """Return the numbers of consecutive rows per batch, of at most `most` padded tokens each.

    A batch of `least` tokens takes no row that raises its share of padding above `max_padding`.
    """
    batches: list[list[int]] = []
    for number, length in enumerate(lengths):
        if batches:
            together = [*(lengths[i] for i in batches[-1]), length]
            padded = len(together) * max(together)
            is_full = padded > most
            is_loose = padded > least and sum(together) < (1 - max_padding) * padded
            if not (is_full or is_loose):
                batches[-1].append(number)
                continue
        batches.append([number])
    return batches


class PlainLoop:
    """A step over rows in batches; `strong` is explained at the head of this file."""

    def __init__(self, job: TrainingJob, strong: bool) -> None:
        self.job = job
        self.strong = strong
        rows = plain_rows(job)
        self.rewarded = max(sum(int((row.rewards != 0).sum()) for row in rows), 1)
        self.weighted = max(sum(int((row.weights != 0).sum()) for row in rows), 1)
        if strong:
            rows = sorted((row for row in rows if row.last), key=self._length)
        least, max_padding = (LEAST, MAX_PADDING) if strong else (0, 1.0)
        lengths = [self._length(row) for row in rows]
        numbers = cut(lengths, job.micro_batch, least, max_padding)
        self.batches = [[rows[i] for i in some] for some in numbers]

    def _length(self, row: PlainRow) -> int:
        return row.last if self.strong else len(row.ids)

    @property
    def head(self) -> int:
        """The number of positions whose logits are computed in one step."""
        if self.strong:
            rows = [row for batch in self.batches for row in batch]
            return sum(int(((r.rewards != 0) | (r.weights != 0)).sum()) for r in rows)
        return sum(len(b) * max(map(self._length, b)) for b in self.batches)

    def step(self) -> float:
        """Add the gradients of the whole step and return its loss."""
        total = 0.0
        for batch in self.batches:
            with self.job.arithmetic():
                loss = self._loss(batch)
            loss.backward()
            total += float(loss.detach())
        return total

    def _loss(self, batch: Sequence[PlainRow]) -> torch.Tensor:
        width = max(map(self._length, batch))
        device = self.job.device
        ids = torch.full((len(batch), width), PAD)  # [B, T]
        chosen = torch.zeros(len(batch), width, dtype=torch.bool)  # [B, T] sources with credit
        targets = torch.zeros(len(batch), width, dtype=torch.int64)  # [B, T]
        credit = torch.zeros(3, len(batch), width)  # rewards, old log-probs, weights: [3, B, T]
        for at, row in enumerate(batch):
            count = self._length(row)
            ids[at, :count] = torch.tensor(row.ids[:count])
            targets[at, : len(row.ids) - 1] = torch.tensor(row.ids[1:])[:width]
            values = np.stack([row.rewards, row.old_logprobs, row.weights])  # [3, n]
            stop = min(row.start - 1 + values.shape[1], width)
            credit[:, at, row.start - 1 : stop] = torch.from_numpy(values)[
                :, : stop - row.start + 1
            ]
        chosen = (credit[0] != 0) | (credit[2] != 0)  # [B, T]

        ids, chosen, targets = ids.to(device), chosen.to(device), targets.to(device)
        logprobs = self._logprobs(ids, chosen, targets, [self._length(row) for row in batch])
        rewards, old, weights = credit.to(device)[:, chosen]  # [N] each
        tokens = TokenBatch(logprobs, old, rewards, weights, torch.ones_like(rewards).bool())
        sums = CLIPPED(tokens)
        return sums.policy / self.rewarded + sums.imitation_coef * sums.imitation / self.weighted

    def _logprobs(
        self,
        ids: torch.Tensor,
        chosen: torch.Tensor,
        targets: torch.Tensor,
        lengths: Sequence[int],
    ) -> torch.Tensor:
        """Log-probs of the chosen tokens, float32 [N]."""
        network: Any = self.job.network
        if self.strong:
            # Padding follows every token that counts, so the causal mask hides it already.
            states = network.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
            logits = network.get_output_embeddings()(states[chosen])  # [N, V]
            return -F.cross_entropy(logits.float(), targets[chosen], reduction="none")

        places = torch.arange(ids.shape[1], device=ids.device)  # [T]
        attention = (places < torch.tensor(lengths, device=ids.device)[:, None]).long()  # [B, T]
        found = network(input_ids=ids, attention_mask=attention, use_cache=False)
        logits = found.logits[chosen]  # [N, V] of [B, T, V]
        return -F.cross_entropy(logits.float(), targets[chosen], reduction="none")


def _prepare(job: TrainingJob, strong: bool) -> Work:
    loop = PlainLoop(job, strong)
    return Work(loop.step, loop.head)


PEERS = (
    Peer(
        "plain loop",
        "RLMEC; two rows per pair, sorted and trimmed, chosen tokens through the head",
        partial(_prepare, strong=True),
        equals=OURS,
        loss="rlmec",
    ),
    Peer(
        "plain loop, all logits",
        "RLMEC; two padded rows per pair in given order, all logits",
        partial(_prepare, strong=False),
        equals=OURS,
        loss="rlmec",
    ),
)
