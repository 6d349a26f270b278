"""Attention masks for rows that branch like a tree.

In: a network, and a batch of `data.collate`. Out: the mask and position arguments of the network's
forward pass.

Batches of flat rows get the 2-D mask, with which transformers takes its fast causal path. Trees get
an explicit mask for every pair of tokens. It contains the sliding window that the network's
configuration names, counted in positions. The mask of a tree must not be left out: from positions
that jump back, transformers would otherwise infer independent packed sequences.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

WINDOWED = "sliding_attention"
FULL = "full_attention"
OTHER_WINDOWS = ("window_size", "attention_window_size", "local_attention")
"""Configuration keys of windows that a network applies by itself, counted in places of the row and
not in positions."""


def attention_arguments(network: Any, batch: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Keyword arguments of the network or its decoder: the mask and, for trees, the positions.

    The mask of a tree is [B, 1, T, T]: boolean for SDPA, additive float for eager attention. It is
    a dict of such masks by layer type if the layers differ.
    """
    if "segments" not in batch:
        return {"attention_mask": batch["attention_mask"]}

    config = network.config.get_text_config()
    kinds = layer_kinds(config)
    window = window_of(config)
    positions = batch["position_ids"]  # [B, T]
    seen = visible(batch)  # [B, T, T]
    masks = {}
    for kind in kinds:
        mask = seen
        if kind == WINDOWED and window is not None:
            mask = seen & (positions[:, :, None] - positions[:, None, :] < window)
        masks[kind] = mask[:, None]  # [B, 1, T, T]

    # Eager attention adds its mask to the scores: a boolean one would be added as 0 and 1.
    if config._attn_implementation == "eager":
        masks = {kind: _additive(mask, network.dtype) for kind, mask in masks.items()}
    return {
        "attention_mask": masks if len(masks) > 1 else masks[kinds[0]],
        "position_ids": positions,
    }


def visible(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """bool [B, T, T], True where query t may see key u.

    That is where u is not after t and the segment of u is that of t or above it in the tree.
    Padding sees itself alone: softmax over a row of the mask without any key is NaN.
    """
    segments = batch["segments"]  # [B, T]
    ancestors = batch["ancestors"]  # [B, S, S]
    width = segments.shape[1]
    count = ancestors.shape[1]

    # First the ancestors of each query's segment, then of these the ones that keys lie in.
    of_query = ancestors.gather(1, segments[:, :, None].expand(-1, -1, count))  # [B, T, S]
    seen = of_query.gather(2, segments[:, None, :].expand(-1, width, -1))  # [B, T, T]
    causal = torch.ones(width, width, dtype=torch.bool, device=segments.device).tril_()
    itself = torch.eye(width, dtype=torch.bool, device=segments.device)
    return seen & causal | itself


def layer_kinds(config: Any) -> list[str]:
    """The kinds of attention among the network's layers, by transformers' names, sorted."""
    named = getattr(config, "layer_types", None)
    if named:
        return sorted(set(named))
    return [FULL if window_of(config) is None else WINDOWED]


def window_of(config: Any) -> int | None:
    """The sliding window in positions; None if the configuration has none or switches it off."""
    window = getattr(config, "sliding_window", None)
    return window if getattr(config, "use_sliding_window", True) else None


def _additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where the mask is True, the lowest number of `dtype` where it is False."""
    low = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return low.masked_fill_(~mask, torch.finfo(dtype).min)


def mask_obstacle(network: Any) -> str | None:
    """Why a mask made here does not reach every layer of this network; None if nothing is known
    against it. Only the configuration is read."""
    config = network.config.get_text_config()

    implementation = config._attn_implementation
    if implementation not in ("sdpa", "eager"):
        return f"{implementation} attention takes no mask of single pairs of tokens"
    windows = [name for name in OTHER_WINDOWS if getattr(config, name, None)]
    if windows:
        return f"it has a window of its own ({', '.join(windows)})"

    strange = [kind for kind in layer_kinds(config) if kind not in (FULL, WINDOWED)]
    if strange:
        return f"it has layers of {', '.join(strange)}"

    only_some = getattr(config, "max_window_layers", None)
    named = getattr(config, "layer_types", None)
    if only_some and not named and window_of(config) is not None:
        return "its configuration does not say which layers have the window"
    return None
