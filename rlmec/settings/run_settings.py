"""The settings of a run's surroundings: model, hardware, folders, saving, allowed modules.

The fields that conf/ shows have no default here: their defaults are in YAML.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class PruneSettings:
    """`stage=prune` removes artifacts not used for `keep_days` and left-over work not touched for
    `work_days`, where nothing else keeps them; with `dry_run` it only says what would go."""

    keep_days: float
    work_days: float
    dry_run: bool

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

    allow: list[str]


@dataclass(frozen=True)
class CallbackSettings:
    """How fits save; `extra` holds further Lightning callbacks by name, each with a `_target_`."""

    checkpoint_every_steps: int
    keep_checkpoints: int
    extra: dict[str, Any]


@dataclass(frozen=True)
class TrainerSettings:
    """Hardware, strategy and display; nothing here changes a result beyond rounding. `memory_gib`
    is the memory of one device, to plan for (default: that of the device found)."""

    accelerator: str
    devices: int | str
    num_nodes: int
    strategy: Any
    num_workers: int
    max_tokens_per_micro_batch: int
    accumulate: int | None
    log_every_n_steps: int
    progress_bar: bool
    profiler: str | None
    detect_anomaly: bool
    threads: int | None
    memory_gib: float | None


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

    r: int
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
    `digits_per_token` digits per token, trained on the task's train text (or `tokenizer`, a
    directory). With `lora` adapters are trained in float32, and the weights below them stay as they
    are, in `dtype` or quantized; without it all weights are trained, in float32."""

    path: str | None
    revision: str | None
    tokenizer: str | None
    shape: dict[str, Any]
    vocabulary_size: int
    digits_per_token: int
    attention: str
    gradient_checkpointing: bool
    dtype: Literal["float32", "bfloat16", "float16"]
    lora: LoraSettings | None
    quantization: Literal["nf4", "int8"] | None
    compile: bool
