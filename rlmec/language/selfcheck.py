"""Whether a network gives the same for rows that share prefixes as for separate ones: asked of it.

In: a network as it will be used. Out: None, or the reason why not, in words for the user. First
what is known (attention that takes no mask, active dropout), then a trial on one small pair, packed
and separate, measured against what a wrong mask would do.
"""

from __future__ import annotations

import torch
from torch import nn

from rlmec.batching import collate
from rlmec.language.attention import mask_obstacle
from rlmec.language.head import evaluating
from rlmec.language.logprobs import TokenLogprobs
from rlmec.packing import merge
from rlmec.row import Row

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
