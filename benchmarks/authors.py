"""The plain way to do the work, after the pattern of the authors' scripts and in our own words.

Two full rows a pair, left-padded in batches of four as they come; the head's logits of every
position, prompt and padding included, as float32; one loss from the attempts and another from the
corrections. Scoring takes one sequence at a time. The edit distance is a table filled in Python.

One thing is not theirs: sums are divided by the counts of the whole step, not of each batch, so
that both sides have the same loss and can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rlmec.data.collate import pad_left
from rlmec.method.objectives import TokenBatch, rlmec_clipped
from rlmec.records import Pair

BATCH = 4


def training_step(network: Any, pairs: Sequence[Pair], arithmetic: Any) -> float:
    """Gradients of a whole step into the network's parameters; returns the loss."""
    rewarded = max(sum(int((p.token_rewards != 0).sum()) for p in pairs), 1)
    weighted = max(sum(len(p.edit_weights) for p in pairs), 1)
    total = 0.0
    for start in range(0, len(pairs), BATCH):
        batch = pairs[start : start + BATCH]
        with arithmetic():
            policy = _policy_sum(network, batch) / rewarded
            imitation = _imitation_sum(network, batch) / weighted
        loss = policy + imitation
        loss.backward()
        total += float(loss.detach())
    return total


def _policy_sum(network: Any, pairs: Sequence[Pair]) -> torch.Tensor:
    """The reinforcement term over the attempts."""
    rows = [p.attempt.prompt_ids + p.attempt.completion_ids for p in pairs]
    logprobs = all_logprobs(network, rows)  # [B, T-1]
    rewards = _right_aligned([p.token_rewards for p in pairs], logprobs)
    old = _right_aligned([p.old_logprobs for p in pairs], logprobs)
    zeros = torch.zeros_like(rewards)
    return rlmec_clipped(TokenBatch(logprobs, old, rewards, zeros, rewards != 0)).policy


def _imitation_sum(network: Any, pairs: Sequence[Pair]) -> torch.Tensor:
    """The weighted likelihood of the corrections."""
    logprobs = all_logprobs(network, [p.attempt.prompt_ids + p.target_ids for p in pairs])
    weights = _right_aligned([p.edit_weights for p in pairs], logprobs)
    return -(weights * logprobs).sum()


def all_logprobs(network: Any, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Log-probs of every token but the first, float32 [B, T-1], padded on the left."""
    ids, attention = (x.to(network.device) for x in pad_left(rows, 0))  # [B, T] twice
    positions = (attention.cumsum(1) - 1).clamp(min=0)  # [B, T]
    logits = network(
        input_ids=ids, attention_mask=attention, position_ids=positions, use_cache=False
    ).logits.float()  # [B, T, V]
    every = logits[:, :-1].log_softmax(-1)  # [B, T-1, V]
    return every.gather(-1, ids[:, 1:, None])[..., 0]


def _right_aligned(values: Sequence[Any], like: torch.Tensor) -> torch.Tensor:
    """Values of the last tokens of each row, 0 before them."""
    out = torch.zeros_like(like, dtype=torch.float32, requires_grad=False)
    for at, row in enumerate(values):
        out[at, out.shape[1] - len(row) :] = torch.as_tensor(row, device=like.device)
    return out


@torch.no_grad()
def score_one_by_one(
    network: Any, rows: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> list[list[float]]:
    """Log-probs of the completion of each (prompt, completion), one forward pass each."""
    out = []
    for prompt, completion in rows:
        found = all_logprobs(network, [[*prompt, *completion]])[0]  # [T-1]
        out.append(found[len(prompt) - 1 :].tolist())
    return out


def table_weights(source: Sequence[int], target: Sequence[int]) -> tuple[int, list[float]]:
    """Edit distance and imitation weights from a table filled cell by cell, walked back."""
    rows, columns = len(source) + 1, len(target) + 1
    table = [[0] * columns for _ in range(rows)]
    for i in range(rows):
        table[i][0] = i
    for j in range(columns):
        table[0][j] = j
    for i in range(1, rows):
        for j in range(1, columns):
            change = 0 if source[i - 1] == target[j - 1] else 1
            table[i][j] = min(
                table[i - 1][j - 1] + change, table[i - 1][j] + 1, table[i][j - 1] + 1
            )
    weights = [1.0] * len(target)
    i, j = rows - 1, columns - 1
    while i and j:
        same = source[i - 1] == target[j - 1]
        if same and table[i][j] == table[i - 1][j - 1]:
            weights[j - 1] = 0.5
            i, j = i - 1, j - 1
        elif table[i][j] == table[i - 1][j - 1] + 1:
            i, j = i - 1, j - 1
        elif table[i][j] == table[i - 1][j] + 1:
            i -= 1
        else:
            j -= 1
    return table[-1][-1], weights
