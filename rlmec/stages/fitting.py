"""One fit: one Lightning epoch that is the whole stage, resumable at any optimizer step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from rlmec.callbacks import FiniteLoss, Progress, TrainingCurve, Validation
from rlmec.checkpointing import (
    AtomicCheckpointIO,
    BestWeights,
    RandomStates,
    ResumeCheckpoint,
    newest_loadable,
    remove_newer,
    saved_step,
    step_of,
)
from rlmec.configuration import build
from rlmec.datamodule import PlanSettings, SolutionPairDataModule
from rlmec.language.logprobs import TokenLogprobs
from rlmec.language.selfcheck import sharing_obstacle
from rlmec.modules.completion import CompletionModule
from rlmec.settings import FitSettings, TrainerSettings
from rlmec.stages.chain import Run
from rlmec.stages.diagnosing import CURVE

__all__ = ["fit", "plan_settings", "share_prefixes", "trainer_arguments"]


def plan_settings(fit_settings: FitSettings, trainer: TrainerSettings) -> PlanSettings:
    """The plan of a stage's rows: what shapes the result is the stage's, the rest the trainer's."""
    return PlanSettings(
        tokens_per_step=fit_settings.tokens_per_step,
        seed=fit_settings.seed,
        steps=fit_settings.steps,
        epochs=fit_settings.epochs,
        max_length=fit_settings.max_length,
        max_tokens_per_micro_batch=trainer.max_tokens_per_micro_batch,
        accumulate=trainer.accumulate,
        num_workers=trainer.num_workers,
    )


def trainer_arguments(run: Run, precision: str) -> dict[str, Any]:
    """Arguments of every Trainer: hardware from the trainer group, precision from the stage."""
    t = run.settings.trainer
    strategy = build(t.strategy) if isinstance(t.strategy, dict) else t.strategy
    if run.ranks.world > 1 and strategy == "auto":
        strategy = "ddp"
    return {
        "accelerator": t.accelerator,
        "devices": t.devices,
        "num_nodes": t.num_nodes,
        "strategy": strategy,
        "precision": precision,
        "use_distributed_sampler": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
    }


def seed_everything(seed: int, rank: int) -> None:
    """All generators from the stage's seed, dropout's different on each rank."""
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
    """Trains `module` on `data` and leaves it with the best weights where a score was offered, else
    with the last ones. Returns the history of validation. Goes on from the newest loadable
    checkpoint in `work`, or from `ckpt_path` where it is given for this stage.
    """
    folder, callbacks = work / "checkpoints", run.settings.callbacks
    best = validation.best if validation else None
    chosen = run.ranks.share(lambda: _resume_from(run, title, folder))
    parts: list[Callback | None] = [
        TrainingCurve(work / CURVE),
        RandomStates(),
        FiniteLoss(),  # before validation, which would offer broken weights as the best
        validation,
        Progress(title, data.plan.epoch_at, run.settings.trainer.progress_bar),
        best,
        *(build(node) for node in callbacks.extra.values()),
        ResumeCheckpoint(
            folder, callbacks.checkpoint_every_steps, callbacks.keep_checkpoints, best
        ),
    ]
    arguments = trainer_arguments(run, settings.precision) | {
        "logger": _loggers(run, title),
        "log_every_n_steps": run.settings.trainer.log_every_n_steps,
        "profiler": run.settings.trainer.profiler,
        "detect_anomaly": run.settings.trainer.detect_anomaly,
    }
    trainer = L.Trainer(
        **arguments,
        max_epochs=1,
        accumulate_grad_batches=data.plan.accumulate,
        gradient_clip_val=settings.gradient_clip,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        callbacks=[part for part in parts if part is not None],
        plugins=[AtomicCheckpointIO()],
        default_root_dir=work,
    )
    seed_everything(settings.seed, run.ranks.rank)
    trainer.fit(module, datamodule=data, ckpt_path=chosen)
    history = validation.history if validation else []
    _check_finished(title, trainer, data, validation)
    if best is not None and best.step is not None:
        state = torch.load(best.path(best.step), map_location="cpu", weights_only=True)
        module.load_state_dict(state["state_dict"])
        monitor = validation.monitor if validation else ""
        run.say(f"{title}: best {monitor} {best.score:.4f} at step {best.step}")
    return history


def share_prefixes(run: Run, title: str, network: Any, data: SolutionPairDataModule) -> None:
    """Lets rows that branch stay whole where the network gives the same for them as for separate
    ones, else has them taken apart, and says why. Rank 0 decides for all; to be called before
    `plan_for`.
    """
    found = run.ranks.share(lambda: sharing_obstacle(TokenLogprobs(network), training=True))
    data.shares_prefixes = found is None
    if found is not None:
        run.say(f"{title}: every sequence is a row of its own, for {found}")


def best_weights(work: Path) -> BestWeights:
    """Keeps a stage's best weights beside its resume checkpoints."""
    return BestWeights(work / "checkpoints")


def _check_finished(
    title: str, trainer: L.Trainer, data: SolutionPairDataModule, validation: Validation | None
) -> None:
    early = validation is not None and validation.stopped
    if trainer.global_step != data.plan.steps and not early:
        raise RuntimeError(
            f"{title}: the fit ended at step {trainer.global_step} of {data.plan.steps}"
        )


def _resume_from(run: Run, title: str, folder: Path) -> str | None:
    """On rank 0: the checkpoint to go on from, said aloud."""
    settings, stage = run.settings, title.split(" ")[0]
    mine = settings.stage == stage and title == stage
    if settings.ckpt_path is not None and mine:
        path = Path(settings.ckpt_path)
        if not path.is_file():
            raise FileNotFoundError(f"ckpt_path: {path} is no file")
        run.say(f"{title}: goes on from {path} (ckpt_path)")
        remove_newer(folder, saved_step(path))
        return str(path)
    folder.mkdir(parents=True, exist_ok=True)
    found = newest_loadable(folder, run.say)
    if found is None:
        if settings.resume == "required" and mine:
            raise FileNotFoundError(f"resume=required: {folder} holds no checkpoint of {title}")
        return None
    run.say(f"{title}: resumes from optimizer step {step_of(found)} ({found})")
    return str(found)


def _loggers(run: Run, title: str) -> Sequence[Any] | bool:
    nodes = run.settings.logger or {}
    built = [build(node, name=title.replace(" ", "_")) for node in nodes.values()]
    return built or False
