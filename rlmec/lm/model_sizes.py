"""Sizes of a model from its configuration alone: no weights are read.

In: a directory (an adapter's too) or hub name, or the shape of a model from scratch. Out: the
`ModelShape` that planning works with, counted on a network without storage.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rlmec.lm.lora import adapter_at
from rlmec.lm.memory_estimate import ModelShape


class UnknownSizesError(ValueError):
    """A configuration that does not say how large its layers are."""


def model_shape(path: str | Path, revision: str | None = None) -> ModelShape:
    """The sizes of the model at `path`; of an adapter's directory, of the model below."""
    from transformers import AutoConfig

    place = adapter_at(path)
    if place is not None:
        return model_shape(place.base, place.revision)
    config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
    return _counted(config)


def scratch_shape(shape: dict[str, Any], vocabulary_size: int) -> ModelShape:
    """The sizes of a model of `model.shape` with a vocabulary of the given size."""
    from transformers import CONFIG_MAPPING

    keys = dict(shape)
    make: Any = CONFIG_MAPPING[keys.pop("model_type", "llama")]
    return _counted(make(**keys, vocab_size=vocabulary_size))


def _counted(config: Any) -> ModelShape:
    from transformers import AutoModelForCausalLM

    for name in ("num_attention_heads", "hidden_size", "num_hidden_layers"):
        if not hasattr(config.get_text_config(), name):
            raise UnknownSizesError(f"its configuration ({config.model_type}) has no {name}")
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)
    text, head = config.get_text_config(), network.get_output_embeddings()
    weights, inputs, widths = Counter[str](), Counter[str](), Counter[str]()
    for name, module in network.named_modules():
        is_conv = type(module).__name__ == "Conv1D"
        if module is head or not (isinstance(module, nn.Linear) or is_conv):
            continue
        rows, columns = module.weight.shape
        own = name.rpartition(".")[2]
        weights[own] += rows * columns
        inputs[own] += rows if is_conv else columns
        widths[own] += rows + columns
    heads, hidden = text.num_attention_heads, text.hidden_size
    size = getattr(text, "head_dim", None) or hidden // heads
    return ModelShape(
        parameters=sum(p.numel() for p in network.parameters()),
        layers=text.num_hidden_layers,
        hidden=hidden,
        intermediate=getattr(text, "intermediate_size", None)
        or getattr(text, "n_inner", None)
        or 4 * hidden,
        attention_width=heads * size,
        kv_width=(getattr(text, "num_key_value_heads", None) or heads) * size,
        vocabulary=text.vocab_size,
        weights=dict(weights),
        inputs=dict(inputs),
        widths=dict(widths),
    )
