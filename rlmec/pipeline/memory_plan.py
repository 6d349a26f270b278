"""What a run needs of a device's memory: said before weights load, and named where it ran out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

import torch

from rlmec.lm.kv_cache import BYTES_AT_ONCE, TOKENS_AT_ONCE
from rlmec.lm.memory_estimate import (
    GIB,
    RESERVE,
    FitUse,
    GenerateUse,
    ModelShape,
    Need,
    Weights,
    fit_need,
    generate_need,
    remedies,
)
from rlmec.lm.model_sizes import UnknownSizesError, model_shape, scratch_shape
from rlmec.runtime.display import say
from rlmec.settings.binding import ConfigurationError
from rlmec.settings.schema import (
    FitSettings,
    LoraSettings,
    RunSettings,
    TrainerSettings,
)

FIT_REMEDIES = (
    "lower trainer.max_tokens_per_micro_batch, set model.gradient_checkpointing=true, or train "
    "an adapter (model.lora={r: 16}, model.dtype=bfloat16)"
)
PREDICT_REMEDIES = (
    "lower the stage's part_size (sample.part_size, score.part_size, evaluate.part_size) or "
    "max_completion_length, or set model.dtype=bfloat16 with model.lora"
)


@contextmanager
def named_memory(title: str, remedies: str) -> Iterator[None]:
    """Turns a device's out-of-memory error into one that names the settings to lower."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        first = str(error).splitlines()[0] if str(error) else "no further message"
        raise ConfigurationError(f"{title}: out of memory ({first}); {remedies}") from error


@dataclass(frozen=True)
class PlannedStage:
    """A line of the plan: what a stage needs, and of a fit its tokens a step and steps."""

    name: str
    need: Need
    tokens: int | None = None
    steps: str = ""
    remedies: tuple[str, ...] = ()


def plan_memory(settings: RunSettings, world: int) -> None:
    """Prints what each stage will need of one device's memory, before weights load.

    Raises ConfigurationError with the mildest settings that would fit where a fit needs more than
    the device has (or than `trainer.memory_gib`); without a known limit nothing is refused.
    """
    memory = device_memory(settings.trainer)
    try:
        stages = needed(planned_stages(settings, world, memory), settings.stage)
    except UnknownSizesError as error:
        say(f"what the model needs of memory is not known: {error}")
        return
    say(plan_table(stages, memory))
    if memory is None:
        return
    for stage in stages:
        if stage.need.total > memory:
            advice = ", then ".join(stage.remedies) or "a larger device or a smaller model"
            raise ConfigurationError(
                f"{stage.name} needs about {stage.need.total / GIB:.1f} GiB on a device of "
                f"{memory / GIB:.1f} GiB; try {advice}"
            )


def needed(stages: list[PlannedStage], until: str) -> list[PlannedStage]:
    """Those of the planned stages that making `until` takes; all for what is made last."""
    names = [stage.name for stage in stages]
    until = "sample" if until == "teach" else until
    return stages[: names.index(until) + 1] if until in names else stages


def device_memory(trainer: TrainerSettings) -> float | None:
    """Bytes of one device: as set, else of the GPU that is used, None where that is not known."""
    if trainer.memory_gib is not None:
        return trainer.memory_gib * GIB
    if trainer.accelerator == "cpu" or not torch.cuda.is_available():
        return None
    return float(torch.cuda.get_device_properties(0).total_memory)


def planned_stages(
    settings: RunSettings, world: int, memory: float | None = None
) -> list[PlannedStage]:
    """What sampling, both fits and scoring need, in the order in which they are made."""
    model = settings.model
    if model.path is None:
        shape = scratch_shape(model.shape, model.vocabulary_size)
    else:
        shape = model_shape(model.path, model.revision)
    start, grm, policy = (
        _held(settings, lora) for lora in (model.lora, settings.grm.lora, model.lora)
    )
    out = [] if model.path else [_fit(settings, "warmup", shape, Weights(), world, memory)]
    return [
        *out,
        _generation("sample", settings, shape, start, settings.sample.num_generations),
        _fit(settings, "grm", shape, grm, world, memory),
        _generation("score", settings, shape, grm, 1),
        _fit(settings, "policy", shape, policy, world, memory),
    ]


def plan_table(stages: list[PlannedStage], memory: float | None) -> str:
    """The plan as text: GiB of one device by kind, a line a stage."""
    kinds = [f.name for f in fields(Need)]
    head = ["GiB a device", *kinds, "total", "tokens a step", "steps"]
    lines = [head]
    for stage in stages:
        parts = [f"{getattr(stage.need, kind) / GIB:.2f}" for kind in kinds]
        tokens = "" if stage.tokens is None else str(stage.tokens)
        lines.append([stage.name, *parts, f"{stage.need.total / GIB:.2f}", tokens, stage.steps])
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in lines)
    ]
    limit = "" if memory is None else f", of {memory / GIB:.1f}"
    return "\n".join(
        [*text, f"(an estimate; total with {RESERVE / GIB:.0f} GiB in reserve{limit})"]
    )


def _held(settings: RunSettings, lora: LoraSettings | None) -> Weights:
    model = settings.model
    if lora is None:
        return Weights(model.dtype, 0, quantization=model.quantization)
    return Weights(model.dtype, lora.r, lora.target_modules, model.quantization)


def _fit(
    settings: RunSettings,
    name: str,
    shape: ModelShape,
    held: Weights,
    world: int,
    memory: float | None,
) -> PlannedStage:
    node: FitSettings = getattr(settings, name)
    target = strategy_target(settings.trainer)
    micro = min(settings.trainer.max_tokens_per_micro_batch, node.tokens_per_step)
    use = FitUse(
        micro_batch=micro,
        longest=min(node.max_length, micro),
        mixed=node.precision.endswith("mixed"),
        checkpointing=settings.model.gradient_checkpointing,
        moments=2 if "Adam" in str(node.optimizer.get("_target_")) else 1,
        ranks=world,
        sharded=target.endswith(".FullyShardedStrategy") and world > 1,
        sharded_optimizer=target.endswith(".DeepSpeedStrategy") and world > 1,
    )
    need = fit_need(shape, held, use)
    steps = f"{node.steps}" if node.steps is not None else f"{node.epochs:g} epochs"
    advice = () if memory is None else tuple(remedies(shape, held, use, memory))
    return PlannedStage(name, need, node.tokens_per_step, steps, advice)


def strategy_target(trainer: TrainerSettings) -> str:
    """The dotted name of the strategy's class, or the word that names it."""
    node = trainer.strategy
    return str(node.get("_target_")) if isinstance(node, dict) else str(node)


def _generation(
    name: str, settings: RunSettings, shape: ModelShape, held: Weights, copies: int
) -> PlannedStage:
    node = getattr(settings, name)
    longest = settings.grm.max_length if name == "score" else settings.policy.max_length
    a_column = 8 * shape.layers * shape.kv_width  # as `language.slots` counts
    columns = min(TOKENS_AT_ONCE, max(BYTES_AT_ONCE // a_column, longest))
    rows = min(node.part_size * copies, max(columns // longest, 1))
    half = node.precision.endswith("mixed")
    use = GenerateUse(rows, rows * longest, half)
    return PlannedStage(name, generate_need(shape, held, use))
