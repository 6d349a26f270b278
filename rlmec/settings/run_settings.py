"""The settings of what a run works on and with: hardware, folders, saving, what may be imported. No
result hangs on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class PruneSettings:
    """`stage=prune` removes artifacts not used for `keep_days` and left-over work not touched for
    `work_days`, where nothing else keeps them; with `dry_run` it only says what would go."""

    keep_days: float = 14.0
    work_days: float = 7.0
    dry_run: bool = True

    def __post_init__(self) -> None:
        for name in ("keep_days", "work_days"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, at least 0 is needed")


@dataclass(frozen=True)
class PathSettings:
    artifacts: str
    outputs: str


@dataclass(frozen=True)
class SecuritySettings:
    """Further module prefixes (ending in a dot) from which a `_target_` may come."""

    allow: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class CallbackSettings:
    """Saving of fits; `extra` holds further Lightning callbacks by name, each a `_target_`."""

    checkpoint_every_steps: int = 50
    keep_checkpoints: int = 2
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainerSettings:
    """Hardware, strategy and display; nothing here changes a result beyond rounding. `memory_gib`
    is the memory of one device, to plan for (default: that of the device found)."""

    accelerator: str = "auto"
    devices: int | str = 1
    num_nodes: int = 1
    strategy: Any = "auto"
    num_workers: int = 0
    max_tokens_per_micro_batch: int = 16384
    accumulate: int | None = None
    log_every_n_steps: int = 10
    progress_bar: bool = True
    profiler: str | None = None
    detect_anomaly: bool = False
    threads: int | None = None
    memory_gib: float | None = None


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
