"""What train.py and evaluate.py share: check the tree, start the ranks, open a door, show errors.

In: the tree that Hydra composed. Out: the optimized metric, `summary.json` in the run folder, in a
sweep its table.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from rlmec.runtime import signals
from rlmec.runtime.ranks import (
    RankError,
    Ranks,
    start_ranks,
    stop_with_parent,
)
from rlmec.runtime.store_commands import (
    PRUNE,
    STATUS,
    Names,
    keep,
)
from rlmec.runtime.sweeps import run_as_child, write_sweep_table
from rlmec.settings.binding import ConfigurationError
from rlmec.settings.check import check
from rlmec.settings.schema import RunSettings
from rlmec.settings.signatures import SignatureError
from rlmec.store.artifacts import ArtifactError
from rlmec.store.atomic import atomic_write_text

Door = Callable[[RunSettings, Ranks, Path, list[str]], float | None]
EXPECTED = (ConfigurationError, SignatureError, ArtifactError, RankError, ValueError, OSError)


class JobFailed(RuntimeError):
    """A job of a sweep that ended with an error, which was already shown."""


def open_door(
    cfg: DictConfig, door: Callable[[], Door], names: Callable[[], Names] | None = None
) -> float | None:
    """Runs one job; with `names` also those that look after the store (stage=status and prune).

    An error is shown as one line (the traceback goes to `error.txt` in the run folder) and ends the
    program with 1; in a sweep it fails this job alone, and the sweep ends with 1. A signal that
    asks to stop ends the program, and with it the sweep, with 128 + its number."""
    hydra = HydraConfig.get()
    in_sweep = hydra.mode is not None and hydra.mode.name == "MULTIRUN"
    run_dir = Path(hydra.runtime.output_dir)
    signals.listen()  # in a launcher's worker nobody has
    stop_with_parent()
    try:
        settings = check(cfg, *_config_dirs(hydra))
        if names is not None and settings.stage in (STATUS, PRUNE):
            return keep(settings, names)
        value = _run(settings, run_dir, door)
    except signals.RunStopped as stop:
        _show_stop(stop)
        raise
    except Exception as error:
        if (number := signals.requested()) is not None:  # the ranks ended one after the other
            stop = signals.RunStopped(number, f"it ended with {type(error).__name__}: {error}")
            _show_stop(stop)
            raise stop from error
        _show(error, run_dir)
        if in_sweep:
            _table(hydra)
            raise JobFailed(f"job {hydra.job.num} failed: {error}") from error
        sys.exit(1)
    if in_sweep:
        _table(hydra)
    return value


def _config_dirs(hydra: HydraConf) -> list[Path]:
    """The folders that Hydra composed from: conf/ and what --config-dir added."""
    return [Path(s.path) for s in hydra.runtime.config_sources if s.schema == "file"]


def _run(settings: RunSettings, run_dir: Path, door: Callable[[], Door]) -> float | None:
    hydra = HydraConfig.get()
    code = run_as_child(hydra, settings.trainer)
    if code is not None:
        if code:
            raise RuntimeError(f"its process ended with {code}")
        return _metric_of_child(run_dir)
    overrides = list(hydra.overrides.task)
    with start_ranks(settings.trainer, overrides, run_dir) as ranks:
        work = door()
        with signals.working():
            return work(settings, ranks, run_dir, overrides)


def _metric_of_child(run_dir: Path) -> float | None:
    import json

    summary = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    return summary["optimized_metric"]


def _table(hydra: HydraConf) -> None:
    columns, rows = write_sweep_table(Path(hydra.sweep.dir))
    shown = [i for i, name in enumerate(columns) if i < 3 or "accuracy" in name]
    print("  ".join(columns[i] for i in shown))
    for row in rows:
        print("  ".join(row[i] for i in shown))
    print(f"table of the sweep: {Path(hydra.sweep.dir) / 'results.md'}", flush=True)


def _show_stop(stop: signals.RunStopped) -> None:
    if stop.where and signals.is_first_rank():
        print(f"{stop}. The same command goes on from there.", file=sys.stderr, flush=True)


def _show(error: Exception, run_dir: Path) -> None:
    text = "".join(traceback.format_exception(error))
    run_dir.mkdir(parents=True, exist_ok=True)
    atomic_write_text(run_dir / "error.txt", text)
    if isinstance(error, EXPECTED):
        print(f"error: {error}", file=sys.stderr)
    else:
        print(text, file=sys.stderr)
    print(f"(traceback: {run_dir / 'error.txt'})", file=sys.stderr, flush=True)
