"""Log-probabilities of the scored tokens of many rows, in batches of like length.

In: rows. Out: a list of values a row, in the rows' order. Neighbours with a common beginning (the
samples of one problem) are computed as one tree where that is less work and the network allows it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from rlmec import stopping
from rlmec.batching import Row, collate, like_lengths
from rlmec.language.head import evaluating
from rlmec.language.logprobs import TokenLogprobs
from rlmec.language.selfcheck import shares_prefixes
from rlmec.packing import merge

TOKENS_PER_BATCH, IN_CACHE = 16384, 6144
"""Padded tokens of one scoring batch; on a processor less, so that they stay in its cache."""
MOST_PADDING, LEAST_BATCH = 0.1, 512
"""A batch of at least LEAST_BATCH tokens takes no row that would make so much of it padding."""


@torch.no_grad()
def score_rows(net: TokenLogprobs, rows: Sequence[Row], pad_id: int) -> list[list[float]]:
    """Log-probs (nats, float32) of each row's scored tokens, in the order of `rows`.

    The same forward as in training, without dropout; the module is put in eval mode and back.
    Which rows are computed together changes rounding only.
    """
    device = next(net.parameters()).device
    limit = IN_CACHE if device.type == "cpu" else TOKENS_PER_BATCH
    merged, counts = _merged(net, rows, limit)
    out: list[list[float]] = [[] for _ in merged]
    lengths = [len(row.input_ids) for row in merged]
    with evaluating(net):
        for group in like_lengths(lengths, limit, MOST_PADDING, LEAST_BATCH):
            stopping.check()
            batch = collate([merged[i] for i in group], pad_id, 1.0, 1.0)
            values = net({name: value.to(device) for name, value in batch.items()})
            pieces = values.cpu().split([merged[i].sources.size for i in group])
            for i, piece in zip(group, pieces, strict=True):
                out[i] = piece.tolist()
    values = [value for piece in out for value in piece]
    ends = np.cumsum(counts, dtype=np.int64).tolist()
    return [values[end - count : end] for end, count in zip(ends, counts, strict=True)]


def _merged(net: TokenLogprobs, rows: Sequence[Row], limit: int) -> tuple[list[Row], list[int]]:
    """Rows, neighbours as trees where worth it, and how many tokens each of `rows` scores: the
    merged rows score the same tokens in the same order."""
    counts = [row.sources.size for row in rows]
    width = getattr(net.network.config.get_text_config(), "hidden_size", 0)
    groups = _worth_sharing(rows, width, limit)
    if len(groups) == len(rows) or not shares_prefixes(net):
        return list(rows), counts
    return [
        rows[group[0]]
        if len(group) == 1
        else merge(rows[group[0]].id, [rows[i] for i in group], join=False)
        for group in groups
    ], counts


def _worth_sharing(rows: Sequence[Row], width: int, limit: int) -> list[list[int]]:
    """Runs of neighbours to compute as one: a row joins the run before it where that is less work.

    The work of T tokens in one row is counted as T (6 D + T), D the network's width: matrices of
    about 12 D^2 weights a layer, and attention over all T, which a tree's mask does not skip.
    """
    groups: list[list[int]] = []
    tokens = shared = 0  # of the last run: tokens of the tree, its common beginning
    for i, row in enumerate(rows):
        own = len(row.input_ids)
        if groups and row.is_flat and rows[groups[-1][-1]].is_flat:
            common = min(shared, _common(rows[groups[-1][0]].input_ids, row.input_ids))
            together = tokens + own - common
            saved = _work(tokens, width) + _work(own, width) - _work(together, width)
            if common and saved > 0 and together <= limit:
                groups[-1].append(i)
                tokens, shared = together, common
                continue
        groups.append([i])
        tokens, shared = own, own
    return groups


def _work(tokens: int, width: int) -> int:
    return tokens * (6 * width + tokens)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning of two sequences."""
    least = min(len(one), len(other))
    differ = np.asarray(one[:least]) != np.asarray(other[:least])
    return int(differ.argmax()) if differ.any() else least
