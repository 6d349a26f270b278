"""The jobs of a sweep, and the results that runs leave behind.

In: the configuration of Hydra, and the summaries of finished runs. Out: a child process per job
that has several ranks; `summary.json` of a run; `results.csv` and `results.md` of a sweep.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from hydra.experimental.callback import Callback

from rlmec.runtime import signals
from rlmec.runtime.display import markdown_table
from rlmec.runtime.ranks import PARENT, command, launched_outside, world_size
from rlmec.settings.binding import ConfigurationError
from rlmec.settings.schema import TrainerSettings
from rlmec.store.atomic import atomic_write_json, atomic_write_text
from rlmec.store.locks import file_lock, locks_needed

SUMMARY = "summary.json"
ERROR = "error.txt"
"""The file of a run folder that holds the traceback of a job that failed."""


def run_as_child(hydra_config: Any, trainer: TrainerSettings) -> int | None:
    """Run a job of a sweep that has several ranks in a child process, and return its exit code.

    Returns None if the job can run in this process. Raises ConfigurationError for a sweep under
    torchrun or SLURM.
    """
    if str(getattr(hydra_config.mode, "name", hydra_config.mode)) != "MULTIRUN":
        return None
    if launched_outside():
        raise ConfigurationError(
            "a sweep (-m) cannot run under torchrun or SLURM: start its jobs one by one"
        )
    if world_size(trainer) == 1:
        return None

    # One process can open a process group only for one job: the next job needs a clean process.
    job = command(list(hydra_config.overrides.task), hydra_config.runtime.output_dir)
    process = subprocess.Popen(job, env={**os.environ, PARENT: str(os.getpid())})
    signals.pass_on([process.pid])
    with signals.working():
        code = process.wait()
    signals.pass_on(())
    if code:
        signals.check()  # the child has already said where it was stopped
    return code


# --- the summary of a run ---


class JobRecord:
    """How one job goes, in `summary.json` of its run folder: its status, and its metric at the end.

    Before `begin` is called, nothing is written: a job that makes nothing leaves no summary.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._began = False

    def begin(self, overrides: Sequence[str]) -> None:
        """Replace what an earlier job in the same folder has left, by a job that runs."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        (self.run_dir / ERROR).unlink(missing_ok=True)
        write_summary(self.run_dir, {"overrides": list(overrides), "stages": []})
        self._began = True

    def finished(self, metric: float | None) -> None:
        """Record the value of the optimized metric, which only a finished job has."""
        self._end({"status": "finished", "optimized_metric": metric})

    def broken_off(self, status: Literal["failed", "stopped"], error: str) -> None:
        """Record why the job has no result. A disk that is full must not hide that error."""
        with contextlib.suppress(OSError):
            # A job in a child process ends twice, and the child knows more about its own failure.
            if self._began and read_summary(self.run_dir)["status"] != status:
                self._end({"status": status, "optimized_metric": None, "error": error})

    def _end(self, ended: dict[str, Any]) -> None:
        if self._began:
            rest = {k: v for k, v in read_summary(self.run_dir).items() if k not in ended}
            atomic_write_json(self.run_dir / SUMMARY, ended | rest)


def write_summary(run_dir: Path, summary: dict[str, Any]) -> Path:
    """Write `summary.json` of a job whose status is "running", and return its path."""
    path = run_dir / SUMMARY
    atomic_write_json(path, {"status": "running", **summary})
    return path


def read_summary(run_dir: Path) -> dict[str, Any]:
    """The content of `summary.json`. Its `status` is running, finished, failed or stopped.

    The status of a job that was killed stays "running".
    """
    return json.loads((run_dir / SUMMARY).read_text(encoding="utf-8"))


# --- the table of a sweep ---


def write_sweep_table(sweep_dir: Path) -> tuple[list[str], list[list[str]]]:
    """The table of a sweep from every `summary.json` below it: names of columns, and rows of texts.

    Every job writes the table again, to `results.csv` and `results.md`, under a lock. The columns
    are the folder of the job, its `status`, its `overrides`, `optimized_metric`, and the numbers
    among the metrics of its last two stages. A job that has not finished has no numbers.
    """
    path = sweep_dir / ".results.lock"
    with contextlib.ExitStack() as held:
        with locks_needed(path):
            held.enter_context(file_lock(path))
        summaries = sorted(sweep_dir.rglob(SUMMARY), key=_job_order)
        rows = [_row(sweep_dir, path) for path in summaries]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        cells = [[row.get(name, "") for name in columns] for row in rows]

        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([columns, *cells])
        atomic_write_text(sweep_dir / "results.csv", text.getvalue())
        atomic_write_text(sweep_dir / "results.md", markdown_table(columns, cells))
    return columns, cells


class SweepPlace(Callback):
    """A callback of Hydra (`hydra.callbacks`) that remembers the folder of this process's sweep."""

    folder: ClassVar[Path | None] = None

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        SweepPlace.folder = Path(config.hydra.sweep.dir)


def sweep_overview(sweep_dir: Path) -> str:
    """The jobs of a sweep in Markdown: status, the settings in which they differ, and accuracies.

    A setting is named by its last part if no other one ends so. Empty without jobs.
    """
    paths = sorted(sweep_dir.rglob(SUMMARY), key=_job_order)
    rows = [_row(sweep_dir, path) for path in paths]
    summaries = [read_summary(path.parent) for path in paths]
    given = [_by_key(summary.get("overrides", [])) for summary in summaries]

    keys = dict.fromkeys(key for own in given for key in own)
    differing = [key for key in keys if len({own.get(key) for own in given}) > 1]
    ends = [key.rpartition(".")[2] for key in differing]
    heads = [end if ends.count(end) == 1 else key for key, end in zip(differing, ends, strict=True)]

    optimized = {summary.get("optimized_metric_name", "") for summary in summaries} - {""}
    numbers = dict.fromkeys(name for row in rows for name in row if name.endswith("/accuracy"))
    numbers = [name for name in numbers if optimized != {name}]
    cells = [
        [row["job"], row["status"], *(own.get(key, "") for key in differing)]
        + [row.get(name, "") for name in ("optimized_metric", *numbers)]
        for row, own in zip(rows, given, strict=True)
    ]
    name = optimized.pop() if len(optimized) == 1 else "optimized_metric"
    head = ["job", "status", *heads, name, *numbers]
    return markdown_table(head, cells) if rows else ""


def _by_key(overrides: Sequence[str]) -> dict[str, str]:
    """The values of overrides; of two for one key the last counts."""
    parts = (override.partition("=") for override in overrides)
    return {key.lstrip("+"): value for key, _, value in parts}


def _row(sweep_dir: Path, path: Path) -> dict[str, str]:
    """The row of one job by column, from its summary."""
    summary = read_summary(path.parent)
    row = {
        "job": path.parent.relative_to(sweep_dir).as_posix(),
        "status": summary["status"],
        "overrides": " ".join(summary.get("overrides", [])),
        "optimized_metric": _text(summary.get("optimized_metric")),
    }
    # The last stages of a job that failed are not those that it was to be judged by.
    last = summary["stages"][-2:] if summary["status"] == "finished" else []
    for stage in last:
        row |= {k: _text(v) for k, v in stage.get("metrics", {}).items() if _is_number(v)}
    return row


def _job_order(path: Path) -> tuple[int, str]:
    """Jobs by their number; a folder whose name is not a number comes last."""
    name = path.parent.name
    return (int(name) if name.isdigit() else sys.maxsize, str(path))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
