"""Transformer layers compiled one by one.

In: a network. Out: nothing; the layers' forward passes are compiled while a context lasts. All
layers of a kind share one compiled graph, so that compiling takes seconds where that of a whole
network takes minutes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def compiled_layers(network: nn.Module) -> Iterator[None]:
    """Layers are compiled for rows of any length where gradients are computed, and as before when
    the context ends. Validation and decoding stay as they are.

    Raises ValueError for a network whose layers are not of transformers' kind.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers: list[Any] = [m for m in network.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise ValueError(f"model.compile: {type(network).__name__} has no layers to compile")

    for layer in layers:
        layer.forward = _compiled_for_training(layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _compiled_for_training(forward: Callable[..., Any]) -> Callable[..., Any]:
    compiled = torch.compile(forward, dynamic=True)

    def chosen(*args: Any, **kwargs: Any) -> Any:
        return (compiled if torch.is_grad_enabled() else forward)(*args, **kwargs)

    return chosen


def compiler_obstacle(on_gpu: bool) -> str | None:
    """Why nothing could be compiled on this machine, in words; None if nothing is missing."""
    usual, variable = ("gcc", "CC") if on_gpu else ("g++", "CXX")
    if shutil.which(os.environ.get(variable, usual)):
        return None
    return f"no compiler was found: install {usual}, or name yours in {variable}"
