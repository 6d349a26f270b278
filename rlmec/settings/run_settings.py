"""The settings of a run's surroundings: model, hardware, folders, saving, allowed modules.

The fields that conf/ shows have no default here: their defaults are in YAML.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from rlmec.settings.ranges import (
    Attention,
    Devices,
    Dtype,
    Kept,
    NonNegativeFloat,
    NonNegativeInt,
    PathText,
    PositiveFloat,
    PositiveInt,
    ShareBelowOne,
    VocabularySize,
)


@dataclass(frozen=True)
class PruneSettings:
    """`stage=prune` removes artifacts not used for `keep_days` and left-over work not touched for
    `work_days`, where nothing else keeps them; with `dry_run` it only says what would go."""

    keep_days: NonNegativeFloat
    work_days: NonNegativeFloat
    dry_run: bool


@dataclass(frozen=True)
class PathSettings:
    artifacts: PathText
    outputs: PathText


@dataclass(frozen=True)
class SecuritySettings:
    """Further module prefixes (ending in a dot) from which a `_target_` may come."""

    allow: list[str]


@dataclass(frozen=True)
class CallbackSettings:
    """How fits save; `extra` holds further Lightning callbacks by name, each with a `_target_`."""

    checkpoint_every_steps: PositiveInt
    keep_checkpoints: Kept
    extra: dict[str, Any]


@dataclass(frozen=True)
class TrainerSettings:
    """Hardware, strategy and display; nothing here changes a result beyond rounding. `memory_gib`
    is the memory of one device, to plan for (default: that of the device found)."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"]
    devices: Devices
    num_nodes: PositiveInt
    strategy: Any
    num_workers: NonNegativeInt
    max_tokens_per_micro_batch: PositiveInt
    accumulate: PositiveInt | None
    log_every_n_steps: PositiveInt
    progress_bar: bool
    profiler: Literal["simple", "advanced", "pytorch", "xla"] | None
    detect_anomaly: bool
    threads: PositiveInt | None
    memory_gib: PositiveFloat | None


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters: rank `r`, scale `alpha` / r (with `rslora` alpha / sqrt(r)), `dropout` of
    their input, on the modules named by `target_modules` ("all-linear": all but the head)."""

    r: PositiveInt
    alpha: PositiveFloat = 32.0
    dropout: ShareBelowOne = 0.0
    target_modules: list[str] | str = "all-linear"
    rslora: bool = False


@dataclass(frozen=True)
class ModelSettings:
    """A causal language model.

    `path` names a Hugging Face directory (an adapter's too) or hub name, `gguf_file` a GGUF file
    (`pkg://PACKAGE/FILE`: one in an installed package). Without both a model of `shape` (its
    `model_type` and configuration keys) starts from scratch, with a byte-level BPE tokenizer of at
    most `vocabulary_size` tokens and `digits_per_token` digits per token, trained on the task's
    train text (or `tokenizer`, a directory). With `lora` adapters are trained in float32, and the
    weights below them stay as they are, in `dtype` or quantized; without it all weights are
    trained, in float32. The stages take `max_completion_length` from here where they set none of
    their own.
    """

    path: PathText | None
    gguf_file: PathText | None
    revision: str | None
    tokenizer: PathText | None
    shape: dict[str, Any]
    vocabulary_size: VocabularySize
    digits_per_token: PositiveInt
    attention: Attention
    gradient_checkpointing: bool
    dtype: Dtype
    lora: LoraSettings | None
    quantization: Literal["nf4", "int8"] | None
    compile: bool
    max_completion_length: PositiveInt | None

    def __post_init__(self) -> None:
        if self.path is not None and self.gguf_file is not None:
            raise ValueError("path and gguf_file both name a model: give one of them")

    @property
    def is_finished(self) -> bool:
        """Whether the run starts from a finished model, not from random weights."""
        return self.path is not None or self.gguf_file is not None
