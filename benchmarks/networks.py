"""Networks of a given shape with random weights, and the arithmetic that a token costs in them."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

# Dense bfloat16 operations per second, from the makers' data sheets.
PEAK_FLOPS = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
}


class Vocabulary:
    """The part of a tokenizer that `new_network` reads: a size, padding id 0, and end id 1."""

    bos_token_id = None
    pad_token_id = 0
    eos_token_id = 1

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def get_vocab(self) -> dict[str, int]:
        return {str(i): i for i in range(self.size)}


def build(
    shape: dict[str, Any], vocabulary_size: int, precision: str, device: torch.device, seed: int
) -> Any:
    """Return a network of `shape` from this project's loader; `bf16-true` casts its weights."""
    from rlmec.lm.loading import new_network, quiet

    quiet()
    network = new_network(shape, Vocabulary(vocabulary_size), "sdpa", seed)

    # Random text has no end. With an end token, generation would warn, and each side would stop at
    # another place.
    network.generation_config.eos_token_id = None
    network.generation_config.pad_token_id = Vocabulary.pad_token_id
    return network.to(device, torch.bfloat16 if precision == "bf16-true" else torch.float32)


def arithmetic(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the context of a forward pass, which is bfloat16 if the precision is mixed."""
    if precision == "bf16-mixed":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def parameters(network: Any) -> tuple[int, int]:
    """Return the number of weights of the layers and of the head.

    The input table is in neither, because it is looked up instead of multiplied.
    """
    head = network.get_output_embeddings().weight
    tables = {id(head), id(network.get_input_embeddings().weight)}
    body = sum(p.numel() for p in network.parameters() if id(p) not in tables and p.ndim > 1)
    return body, head.numel()


def training_flops(network: Any, tokens: int, scored: int) -> float:
    """Return the operations of a forward and backward pass: 6 per weight and token.

    `tokens` go through the layers, `scored` through the head. Attention is left out; at these
    lengths it costs less than 2 % of the layers.
    """
    body, head = parameters(network)
    return 6.0 * (body * tokens + head * scored)


def peak_flops(device: torch.device) -> float | None:
    """Return the GPU's dense bfloat16 peak, None if it is unknown."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((value for known, value in PEAK_FLOPS.items() if known in name), None)
