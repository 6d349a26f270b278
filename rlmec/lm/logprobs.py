"""Log-probabilities of chosen tokens, without the logits of all others.

In: the tensors of `batching.collate`, which say at which place each scored token is predicted. Out:
their float32 log-probabilities, in the batch's order. Hidden states are picked before the head, so
prompts, padding and tokens without credit never reach the vocabulary, and float32 logits of a whole
batch are never held (`head`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from rlmec.data.collate import collate
from rlmec.data.prefix_tree import merge
from rlmec.data.row import Row
from rlmec.data.step_plan import like_lengths
from rlmec.lm.chunked_head import (
    entropy,
    evaluating,
    head_entropy,
    head_form,
    head_nll,
)
from rlmec.lm.tree_attention import attention_arguments, mask_obstacle
from rlmec.runtime import signals


class TokenLogprobs(nn.Module):
    """A causal network whose forward gives the log-probabilities of a batch's scored tokens.

    `form` is what the network makes of its head's output, found by one trial at construction; None
    where that is more than a scale or a soft cap: then the network's own logits are used.
    `shares_prefixes` keeps the answer of `selfcheck` once it was asked.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.form = head_form(network)
        self.shares_prefixes: bool | None = None

    def forward(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Tensors of `batching.collate` -> float32 [N], nats."""
        states, targets = self._chosen(batch), batch["targets"]  # [N, D] or [N, V], [N]
        if self.form is None:
            return -F.cross_entropy(states.float(), targets, reduction="none")
        return -head_nll(self.network.get_output_embeddings(), states, targets, self.form)

    @torch.no_grad()
    def entropies(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Entropy of the distribution that each scored token is drawn from: float32 [N], nats."""
        states = self._chosen(batch)
        if self.form is None:
            return entropy(states)
        return head_entropy(self.network.get_output_embeddings(), states, self.form)

    def _chosen(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """At the scored tokens' sources the hidden states [N, D]; where the network has no `form`,
        its logits [N, V]."""
        arguments = {
            "input_ids": batch["input_ids"],
            "use_cache": False,
            **attention_arguments(self.network, batch),
        }
        if self.form is None:
            logits = self.network(**arguments).logits  # [B, T, V]
            return logits.flatten(0, 1)[batch["sources"]]
        hidden = self.network.get_decoder()(**arguments).last_hidden_state  # [B, T, D]
        return hidden.flatten(0, 1).index_select(0, batch["sources"])


TRUNK, TAILS = 18, (7, 5)
"""Tokens of the pair that is tried. Windows are read from the configuration, never from it."""


def sharing_obstacle(net: TokenLogprobs, *, training: bool) -> str | None:
    """Why rows of this network cannot share prefixes, None where they can.

    With `training` its dropout counts: two sequences of a row would share what is dropped. The
    trial is deterministic, draws no random number and leaves mode and weights as they are.
    """
    found = mask_obstacle(net.network)
    if found is None and training and has_dropout(net):
        found = "its dropout is active in training"
    return found or _trial(net)


def shares_prefixes(net: TokenLogprobs) -> bool:
    """Whether `net` can share prefixes without dropout, as in scoring; asked of it once."""
    if net.shares_prefixes is None:
        net.shares_prefixes = sharing_obstacle(net, training=False) is None
    return net.shares_prefixes


def has_dropout(net: nn.Module) -> bool:
    """Whether anything in it is dropped at random while it trains."""
    return any(isinstance(m, nn.Dropout) and m.p > 0 for m in net.modules()) or any(
        getattr(m, "attention_dropout", 0.0) for m in net.modules()
    )


@torch.no_grad()
def _trial(net: TokenLogprobs) -> str | None:
    """Log-probs of one pair packed, separate, and as one plain sequence in which the second branch
    sees the first: packed must stand far nearer to separate than that."""
    rows, plain = _pair(net.network.config.get_text_config().vocab_size)
    packed = merge("packed", rows, join=False)
    first = next(net.parameters())
    try:
        with evaluating(net), torch.autocast(first.device.type, enabled=False):
            separate, ours, wrong = (_logprobs(net, some) for some in (rows, [packed], [plain]))
    except (TypeError, ValueError, KeyError, RuntimeError, IndexError, AttributeError) as error:
        return f"it does not take the mask of a row that branches ({type(error).__name__}: {error})"
    off = float((ours - separate).abs().max())
    leak = float((wrong - separate[-len(wrong) :]).abs().max())
    limit = max(0.01 * leak, 2e-6) if first.dtype == torch.float32 else 0.1 * leak
    if off <= limit:
        return None
    return f"log-probs of one pair differ by {off:.1e} between packed and separate rows"


def _pair(vocabulary: int) -> tuple[list[Row], Row]:
    """Two rows with a common trunk; and trunk and both tails in one, the second tail scored."""
    ids = [(7 * i * i + 3 * i + 1) % vocabulary for i in range(TRUNK + sum(TAILS) + 1)]
    trunk, one = ids[:TRUNK], ids[TRUNK : TRUNK + TAILS[0]]
    other = ids[-TAILS[1] :]
    if other[0] == one[0]:
        other[0] = (one[0] + 1) % vocabulary
    rows = [Row.likelihood("one", trunk + one, 4), Row.likelihood("other", trunk + other, 4)]
    return rows, Row.likelihood("plain", trunk + one + other, TRUNK + TAILS[0] + 1)


def _logprobs(net: TokenLogprobs, rows: list[Row]) -> torch.Tensor:
    device = next(net.parameters()).device
    return net({k: v.to(device) for k, v in collate(rows, 0, 1.0, 1.0).items()}).cpu()


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
            signals.check()
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
