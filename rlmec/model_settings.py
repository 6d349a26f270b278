"""The settings of a network: where it comes from, how its weights are held, adapters, precision."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

HALF_WEIGHTS = ("bf16-true", "16-true", "64-true", "transformer-engine")


def check_precision(precision: str) -> None:
    """Raises ValueError for a precision that rounds what must stay in float32."""
    if precision.startswith(HALF_WEIGHTS):
        raise ValueError(
            f"precision={precision} casts weights, rewards and old log-probs alike, so that small "
            f"updates are lost and the ratio is rounded: use precision=bf16-mixed (frozen weights "
            f"in half precision: model.dtype=bfloat16 with model.lora)"
        )


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters: rank `r`, scale `alpha` / r (with `rslora` alpha / sqrt(r)), `dropout` of
    their input, on the modules named by `target_modules` ("all-linear": all but the head)."""

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: list[str] | str = "all-linear"
    rslora: bool = False

    def __post_init__(self) -> None:
        if self.r < 1:
            raise ValueError(f"lora.r is {self.r}, at least 1 is needed")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"lora.dropout is {self.dropout}, 0 to below 1 is needed")


@dataclass(frozen=True)
class ModelSettings:
    """A causal language model: `path` names a Hugging Face directory (an adapter's too) or hub
    name; without it a model of `shape` (its `model_type` and configuration keys) starts from
    scratch, with a byte-level BPE tokenizer of at most `vocabulary_size` tokens and
    `digits_per_token` digits a token, trained on the task's train text (or `tokenizer`, a
    directory). With `lora` adapters are trained in float32, and the weights below them stay as they
    are, in `dtype` or quantized; without it all weights are trained, in float32."""

    path: str | None = None
    revision: str | None = None
    tokenizer: str | None = None
    shape: dict[str, Any] = field(default_factory=dict)
    vocabulary_size: int = 512
    digits_per_token: int = 1
    attention: str = "sdpa"
    gradient_checkpointing: bool = False
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    lora: LoraSettings | None = None
    quantization: Literal["nf4", "int8"] | None = None
    compile: bool = False
