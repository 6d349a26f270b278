"""Attention masks for rows that branch: what a network is given where positions jump.

In: a network and the tensors of `batching.collate`. Out: the arguments of its forward pass. Flat
batches get the 2-D mask, so that the library takes its fast causal path. Trees get an explicit mask
for every pair of tokens, with the sliding window of the network's own configuration in it, counted
in positions; it is never left out, for the library would otherwise guess independent sequences
from positions that jump.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

WINDOWED, FULL = "sliding_attention", "full_attention"
OTHER_WINDOWS = ("window_size", "attention_window_size", "local_attention")
"""Windows that a network applies by itself, counted in places of the row."""


def attention_arguments(network: Any, batch: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Keyword arguments for the network or its decoder: mask and, for trees, positions.

    A tree's mask is bool [B, 1, T, T] for SDPA and additive float for eager attention (which would
    add a boolean one as a number); a dict of them by layer type where layers differ.
    """
    if "segments" not in batch:
        return {"attention_mask": batch["attention_mask"]}
    config = network.config.get_text_config()
    seen, positions = visible(batch), batch["position_ids"]
    kinds, window = layer_kinds(config), window_of(config)
    masks = {}
    for kind in kinds:
        mask = seen
        if kind == WINDOWED and window is not None:
            mask = seen & (positions[:, :, None] - positions[:, None, :] < window)
        masks[kind] = mask[:, None]  # [B, 1, T, T]
    if config._attn_implementation == "eager":
        masks = {kind: _additive(mask, network.dtype) for kind, mask in masks.items()}
    return {
        "attention_mask": masks if len(masks) > 1 else masks[kinds[0]],
        "position_ids": positions,
    }


def visible(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """bool [B, T, T], True where query t may see key u: u is not behind t, and its segment is t's
    own or above it. Padding sees itself alone, so that no row of the mask is empty."""
    segments, ancestors = batch["segments"], batch["ancestors"]
    width = segments.shape[1]
    kinds = ancestors.shape[1]
    of_query = ancestors.gather(1, segments[:, :, None].expand(-1, -1, kinds))  # [B, T, S]
    seen = of_query.gather(2, segments[:, None, :].expand(-1, width, -1))  # [B, T, T]
    causal = torch.ones(width, width, dtype=torch.bool, device=segments.device).tril_()
    itself = torch.eye(width, dtype=torch.bool, device=segments.device)
    return seen & causal | itself


def layer_kinds(config: Any) -> list[str]:
    """The kinds of attention among the network's layers, by the library's names, sorted."""
    named = getattr(config, "layer_types", None)
    if named:
        return sorted(set(named))
    return [FULL if window_of(config) is None else WINDOWED]


def window_of(config: Any) -> int | None:
    """The sliding window in positions, None where the configuration has none or switches it off."""
    window = getattr(config, "sliding_window", None)
    return window if getattr(config, "use_sliding_window", True) else None


def _additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where True, the lowest number of the type where False."""
    low = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return low.masked_fill_(~mask, torch.finfo(dtype).min)


def mask_obstacle(network: Any) -> str | None:
    """Why no mask of ours reaches every layer of this network, None where nothing is known."""
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
    unnamed = getattr(config, "max_window_layers", None) and not getattr(
        config, "layer_types", None
    )
    if unnamed and window_of(config) is not None:
        return "its configuration does not say which layers have the window"
    return None
