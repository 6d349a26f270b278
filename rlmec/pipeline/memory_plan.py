"""The memory that a run needs on each device.

In: the settings, the sizes of the model. Out: a table that is printed before weights are loaded,
and an error that names the settings to lower, either from the estimate or when memory has run out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace

import torch

from rlmec.data.step_plan import PASS_SHARE
from rlmec.lm.kv_cache import BYTES_AT_ONCE, TOKENS_AT_ONCE
from rlmec.lm.logprobs import COMPOSED_UP_TO
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
    trained_weights,
)
from rlmec.lm.model_sizes import UnknownSizesError, model_shape, scratch_shape
from rlmec.pipeline.memory_use import process_bytes
from rlmec.runtime.display import say
from rlmec.settings.binding import ConfigurationError
from rlmec.settings.ranges import is_mixed
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
class PromptLengths:
    """Tokens of the longest prompt of the policy, of the longest prompt of the GRM without an
    attempt, and of the longest reference solution."""

    policy: int
    rewrite: int
    reference: int


@dataclass(frozen=True)
class PlannedStage:
    """One line of the plan: what a stage needs; for a fit also tokens per step and steps, and the
    bytes of a checkpoint and of the trained weights on disk."""

    name: str
    need: Need
    tokens: int | None = None
    steps: str = ""
    remedies: tuple[str, ...] = ()
    checkpoint: float = 0.0
    model: float = 0.0


def plan_memory(
    settings: RunSettings,
    world: int,
    made: Collection[str],
    prompts: PromptLengths | None = None,
) -> list[PlannedStage]:
    """Prints how much memory each of the stages `made` will need on one device, and returns the
    plan.

    Rows are as long as the longest `prompts` and completions make them, or `max_length` tokens if
    that is less or `prompts` are not known. The plan is empty if the sizes of the model are not
    known. Raises ConfigurationError if a stage needs more than the device has (or than
    `trainer.memory_gib`), with the mildest settings that would fit. Without a known limit nothing
    is refused.
    """
    memory = device_memory(settings.trainer)
    try:
        planned = planned_stages(settings, world, memory, prompts)
    except UnknownSizesError as error:
        say(f"how much memory the model needs is not known: {error}")
        return []

    stages = [stage for stage in planned if stage.name in made]
    say(plan_table(stages, memory))
    for stage in stages:
        if memory is not None and stage.need.total > memory:
            advice = ", then ".join(stage.remedies) or "a larger device or a smaller model"
            raise ConfigurationError(
                f"{stage.name} needs about {stage.need.total / GIB:.1f} GiB on a device of "
                f"{memory / GIB:.1f} GiB; try {advice}"
            )
    return stages


def device_memory(trainer: TrainerSettings) -> float | None:
    """Bytes of one device: as set, else those of the GPU in use; None if neither is known."""
    if trainer.memory_gib is not None:
        return trainer.memory_gib * GIB
    if trainer.accelerator == "cpu" or not torch.cuda.is_available():
        return None
    return float(torch.cuda.get_device_properties(0).total_memory)


def planned_stages(
    settings: RunSettings,
    world: int,
    memory: float | None = None,
    prompts: PromptLengths | None = None,
) -> list[PlannedStage]:
    """What the warm-up, sampling, both trainings and scoring need, in the order of the chain."""
    model = settings.model
    if model.path is None:
        shape = scratch_shape(model.shape, model.vocabulary_size)
    else:
        shape = model_shape(model.path, model.revision)

    policy = _held(settings, model.lora)
    grm = _held(settings, settings.grm.lora)
    longest = longest_rows(settings, prompts)

    def fit(name: str, held: Weights) -> PlannedStage:
        return _fit(settings, name, shape, held, longest[name], world, memory)

    def generation(name: str, held: Weights, rows: int) -> PlannedStage:
        return _generation(name, settings, shape, held, rows, longest[name])

    # A part of `sample` counts problems, one of `score` attempts; few problems fill neither.
    sample = settings.sample
    sampled = sample.part_size * sample.num_generations
    scored = settings.score.part_size
    if sample.max_problems is not None:
        attempts = sample.max_problems * sample.num_generations
        sampled = min(sampled, attempts)
        scored = min(scored, attempts) if sample.path is None else scored

    chain = [
        generation("sample", policy, sampled),
        fit("grm", grm),
        generation("score", grm, scored),
        fit("policy", policy),
    ]
    if settings.has_warmup:
        chain.insert(0, fit("warmup", Weights() if model.path is None else policy))

    own = _process_bytes(settings.trainer)
    return [replace(stage, need=replace(stage.need, process=own)) for stage in chain]


def longest_rows(settings: RunSettings, prompts: PromptLengths | None) -> dict[str, int]:
    """Tokens of the longest row that each stage can have, by the stage's name.

    The policy learns from an attempt and its correction in one row. The GRM's prompt shows an
    attempt, and a rewrite follows. Imported attempts, and a warm-up on other problems than those of
    `prompts`, may have rows of any length up to `max_length`.
    """
    most = {
        "warmup": settings.warmup.max_length,
        "sample": settings.policy.max_length,
        "grm": settings.grm.max_length,
        "score": settings.grm.max_length,
        "policy": settings.policy.max_length,
    }
    if prompts is None:
        return most

    found: dict[str, int] = {}
    if settings.warmup.task is None:
        found["warmup"] = prompts.policy + prompts.reference
    if settings.sample.path is None:
        attempt = settings.sample.completion_length
        found["sample"] = prompts.policy + attempt
        found["policy"] = prompts.policy + 2 * attempt
        found["grm"] = prompts.rewrite + 2 * attempt
        found["score"] = prompts.rewrite + attempt + settings.score.completion_length
    return {name: min(limit, found.get(name, limit)) for name, limit in most.items()}


def _process_bytes(trainer: TrainerSettings) -> float:
    """Bytes of this process, which has no weights yet, if the device is the CPU; else 0."""
    return float(process_bytes("VmRSS") or 0) if _on_cpu(trainer) else 0.0


def _on_cpu(trainer: TrainerSettings) -> bool:
    """Whether the plan is one for a CPU.

    A plan for `trainer.memory_gib` is one for a GPU, unless the accelerator is the CPU.
    """
    elsewhere = trainer.memory_gib is not None or torch.cuda.is_available()
    return trainer.accelerator == "cpu" or not elsewhere


def plan_table(stages: list[PlannedStage], memory: float | None) -> str:
    """The plan as text: GiB of one device by kind of use, one line per stage."""
    kinds = [f.name for f in fields(Need)]
    head = ["GiB per device", *kinds, "total", "tokens per step", "steps"]
    lines = [head]
    for stage in stages:
        parts = [f"{getattr(stage.need, kind) / GIB:.2f}" for kind in kinds]
        tokens = "" if stage.tokens is None else str(stage.tokens)
        lines.append([stage.name, *parts, f"{stage.need.total / GIB:.2f}", tokens, stage.steps])

    # Names are aligned to the left, figures to the right.
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
    """How the weights are held in memory: whole, or frozen under an adapter."""
    model = settings.model
    if lora is None:
        return Weights(model.dtype, 0, quantization=model.quantization)
    return Weights(model.dtype, lora.r, lora.target_modules, model.quantization)


def _fit(
    settings: RunSettings,
    name: str,
    shape: ModelShape,
    held: Weights,
    longest: int,
    world: int,
    memory: float | None,
) -> PlannedStage:
    """The plan's line of a fit with rows of up to `longest` tokens."""
    node: FitSettings = getattr(settings, name)
    target = strategy_target(settings.trainer)

    # A micro-batch never holds more than a whole step, with padding up to what a pass more costs.
    limit = settings.trainer.max_tokens_per_micro_batch
    micro = min(limit, int(node.tokens_per_step + PASS_SHARE * limit))
    composed = _on_cpu(settings.trainer) and settings.model.attention == "sdpa"
    use = FitUse(
        micro_batch=micro,
        longest=min(longest, micro),
        mixed=is_mixed(node.precision),
        composed=COMPOSED_UP_TO if composed and is_mixed(node.precision) else 0,
        checkpointing=settings.model.gradient_checkpointing,
        moments=2 if "Adam" in str(node.optimizer.get("_target_")) else 1,
        ranks=world,
        sharded=target.endswith(".FullyShardedStrategy") and world > 1,
        sharded_optimizer=target.endswith(".DeepSpeedStrategy") and world > 1,
        validates=node.val_problems > 0,
    )

    need = fit_need(shape, held, use)
    steps = f"{node.steps}" if node.steps is not None else f"{node.epochs:g} epochs"
    advice = () if memory is None else tuple(remedies(shape, held, use, memory, name))
    model = 4.0 * trained_weights(shape, held)
    checkpoint = (1 + use.moments) * model
    return PlannedStage(name, need, node.tokens_per_step, steps, advice, checkpoint, model)


def strategy_target(trainer: TrainerSettings) -> str:
    """The dotted name of the strategy's class, or the word that names it."""
    node = trainer.strategy
    return str(node.get("_target_")) if isinstance(node, dict) else str(node)


def _generation(
    name: str, settings: RunSettings, shape: ModelShape, held: Weights, rows: int, longest: int
) -> PlannedStage:
    """The plan's line of a stage that generates or scores parts of `rows` rows of up to `longest`
    tokens, for the batches that it will form."""
    node = getattr(settings, name)

    # The cache bounds the rows that are decoded together, counted as in lm.kv_cache: the bytes of
    # one position over all layers, in float32.
    a_column = 8 * shape.layers * shape.kv_width
    columns = min(TOKENS_AT_ONCE, max(BYTES_AT_ONCE // a_column, longest))
    rows = min(rows, max(columns // longest, 1))
    use = GenerateUse(rows, rows * longest, is_mixed(node.precision))
    return PlannedStage(name, generate_need(shape, held, use))
