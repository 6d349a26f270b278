"""What train.py and evaluate.py share: check the configuration, start the ranks, run, show errors.

In: the configuration that Hydra has composed. Out: the optimized metric, `summary.json` in the run
folder, and the table of a sweep.
"""

from __future__ import annotations

import os
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
    forget_stray_variables,
    start_ranks,
    stop_with_parent,
)
from rlmec.runtime.store_commands import PLAN, PRUNE, STATUS, Names, run_store_command
from rlmec.runtime.sweeps import (
    ERROR,
    JobRecord,
    read_summary,
    run_as_child,
    write_sweep_table,
)
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


LIBRARIES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "TORCH_CUDNN_SDPA_DEPRIORITIZED": "1"}
"""Variables that torch reads once in a process; a value of the user's stands. Rows have many
lengths here, and both libraries would compile for each of them.

oneDNN keeps 1024 matrix products by default, which grow to hundreds of MB on a CPU; compiling them
again costs no time that can be measured. cuDNN's attention, which torch prefers on an H100 and
later, plans anew for every shape, at each token that is generated; torch's own attention does not.
"""


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
    record = JobRecord(run_dir)

    # In a worker of a launcher, train.py's own call has not run.
    signals.listen()
    stop_with_parent()

    for name, value in LIBRARIES.items():
        os.environ.setdefault(name, value)
    try:
        forget_stray_variables()
        if signals.is_first_rank() and cfg.get("stage") not in (STATUS, PRUNE, PLAN):
            record.begin(_shown_overrides(hydra))

        settings = check(cfg, *_config_dirs(hydra))
        if names is not None and settings.stage in (STATUS, PRUNE):
            return run_store_command(settings, names)
        value = _run(settings, run_dir, program)
        record.finished(value)
    except signals.RunStopped as stop:
        _show_stop(stop, record)
        raise
    except Exception as error:
        # A signal ends the ranks one after the other: what fails then is not an error of its own.
        number = signals.requested()
        if number is not None:
            stop = signals.RunStopped(number, f"it ended with {type(error).__name__}: {error}")
            _show_stop(stop, record)
            raise stop from error
        _show_error(error, record)
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
        return read_summary(run_dir)["optimized_metric"]

    with start_ranks(settings.trainer, list(hydra.overrides.task), run_dir) as ranks:
        run = program()
        with signals.working():
            return run(settings, ranks, run_dir, _shown_overrides(hydra))


def _shown_overrides(hydra: HydraConf) -> list[str]:
    """The overrides as the user writes them, without the `++` that the programs put before some."""
    return [override.removeprefix("++") for override in hydra.overrides.task]


def _show_sweep(hydra: HydraConf) -> None:
    """Write the table of the sweep, and print its first columns and its accuracies."""
    columns, rows = write_sweep_table(Path(hydra.sweep.dir))
    shown = [i for i, name in enumerate(columns) if i < 4 or "accuracy" in name]
    print("  ".join(columns[i] for i in shown))
    for row in rows:
        print("  ".join(row[i] for i in shown))
    print(f"table of the sweep: {Path(hydra.sweep.dir) / 'results.md'}", flush=True)


def _show_stop(stop: signals.RunStopped, record: JobRecord) -> None:
    record.broken_off("stopped", str(stop))
    if stop.where and signals.is_first_rank():
        print(f"{stop}. The same command continues from there.", file=sys.stderr, flush=True)


def _show_error(error: Exception, record: JobRecord) -> None:
    """Print the error and record it; its traceback goes into `error.txt` of the run folder."""
    text = "".join(traceback.format_exception(error))
    shown = f"error: {error}" if isinstance(error, EXPECTED) else text
    print(shown, file=sys.stderr, flush=True)
    record.broken_off("failed", f"{type(error).__name__}: {error}")

    path = record.run_dir / ERROR
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(path, text)
    except OSError as unwritten:
        print(f"(traceback not written: {unwritten})", file=sys.stderr, flush=True)
        return
    print(f"(traceback: {path})", file=sys.stderr, flush=True)
