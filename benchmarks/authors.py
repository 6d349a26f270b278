"""The baseline: the pattern of the authors' scripts, in this project's own code.

A pair has two full rows, left-padded in batches of four in their given order. The head computes
float32 logits at every position, including prompt and padding. One loss comes from the attempts,
another one from the corrections. Scoring takes one sequence at a time. The edit distance is a table
filled in Python.

Departure from the authors' scripts: sums are divided by the counts of the whole step instead of
each batch, so that both sides have the same loss and can be compared.
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
    """Add the gradients of a whole step to the network's parameters and return the loss."""
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
    """The policy term, summed over the attempts."""
    rows = [p.attempt.prompt_ids + p.attempt.completion_ids for p in pairs]
    logprobs = all_logprobs(network, rows)  # [B, T-1]
    rewards = _right_aligned([p.token_rewards for p in pairs], logprobs)
    old = _right_aligned([p.old_logprobs for p in pairs], logprobs)
    zeros = torch.zeros_like(rewards)
    tokens = TokenBatch(logprobs, old, rewards, zeros, rewards != 0)
    return rlmec_clipped(tokens, policy_coef=1.0, per_attempt_token=False).policy


def _imitation_sum(network: Any, pairs: Sequence[Pair]) -> torch.Tensor:
    """The weighted negative log-likelihood, summed over the corrections."""
    logprobs = all_logprobs(network, [p.attempt.prompt_ids + p.target_ids for p in pairs])
    weights = _right_aligned([p.edit_weights for p in pairs], logprobs)
    return -(weights * logprobs).sum()


def all_logprobs(network: Any, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return log-probs of every token but the first, float32 [B, T-1], padded on the left."""
    ids, attention = (x.to(network.device) for x in pad_left(rows, 0))  # [B, T] twice
    positions = (attention.cumsum(1) - 1).clamp(min=0)  # [B, T]
    logits = network(
        input_ids=ids, attention_mask=attention, position_ids=positions, use_cache=False
    ).logits.float()  # [B, T, V]
    every = logits[:, :-1].log_softmax(-1)  # [B, T-1, V]
    return every.gather(-1, ids[:, 1:, None])[..., 0]


def _right_aligned(values: Sequence[Any], like: torch.Tensor) -> torch.Tensor:
    """Values of the last tokens of each row, with 0 before them."""
    out = torch.zeros_like(like, dtype=torch.float32, requires_grad=False)
    for at, row in enumerate(values):
        out[at, out.shape[1] - len(row) :] = torch.as_tensor(row, device=like.device)
    return out


@torch.no_grad()
def score_one_by_one(
    network: Any, rows: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> list[list[float]]:
    """Return the log-probs of each (prompt, completion)'s completion, one forward pass each."""
    out = []
    for prompt, completion in rows:
        found = all_logprobs(network, [[*prompt, *completion]])[0]  # [T-1]
        out.append(found[len(prompt) - 1 :].tolist())
    return out


def table_weights(source: Sequence[int], target: Sequence[int]) -> tuple[int, list[float]]:
    """Return edit distance and imitation weights from a table that is filled cell by cell."""
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

    # Walk back from the last cell: tokens that both texts share weigh 0.5, new ones 1.
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
