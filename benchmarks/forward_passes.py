"""Counted forward passes of a network, and a network that generates a given text."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rlmec.lm.kv_cache import cache_argument


@dataclass
class Passes:
    """How often the layers ran, and on how many columns (rows times tokens of each pass)."""

    calls: int = 0
    columns: int = 0


@contextlib.contextmanager
def counted(network: Any) -> Iterator[Passes]:
    """Count every pass through the network's layers within this context."""
    found = Passes()

    def count(_: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        ids = named.get("input_ids", arguments[0] if arguments else None)
        found.calls += 1
        found.columns += 0 if ids is None else ids.numel()

    handle = network.get_decoder().register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()


@contextlib.contextmanager
def told(network: Any, text: Sequence[int]) -> Iterator[None]:
    """Make greedy decoding of one row generate `text`, which includes the prompt.

    This serves to count the calls of the library's decoding on a chosen text. The network runs as
    always; then its logits are replaced by those of the next token of `text`. It works only for
    calls of `network(...)` itself.
    """
    starts: list[int] = []

    def before(_: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        cache = named.get(cache_argument(type(network)))
        starts.append(0 if cache is None else int(cache.get_seq_length()))

    def after(_: Any, arguments: Any, named: dict[str, Any], output: Any) -> Any:
        logits = output.logits  # [1, q, V], the last q of the tokens fed
        end = starts.pop() + named["input_ids"].shape[1]
        logits = torch.full_like(logits, -1e4)
        for place in range(logits.shape[1]):
            position = end - logits.shape[1] + place + 1
            logits[0, place, text[min(position, len(text) - 1)]] = 1e4
        output.logits = logits
        return output

    handles = [
        network.register_forward_pre_hook(before, with_kwargs=True),
        network.register_forward_hook(after, with_kwargs=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
