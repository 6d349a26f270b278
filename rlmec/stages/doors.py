"""Opens a run: threads, ranks, the stage that was asked for, the closing words."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rlmec.binding import ConfigurationError
from rlmec.language.loading import quiet
from rlmec.launch import Ranks
from rlmec.records import require_same_tokenizer
from rlmec.settings import RunSettings
from rlmec.stages import models
from rlmec.stages.chain import Run, Stage, make
from rlmec.stages.improving import EvaluateStage, JudgedModel, PolicyStage
from rlmec.stages.reporting import ReportStage
from rlmec.stages.rewarding import GrmStage, ScoreStage
from rlmec.stages.sampling import SampleStage, TeachStage, WarmupStage

DOORS: dict[str, Callable[[Run], Stage]] = {
    "warmup": WarmupStage,
    "sample": SampleStage,
    "teach": TeachStage,
    "grm": GrmStage,
    "score": ScoreStage,
    "policy": PolicyStage,
    "evaluate": lambda run: EvaluateStage(run, JudgedModel(run, PolicyStage(run))),
    "report": ReportStage,
}
_QUIET = (
    r".*does not have many workers.*",
    r".*The number of training batches .* is smaller than the logging interval.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*your dataloader is not resumable.*",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
    r".*GPU available but not used.*",
    r".*Experiment logs directory .* exists.*",
    r".*You have overridden .* in `LightningDataModule`.*",
)


def train(settings: RunSettings, ranks: Ranks, run_dir: Path, overrides: list[str]) -> float | None:
    """Makes the stage that was asked for and everything it needs; returns the optimized metric."""
    if settings.stage not in DOORS:
        raise ConfigurationError(f"stage: {settings.stage!r} is none of {', '.join(DOORS)}")
    if settings.stage == "warmup" and settings.model.path is not None:
        raise ConfigurationError(
            "stage=warmup: model.path is a finished model, there is no warm-up"
        )
    run = _run(settings, ranks, run_dir, overrides)
    run.before_making = check_inputs
    artifact = make(DOORS[settings.stage](run))
    if settings.stage == "report":
        run.say("\n" + artifact.file("table.md").read_text(encoding="utf-8"))
        run.say(f"report: {artifact.file('index.html')}")
        run.say(f"token rewards: {artifact.file('tokens.html')}")
    return _closing(run)


def check_inputs(run: Run) -> None:
    """Looks at what the run will read only later, so that an empty split or a GRM with another
    tokenizer than the policy's ends it before anything is made."""
    s, order = run.settings, list(DOORS)
    until = order[: order.index(s.stage) + 1]
    splits = ["train"]
    if (s.model.path is None and s.warmup.val_problems) or (
        "policy" in until and s.policy.val_problems
    ):
        splits.append("dev")
    if "evaluate" in until:
        splits.append(s.evaluate.split)
    problems = {split: run.task.problems(split) for split in splits}
    if "grm" in until and s.grm.model is not None:
        start = models.start_tokenizer(s, problems["train"])
        found = models.LanguageModel(s.grm.model, s).codec.digest
        require_same_tokenizer(models.codec(start).digest, found, f"grm.model ({s.grm.model})")


def evaluate(
    settings: RunSettings, ranks: Ranks, run_dir: Path, overrides: list[str]
) -> float | None:
    """Judges the model directory `evaluate.model` on the task's split."""
    if settings.evaluate.model is None:
        raise ConfigurationError("evaluate.model: name a model directory or hub name to judge")
    run = _run(settings, ranks, run_dir, overrides)
    artifact = make(EvaluateStage(run, JudgedModel(run, path=settings.evaluate.model)))
    for name, value in artifact.metrics.items():
        run.say(f"  {name:36} {value:.4g}" if isinstance(value, float) else f"  {name:36} {value}")
    run.say(f"per problem: {artifact.file('attempts.parquet')}")
    return _closing(run)


def _run(settings: RunSettings, ranks: Ranks, run_dir: Path, overrides: list[str]) -> Run:
    for pattern in _QUIET:
        warnings.filterwarnings("ignore", pattern)
    _quiet_libraries()
    threads = settings.trainer.threads
    if threads is None and ranks.world > 1 and settings.trainer.accelerator == "cpu":
        threads = max(1, (os.cpu_count() or 1) // ranks.world)
    if threads is not None:
        torch.set_num_threads(threads)
    run = Run(settings, ranks, run_dir, overrides, torch.get_num_threads())
    return run


def _quiet_libraries() -> None:
    quiet()
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _closing(run: Run) -> Any:
    made = [entry for entry in run.stages if entry["made"]]
    if made:
        run.say(
            f"made {len(made)} of {len(run.stages)} artifacts; summary: {run.run_dir}/summary.json"
        )
    else:
        run.say(f"nothing to do: all {len(run.stages)} artifacts are there already")
    run.write_summary()
    return run.metric(run.settings.optimized_metric)
