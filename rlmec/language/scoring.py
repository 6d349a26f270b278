"""Log-probabilities of the completion tokens of many rows, in batches of like length."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rlmec.batching import Row, collate
from rlmec.language.logprobs import TokenLogprobs

TOKENS_PER_BATCH = 16384
"""Padded tokens of one scoring batch; changes rounding only."""


@torch.no_grad()
def score_rows(net: TokenLogprobs, rows: Sequence[Row], pad_id: int) -> list[list[float]]:
    """Log-probs (nats, float32) of each row's completion tokens, in the order of `rows`.

    The same forward as in training, without dropout; the module is put in eval mode and back.
    """
    device = next(net.parameters()).device
    was_training = net.training
    net.eval()
    out: list[list[float]] = [[] for _ in rows]
    for group in _groups([len(row.input_ids) for row in rows]):
        batch = collate([rows[i] for i in group], pad_id, 1.0, 1.0)
        mask = batch["completion_mask"]
        values = net(
            batch["input_ids"].to(device), batch["attention_mask"].to(device), mask.to(device)
        )
        pieces = values.cpu().split(mask.sum(1).tolist())
        for i, piece in zip(group, pieces, strict=True):
            out[i] = piece.tolist()
    net.train(was_training)
    return out


def _groups(lengths: list[int]) -> list[list[int]]:
    """Rows by falling length in runs whose padded size stays within the limit."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    groups: list[list[int]] = []
    for i in order:
        if not groups or lengths[groups[-1][0]] * (len(groups[-1]) + 1) > TOKENS_PER_BATCH:
            groups.append([])
        groups[-1].append(i)
    return groups
