"""Networks by shape at random weights, and how much arithmetic a token costs in them."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

PEAK_FLOPS = {  # dense bfloat16, from the makers' data sheets
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
}


class Vocabulary:
    """What `new_network` asks of a tokenizer: a size, 0 as padding and 1 as the end."""

    bos_token_id = None
    pad_token_id = 0
    eos_token_id = 1

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size


def build(
    shape: dict[str, Any], vocabulary_size: int, precision: str, device: torch.device, seed: int
) -> Any:
    """A network of `shape` with the project's own loader; `bf16-true` casts its weights."""
    from rlmec.lm.loading import new_network, quiet

    quiet()
    network = new_network(shape, Vocabulary(vocabulary_size), "sdpa", seed)
    # random text has no end: without this, generation would warn and stop as each side likes
    network.generation_config.eos_token_id = None
    network.generation_config.pad_token_id = Vocabulary.pad_token_id
    return network.to(device, torch.bfloat16 if precision == "bf16-true" else torch.float32)


def arithmetic(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """The context of a forward pass: bfloat16 where the precision is mixed."""
    if precision == "bf16-mixed":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def parameters(network: Any) -> tuple[int, int]:
    """(weights of the layers, of the head); the input table is looked up, not multiplied."""
    head = network.get_output_embeddings().weight
    tables = {id(head), id(network.get_input_embeddings().weight)}
    body = sum(p.numel() for p in network.parameters() if id(p) not in tables and p.ndim > 1)
    return body, head.numel()


def training_flops(network: Any, tokens: int, scored: int) -> float:
    """Multiplications and additions of a forward and backward pass: 6 a weight and token.

    `tokens` go through the layers, `scored` through the head. Attention itself is left out (at
    these lengths it is below 2 % of the layers).
    """
    body, head = parameters(network)
    return 6.0 * (body * tokens + head * scored)


def peak_flops(device: torch.device) -> float | None:
    """The GPU's dense bfloat16 peak, None where the table does not know it."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((value for known, value in PEAK_FLOPS.items() if known in name), None)
