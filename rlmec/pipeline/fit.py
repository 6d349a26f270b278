"""One fit: a Lightning epoch that is the whole stage, resumable at any optimizer step.

In: a LightningModule, a planned DataModule, a validation. Out: the module with its best weights,
and the history of its validations.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.strategies import DeepSpeedStrategy

from rlmec.data.datamodule import PlanSettings, SolutionPairDataModule
from rlmec.lm.compiled import compiled_layers
from rlmec.lm.logprobs import TokenScorer, sharing_obstacle
from rlmec.pipeline import models
from rlmec.pipeline.chain import CURVE, Run
from rlmec.pipeline.memory_plan import FIT_REMEDIES, named_memory
from rlmec.pipeline.resume import resume_from
from rlmec.prompts import Codec
from rlmec.runtime.ranks import lone_group
from rlmec.settings.binding import build
from rlmec.settings.schema import FitSettings, TrainerSettings
from rlmec.training.callbacks import (
    FiniteLoss,
    Progress,
    StopRequests,
    TrainingCurve,
    keep_signals,
)
from rlmec.training.checkpoints import (
    AtomicCheckpointIO,
    BestWeights,
    RandomStates,
    ResumeCheckpoint,
)
from rlmec.training.fsdp import FullyShardedStrategy
from rlmec.training.module import CompletionModule
from rlmec.training.policy_module import PolicyModule
from rlmec.training.validation import Validation


def plan_settings(
    fit_settings: FitSettings, trainer: TrainerSettings, context: int | None
) -> PlanSettings:
    """How a stage's rows are planned.

    What shapes the result comes from the stage's settings, the rest from the trainer's. No row may
    be longer than the model's `context` (None if the model does not say).
    """
    longest = fit_settings.max_length
    return PlanSettings(
        tokens_per_step=fit_settings.tokens_per_step,
        seed=fit_settings.seed,
        steps=fit_settings.steps,
        epochs=fit_settings.epochs,
        max_length=longest if context is None else min(longest, context),
        max_tokens_per_micro_batch=trainer.max_tokens_per_micro_batch,
        accumulate=trainer.accumulate,
        num_workers=trainer.num_workers,
    )


def trainer_arguments(run: Run, precision: str) -> dict[str, Any]:
    """Arguments of every Trainer: hardware from the trainer group, precision from the stage.

    The strategy keeps a whole replica per rank, as every predict pass needs: ranks whose texts end
    at different lengths cannot share sharded weights.
    """
    t = run.settings.trainer
    return {
        "accelerator": t.accelerator,
        "devices": t.devices,
        "num_nodes": t.num_nodes,
        "strategy": "ddp" if run.ranks.world > 1 else "auto",
        "precision": precision,
        "use_distributed_sampler": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
    }


def fit_strategy(run: Run) -> Any:
    """The strategy of a fit, from the trainer group."""
    strategy = run.settings.trainer.strategy
    if isinstance(strategy, dict):
        return build(strategy)
    return "ddp" if run.ranks.world > 1 and strategy == "auto" else strategy


def check_strategy(
    title: str,
    strategy: Any,
    data: SolutionPairDataModule,
    validation: Validation | None,
) -> None:
    """Raises ValueError for what a strategy cannot do.

    DeepSpeed cannot validate by generation, takes one micro-batch per step, because it divides by
    their number itself, and no stage 3. A strategy whose weights could not be written is refused.
    """
    name = strategy if isinstance(strategy, str) else type(strategy).__name__
    if name == "auto" or name.startswith(("ddp", "DDP", "SingleDevice")):
        return
    if isinstance(strategy, FullyShardedStrategy):
        return
    if not isinstance(strategy, DeepSpeedStrategy):
        raise ValueError(f"{title}: trainer.strategy {name} is not supported: use trainer=fsdp2")
    if validation is not None and validation.prompts:
        raise ValueError(
            f"{title}: {name} cannot validate by generation: set its val_problems=0 (the last "
            f"weights are kept), or trainer=ddp or fsdp2"
        )
    if data.plan.accumulate > 1:
        raise ValueError(
            f"{title}: {data.plan.accumulate} micro-batches per step under DeepSpeed are not "
            f"supported: lower tokens_per_step, raise trainer.max_tokens_per_micro_batch, or use "
            f"trainer=fsdp2"
        )
    if strategy.zero_stage_3:
        raise ValueError(f"{title}: DeepSpeed stage 3 is not supported: use trainer=fsdp2")


def seed_everything(seed: int, rank: int) -> None:
    """Seeds all generators from the stage's seed; that of dropout differs on each rank."""
    L.seed_everything(seed, verbose=False)
    torch.manual_seed(seed * 1_000_003 + rank)


def fit(
    run: Run,
    title: str,
    settings: FitSettings,
    work: Path,
    module: CompletionModule,
    data: SolutionPairDataModule,
    validation: Validation | None,
) -> list[dict[str, float]]:
    """Trains `module` on `data` and returns the history of its validations.

    The module is left with its best weights if a validation gave a score, else with its last ones.
    The fit continues from the newest loadable checkpoint in `work`, or from `ckpt_path` if it is
    given for this stage.
    """
    folder = work / "checkpoints"
    strategy = fit_strategy(run)
    check_strategy(title, strategy, data, validation)
    best = validation.best if validation else None

    chosen = run.ranks.share(lambda: resume_from(run, title, folder, strategy, data))
    logs = run.logs.open(title, work, data)  # the chain closes them with the stage's figures
    trainer = keep_signals(
        L.Trainer(
            **trainer_arguments(run, settings.precision) | _fit_arguments(run, strategy, logs),
            max_epochs=1,
            accumulate_grad_batches=data.plan.accumulate,
            gradient_clip_val=settings.gradient_clip,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            callbacks=_fit_callbacks(run, title, data, validation, folder, strategy),
            default_root_dir=work,
        )
    )

    compiled = compiled_layers if run.settings.model.compile else nullcontext
    seed_everything(settings.seed, run.ranks.rank)
    with lone_group(run.ranks.world), named_memory(f"{title} (fit)", FIT_REMEDIES):
        with compiled(module.network):
            trainer.fit(module, datamodule=data, ckpt_path=chosen, weights_only=True)
        module.gather()
    _check_finished(title, trainer, data, validation)

    if best is not None and best.step is not None:
        state = torch.load(best.path(best.step), map_location="cpu", weights_only=True)
        module.load_trained(state["state_dict"])
        monitor = validation.monitor if validation else ""
        run.log(f"{title}: best {monitor} {best.score:.4f} at step {best.step}")
    return validation.history if validation else []


def kept_validation(history: list[dict[str, float]], monitor: str) -> dict[str, float] | None:
    """The line of a fit's history whose weights are kept, by the figure named `monitor`.

    It is the first of the best ones after an update, as `BestWeights` has it; None if no line after
    an update has the figure.
    """
    scored = [line for line in history if line["step"] and monitor in line]
    return max(scored, key=lambda line: line[monitor], default=None)


def _fit_arguments(run: Run, strategy: Any, logs: list[Logger]) -> dict[str, Any]:
    trainer = run.settings.trainer
    deepspeed = isinstance(strategy, DeepSpeedStrategy)
    return {
        "strategy": strategy,
        "enable_checkpointing": not deepspeed,
        "logger": logs or False,
        "log_every_n_steps": trainer.log_every_n_steps,
        "profiler": trainer.profiler,
        "detect_anomaly": trainer.detect_anomaly,
        "plugins": [] if deepspeed else [AtomicCheckpointIO()],
    }


def _fit_callbacks(
    run: Run,
    title: str,
    data: SolutionPairDataModule,
    validation: Validation | None,
    folder: Path,
    strategy: Any,
) -> list[Callback]:
    best = validation.best if validation else None
    settings = run.settings.callbacks
    deepspeed = isinstance(strategy, DeepSpeedStrategy)
    stops = StopRequests(title, saves=not deepspeed)
    parts: list[Callback | None] = [
        TrainingCurve(folder.parent / CURVE),
        RandomStates(),
        FiniteLoss(),  # before validation, which would offer broken weights as the best
        Progress(title, data.plan.epoch_at, run.settings.trainer.progress_bar),
        validation,  # after the bar is open, because validation shows its progress there
        best,
        *(build(node) for node in settings.extra.values()),
        stops,
        None
        if deepspeed
        else ResumeCheckpoint(
            folder, settings.checkpoint_every_steps, settings.keep_checkpoints, best, stops
        ),
    ]
    return [part for part in parts if part is not None]


def can_share_prefixes(run: Run, title: str, network: Any) -> bool:
    """Whether rows that branch may stay whole: the network gives the same for them as for separate
    rows. Where it does not, the reason is said. Rank 0 decides for all ranks."""
    obstacle = run.ranks.share(lambda: sharing_obstacle(TokenScorer(network), training=True))
    if obstacle is not None:
        run.say(f"{title}: every sequence is a row of its own, because {obstacle}")
    return obstacle is None


def new_policy_module(
    network: Any,
    codec: Codec,
    settings: FitSettings,
    data: SolutionPairDataModule,
    objective: Callable[..., Any],
    ratio_tolerance: float | None = None,
    schedule: tuple[int, int] = (1, 1),
) -> PolicyModule:
    """The LightningModule of a fit of the policy, with the optimizer of its settings."""
    return PolicyModule(
        network,
        pad_id=codec.pad_id,
        end_ids=codec.end_ids,
        objective=objective,
        optimizer=build(settings.optimizer),
        scheduler=build(settings.scheduler),
        steps=data.plan.steps,
        warmup_share=settings.warmup_share,
        ratio_tolerance=ratio_tolerance,
        schedule=schedule,
    )


def save_model(
    run: Run, name: str, module: CompletionModule, tokenizer: Any, codec: Codec, work: Path
) -> None:
    """Writes the network of the stage `name` into its work folder, with the prompts that it was
    trained with. Rank 0 writes for all ranks."""
    origin = models.origin_of(run.settings, codec, name)
    run.ranks.share(lambda: models.save(module, tokenizer, work / "model", origin))


def best_weights(work: Path) -> BestWeights:
    """The keeper of a stage's best weights, next to its resume checkpoints."""
    return BestWeights(work / "checkpoints")


def _check_finished(
    title: str, trainer: L.Trainer, data: SolutionPairDataModule, validation: Validation | None
) -> None:
    early = validation is not None and validation.stopped
    if trainer.global_step != data.plan.steps and not early:
        raise RuntimeError(
            f"{title}: the fit ended at step {trainer.global_step} of {data.plan.steps}"
        )
