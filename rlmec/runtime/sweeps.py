"""The jobs of a sweep, and the results that runs leave behind.

In: the configuration of Hydra, and the summaries of finished runs. Out: a child process per job
that has several ranks; `summary.json` of a run; `results.csv` and `results.md` of a sweep.
"""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from filelock import FileLock

from rlmec.runtime import signals
from rlmec.runtime.display import markdown_table
from rlmec.runtime.ranks import PARENT, command, launched_outside, world_size
from rlmec.settings.binding import ConfigurationError
from rlmec.settings.schema import TrainerSettings
from rlmec.store.atomic import atomic_write_json, atomic_write_text


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


def write_summary(run_dir: Path, summary: dict[str, Any]) -> Path:
    """Write `summary.json` of a run, and return its path."""
    path = run_dir / "summary.json"
    atomic_write_json(path, summary)
    return path


def write_sweep_table(sweep_dir: Path) -> tuple[list[str], list[list[str]]]:
    """The table of a sweep from every `summary.json` below it: names of columns, and rows of texts.

    Every job writes the table again, to `results.csv` and `results.md`, under a lock. The columns
    are the folder of the job, its `overrides`, `optimized_metric`, and the numbers among the
    metrics of its last two stages.
    """
    with FileLock(sweep_dir / ".results.lock"):
        summaries = sorted(sweep_dir.rglob("summary.json"), key=_job_order)
        rows = [_row(sweep_dir, path) for path in summaries]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        cells = [[row.get(name, "") for name in columns] for row in rows]

        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([columns, *cells])
        atomic_write_text(sweep_dir / "results.csv", text.getvalue())
        atomic_write_text(sweep_dir / "results.md", markdown_table(columns, cells))
    return columns, cells


def _row(sweep_dir: Path, path: Path) -> dict[str, str]:
    """The row of one job by column, from its summary."""
    summary = json.loads(path.read_text(encoding="utf-8"))
    row = {
        "job": path.parent.relative_to(sweep_dir).as_posix(),
        "overrides": " ".join(summary.get("overrides", [])),
        "optimized_metric": _text(summary.get("optimized_metric")),
    }
    for stage in summary.get("stages", [])[-2:]:
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
