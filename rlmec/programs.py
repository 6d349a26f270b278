"""The programs `train` and `evaluate`: started by a command line, or called from Python.

In: arguments as a user types them. Out: what `rlmec.stages` makes. A command line ends the process
with an exit code; `train` and `evaluate` return a `RunResult` and raise errors.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlmec.runtime.entry import Program, config_folder, run_command_line, run_here, run_program
from rlmec.runtime.ranks import COMMAND
from rlmec.runtime.store_commands import Names
from rlmec.runtime.sweeps import SUMMARY, read_summary
from rlmec.runtime.threads import bound_spinning
from rlmec.settings.binding import ConfigurationError
from rlmec.settings.command_line import refuse_command_line, with_stage


@dataclass(frozen=True)
class StageResult:
    """One artifact of a run: its folder, its figures, and whether this run made or reused it."""

    name: str
    variant: str
    round: int
    made: bool
    path: Path
    rows: int
    metrics: dict[str, Any]
    warnings: list[str]


@dataclass(frozen=True)
class RunResult:
    """What a run has left: its folder, its optimized metric, and its artifacts in their order.

    `config` is the composed configuration as plain values. `rlmec.settings.binding.build` makes an
    object of a node with a `_target_`, such as the task.
    """

    run_dir: Path
    metric: float | None
    config: dict[str, Any]
    stages: list[StageResult]

    def stage(self, name: str, variant: str = "") -> StageResult:
        """The artifact of a stage, of its last round; `variant` is "start", for instance.

        A stage with a single variant needs none. Raises KeyError for a stage that the run has not
        needed.
        """
        named = [s for s in self.stages if s.name == name]
        found = [s for s in named if s.variant == variant]
        if not found and not variant and len(named) == 1:
            found = named
        if not found:
            known = ", ".join("/".join(filter(None, (s.name, s.variant))) for s in self.stages)
            raise KeyError(f"{name} {variant}".strip() + f": this run has {known or 'no stages'}")
        return found[-1]


def train(overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> RunResult:
    """Make what `python train.py OVERRIDES` makes, in this process.

    `config_dir` is a folder with configuration files of yours. Raises ValueError with one line for
    a wrong override or setting, and otherwise the error that ended the run.
    """
    return _called("train", overrides, config_dir)


def evaluate(overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> RunResult:
    """Judge a model as `python evaluate.py OVERRIDES` does, in this process.

    Arguments and errors are those of `train`.
    """
    return _called("evaluate", overrides, config_dir)


def start(
    name: str, argv: Sequence[str], config_dir: Path | None = None, stage: str | None = None
) -> None:
    """Run the program `name` (train or evaluate) with the arguments of a command line.

    `config_dir` is the configuration of a script such as train.py. Without it the program was
    started as `rlmec NAME`, and its ranks are started in that way, too. With `stage` the command
    line may name no other stage.
    """
    bound_spinning(os.environ)
    os.environ.pop(COMMAND, None)
    if config_dir is None:
        os.environ[COMMAND] = name
    try:
        given = list(argv) if stage is None else with_stage(argv, stage)
    except ConfigurationError as error:
        refuse_command_line(error)
    run_command_line(JOBS[name], config_dir or config_folder(), name, given)


def train_job(cfg: Any) -> float | None:
    """One job of `train`, for Hydra; a launcher's worker finds it by its name."""
    return run_program(cfg, _train, _addresses)


def evaluate_job(cfg: Any) -> float | None:
    """One job of `evaluate`, for Hydra."""
    return run_program(cfg, _evaluate)


JOBS = {"train": train_job, "evaluate": evaluate_job}


# --- the heavy part, which is imported only after the configuration is checked ---


def _train() -> Program:
    from rlmec import stages

    return stages.train


def _evaluate() -> Program:
    from rlmec import stages

    return stages.evaluate


def _addresses() -> Names:
    from rlmec import stages

    return stages.addresses


def _called(name: str, overrides: Sequence[str], config_dir: str | Path | None) -> RunResult:
    folders = [config_folder()] + ([Path(config_dir)] if config_dir is not None else [])
    if name == "train":
        run_dir, metric, config = run_here(overrides, folders, name, _train, _addresses)
    else:
        run_dir, metric, config = run_here(overrides, folders, name, _evaluate)

    # What makes nothing, such as stage=plan, leaves no summary.
    found = read_summary(run_dir)["stages"] if (run_dir / SUMMARY).is_file() else []
    stages = [
        StageResult(
            name=entry["name"],
            variant=entry["variant"],
            round=entry["round"],
            made=entry["made"],
            path=Path(entry["artifact"]),
            rows=entry["rows"],
            metrics=entry["metrics"],
            warnings=entry["warnings"],
        )
        for entry in found
    ]
    return RunResult(run_dir, metric, config, stages)
