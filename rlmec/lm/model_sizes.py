"""The sizes of a model, read from its configuration alone.

In: a model directory, an adapter's directory, a hub name, or the shape of a new model. Out: the
`ModelShape` that `memory_estimate` computes with. The weights are counted on a network without
storage, and none are read.
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
    """The configuration does not say how large its layers are."""


def model_shape(path: str | Path, revision: str | None = None) -> ModelShape:
    """The sizes of the model at `path`; of an adapter's directory, those of its base model.

    Raises UnknownSizesError if the configuration does not tell them.
    """
    from transformers import AutoConfig

    place = adapter_at(path)
    if place is not None:
        return model_shape(place.base, place.revision)
    config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
    return _counted(config)


def scratch_shape(shape: dict[str, Any], vocabulary_size: int) -> ModelShape:
    """The sizes of a new model of `model.shape` with a vocabulary of the given size."""
    from transformers import CONFIG_MAPPING

    keys = dict(shape)
    make: Any = CONFIG_MAPPING[keys.pop("model_type", "llama")]
    return _counted(make(**keys, vocab_size=vocabulary_size))


def _counted(config: Any) -> ModelShape:
    from transformers import AutoModelForCausalLM

    text = config.get_text_config()
    for name in ("num_attention_heads", "hidden_size", "num_hidden_layers"):
        if not hasattr(text, name):
            raise UnknownSizesError(f"its configuration ({config.model_type}) has no {name}")

    with torch.device("meta"):  # tensors without storage
        network = AutoModelForCausalLM.from_config(config)
    weights, inputs, widths = _matrix_sizes(network)

    heads = text.num_attention_heads
    head_size = getattr(text, "head_dim", None) or text.hidden_size // heads
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    intermediate = getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None)
    return ModelShape(
        parameters=sum(p.numel() for p in network.parameters()),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=intermediate or 4 * text.hidden_size,
        heads=heads,
        attention_width=heads * head_size,
        kv_width=kv_heads * head_size,
        vocabulary=text.vocab_size,
        weights=weights,
        inputs=inputs,
        widths=widths,
    )


def _matrix_sizes(network: Any) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Weights, inputs, and inputs plus outputs of all matrices but the head, summed by the last
    part of their names."""
    head = network.get_output_embeddings()
    weights = Counter[str]()
    inputs = Counter[str]()
    widths = Counter[str]()
    for name, module in network.named_modules():
        is_conv = type(module).__name__ == "Conv1D"  # GPT-2's linear layer: a transposed matrix
        if module is head or not (isinstance(module, nn.Linear) or is_conv):
            continue
        rows, columns = module.weight.shape
        kind = name.rpartition(".")[2]
        weights[kind] += rows * columns
        inputs[kind] += rows if is_conv else columns
        widths[kind] += rows + columns
    return dict(weights), dict(inputs), dict(widths)
