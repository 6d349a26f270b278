"""What train.py and evaluate.py share: check the configuration, start the ranks, run, show errors.

In: the configuration that Hydra has composed. Out: the optimized metric, `summary.json` in the run
folder, and the table of a sweep.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from rlmec.runtime import signals
from rlmec.runtime.ranks import RankError, Ranks, start_ranks, stop_with_parent
from rlmec.runtime.store_commands import PRUNE, STATUS, Names, run_store_command
from rlmec.runtime.sweeps import run_as_child, write_sweep_table
from rlmec.settings.binding import ConfigurationError
from rlmec.settings.check import check
from rlmec.settings.schema import RunSettings
from rlmec.settings.signatures import SignatureError
from rlmec.store.artifacts import ArtifactError
from rlmec.store.atomic import atomic_write_text

Program = Callable[[RunSettings, Ranks, Path, list[str]], float | None]
"""What a job does: settings, ranks, run folder and overrides in, the optimized metric out."""
EXPECTED = (ConfigurationError, SignatureError, ArtifactError, RankError, ValueError, OSError)
"""Errors whose message is enough. Of all others the traceback is shown."""


class JobFailed(RuntimeError):
    """A job of a sweep that ended with an error, which was already shown."""


def run_program(
    cfg: DictConfig, program: Callable[[], Program], names: Callable[[], Names] | None = None
) -> float | None:
    """Run one job.

    `program` imports the job's code; it is called only after the configuration is checked. With
    `names`, the job may also be `stage=status` or `stage=prune`.

    An error is shown as one line, with its traceback in `error.txt` in the run folder, and ends the
    program with 1. In a sweep an error ends only its job, and the sweep ends with 1. A signal that
    asks to stop ends the program, and with it the sweep, with 128 plus its number.
    """
    hydra = HydraConfig.get()
    in_sweep = hydra.mode is not None and hydra.mode.name == "MULTIRUN"
    run_dir = Path(hydra.runtime.output_dir)

    # In a worker of a launcher, train.py's own call has not run.
    signals.listen()
    stop_with_parent()

    try:
        settings = check(cfg, *_config_dirs(hydra))
        if names is not None and settings.stage in (STATUS, PRUNE):
            return run_store_command(settings, names)
        value = _run(settings, run_dir, program)
    except signals.RunStopped as stop:
        _show_stop(stop)
        raise
    except Exception as error:
        # A signal ends the ranks one after the other: what fails then is not an error of its own.
        number = signals.requested()
        if number is not None:
            stop = signals.RunStopped(number, f"it ended with {type(error).__name__}: {error}")
            _show_stop(stop)
            raise stop from error
        _show_error(error, run_dir)
        if not in_sweep:
            sys.exit(1)
        _show_sweep(hydra)
        raise JobFailed(f"job {hydra.job.num} failed: {error}") from error

    if in_sweep:
        _show_sweep(hydra)
    return value


def _config_dirs(hydra: HydraConf) -> list[Path]:
    """The folders from which Hydra has composed: conf/, and that of --config-dir."""
    return [Path(s.path) for s in hydra.runtime.config_sources if s.schema == "file"]


def _run(settings: RunSettings, run_dir: Path, program: Callable[[], Program]) -> float | None:
    hydra = HydraConfig.get()
    code = run_as_child(hydra, settings.trainer)
    if code:
        raise RuntimeError(f"its process ended with {code}")
    if code is not None:
        return _metric_of_child(run_dir)

    overrides = list(hydra.overrides.task)
    with start_ranks(settings.trainer, overrides, run_dir) as ranks:
        run = program()
        # Shown as the user writes them: the programs put `++` before settings that no file shows.
        shown = [override.removeprefix("++") for override in overrides]
        with signals.working():
            return run(settings, ranks, run_dir, shown)


def _metric_of_child(run_dir: Path) -> float | None:
    summary = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    return summary["optimized_metric"]


def _show_sweep(hydra: HydraConf) -> None:
    """Write the table of the sweep, and print its first columns and its accuracies."""
    columns, rows = write_sweep_table(Path(hydra.sweep.dir))
    shown = [i for i, name in enumerate(columns) if i < 3 or "accuracy" in name]
    print("  ".join(columns[i] for i in shown))
    for row in rows:
        print("  ".join(row[i] for i in shown))
    print(f"table of the sweep: {Path(hydra.sweep.dir) / 'results.md'}", flush=True)


def _show_stop(stop: signals.RunStopped) -> None:
    if stop.where and signals.is_first_rank():
        print(f"{stop}. The same command continues from there.", file=sys.stderr, flush=True)


def _show_error(error: Exception, run_dir: Path) -> None:
    text = "".join(traceback.format_exception(error))
    run_dir.mkdir(parents=True, exist_ok=True)
    atomic_write_text(run_dir / "error.txt", text)
    if isinstance(error, EXPECTED):
        print(f"error: {error}", file=sys.stderr)
    else:
        print(text, file=sys.stderr)
    print(f"(traceback: {run_dir / 'error.txt'})", file=sys.stderr, flush=True)
