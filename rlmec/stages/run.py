"""Opens a run: threads, ranks, the stage that was asked for, the closing words."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rlmec.lm.loading import quiet
from rlmec.pipeline import models
from rlmec.pipeline.attempts import engine_of
from rlmec.pipeline.chain import Run, Stage, address_of, make
from rlmec.pipeline.memory_plan import plan_memory
from rlmec.pipeline.rounds import Start, WarmupStage, warmup_task
from rlmec.records import require_same_tokenizer
from rlmec.runtime.ranks import Ranks
from rlmec.runtime.store_commands import PRUNE, STATUS, Named
from rlmec.settings.binding import ConfigurationError
from rlmec.settings.schema import RunSettings, as_plain
from rlmec.stages.evaluate import (
    EvaluateStage,
    JudgedModel,
    examples_before,
    judged_problems,
    judged_tasks,
)
from rlmec.stages.evaluate_models import closing_tables, judge_all, judgement_of
from rlmec.stages.export import check_export, export, last_stage
from rlmec.stages.grm import grm_of
from rlmec.stages.policy import policies
from rlmec.stages.report import ReportStage
from rlmec.stages.sample import SampleStage
from rlmec.stages.score import ScoreStage
from rlmec.stages.teach import TeachStage, check_teacher

DOORS: dict[str, Callable[[Run], Stage]] = {
    "warmup": WarmupStage,
    "sample": lambda run: SampleStage(run, last_start(run)),
    "teach": lambda run: TeachStage(run, last_start(run)),
    "grm": lambda run: grm_of(last_start(run)),
    "score": lambda run: ScoreStage(run, last_start(run)),
    "policy": lambda run: policies(run)[-1],
    "evaluate": lambda run: judged_policy(run, None),
    "report": ReportStage,
}
EXPORT = "export"  # no artifact: writes what was made elsewhere
PLAN = "plan"  # no artifact: says what the run would need, and ends
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


def last_start(run: Run) -> Start:
    """What the last round starts from."""
    return policies(run)[-1].start


def judged_policy(run: Run, task: str | None) -> EvaluateStage:
    return EvaluateStage(run, JudgedModel(run, policies(run)[-1]), task=task)


def train(settings: RunSettings, ranks: Ranks, run_dir: Path, overrides: list[str]) -> float | None:
    """Makes the stage that was asked for and everything it needs; returns the optimized metric.

    Before weights of a finished model load, says what they will need of a device's memory.
    """
    known = (*DOORS, EXPORT, PLAN)
    if settings.stage not in known:
        shown = ", ".join((*known, STATUS, PRUNE))
        raise ConfigurationError(f"stage: {settings.stage!r} is none of {shown}")
    if settings.stage == EXPORT:
        check_export(settings)
    if settings.stage == "warmup" and settings.model.path is not None:
        raise ConfigurationError(
            "stage=warmup: model.path is a finished model, there is no warm-up"
        )
    models.check_weights(settings)
    run = _run(settings, ranks, run_dir, overrides)
    if settings.model.path is not None or settings.stage == PLAN:
        ranks.share(lambda: plan_memory(settings, ranks.world))
    if settings.stage == PLAN:
        return None
    if run.task.name in judged_tasks(run):
        raise ConfigurationError(
            f"evaluate.tasks: {run.task.name!r} is the task of training, which is judged anyway"
        )
    run.before_making = check_inputs
    if settings.stage == EXPORT:
        export(run)
        return _closing(run)
    asked = DOORS[settings.stage](run)
    run.asked = asked.title
    artifact = make(asked)
    if settings.stage == "report":
        run.say("\n" + artifact.file("table.md").read_text(encoding="utf-8"))
        run.say(f"report: {artifact.file('index.html')}")
        run.say(f"token rewards: {artifact.file('tokens.html')}")
    if settings.stage == "evaluate":
        stages = [judged_policy(run, task) for task in (None, *judged_tasks(run))]
        closing_tables(run, [judgement_of(make(stage), "rlmec", stage.label) for stage in stages])
    return _closing(run)


def check_inputs(run: Run) -> None:
    """Looks at what the run will read only later, so that an empty split, an engine that cannot
    run here, a teacher without its key or a GRM with another tokenizer than the policy's ends it
    before anything is made; so do problems to be judged that were trained on, and examples that
    are not there."""
    s, until = run.settings, stages_until(run.settings)
    sampling = s.sample.path is None or s.rounds > 1
    if "sample" in until and ("sample", "") not in run.made and sampling:
        engine_of(run).check()
    splits = ["train"]
    if (s.model.path is None and s.warmup.val_problems) or (
        "policy" in until and s.policy.val_problems
    ):
        splits.append("dev")
    if "evaluate" in until:
        splits.append(s.evaluate.split)
    for split in splits:
        run.task.problems(split)  # raises where it is empty
    if left_out := getattr(run.task, "left_out", None):
        run.say(f"{run.task.name}: {len(left_out)} rows left out, the first: {left_out[0]}")
    if "teach" in until:
        check_teacher(run, last_start(run))
    if "evaluate" in until:
        for name in (None, *judged_tasks(run)):
            examples_before(run, name, judged_problems(run, name, trained=True)[0])
    if "grm" in until and s.grm.model is not None:
        start = models.start_tokenizer(s, warmup_task(run).problems("train"))
        found = models.LanguageModel(s.grm.model, s).codec.digest
        require_same_tokenizer(models.codec(start).digest, found, f"grm.model ({s.grm.model})")


def stages_until(settings: RunSettings) -> list[str]:
    """The names of the stages that a run makes; rounds before the last go up to the policy."""
    order, last = list(DOORS), last_stage(settings)
    if settings.rounds > 1 and last != "warmup":
        last = max(last, "policy", key=order.index)
    return order[: order.index(last) + 1]


def evaluate(
    settings: RunSettings, ranks: Ranks, run_dir: Path, overrides: list[str]
) -> float | None:
    """Judges the model directory `evaluate.model`, or stored outputs, on one or several tasks."""
    run = _run(settings, ranks, run_dir, overrides)
    closing_tables(run, judge_all(run))
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
    run.uses.hold_mentioned(json.dumps(as_plain(settings), default=str))
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
    elif run.made:
        run.say(f"nothing to do: all {len(run.stages)} artifacts are there already")
    run.write_summary()
    return run.metric(run.settings.optimized_metric)


def addresses(settings: RunSettings) -> list[Named]:
    """All of them, parents before what is made from them.

    Raises FileNotFoundError for a file or a model that is not there, ValueError for one that cannot
    be read.
    """
    run = Run(settings, Ranks(), Path())
    known: dict[tuple[str, str], tuple[Stage, str]] = {}
    address_of(ReportStage(run), known)
    return [Named(stage.title, stage.name, address) for stage, address in known.values()]
