"""Jobs of a sweep, and the tables they leave."""

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
    """Runs a sweep's job that has several ranks as a child process of its own, and returns its exit
    code; None where the job can run in this process. Under torchrun a sweep is refused."""
    if str(getattr(hydra_config.mode, "name", hydra_config.mode)) != "MULTIRUN":
        return None
    if launched_outside():
        raise ConfigurationError("a sweep (-m) cannot run under torchrun or SLURM: start its jobs")
    if world_size(trainer) == 1:
        return None
    job = command(list(hydra_config.overrides.task), hydra_config.runtime.output_dir)
    process = subprocess.Popen(job, env={**os.environ, PARENT: str(os.getpid())})
    signals.pass_on([process.pid])
    with signals.working():
        code = process.wait()
    signals.pass_on(())
    if code:
        signals.check()  # it has said itself where it was stopped
    return code


def write_summary(run_dir: Path, summary: dict[str, Any]) -> Path:
    """Writes `summary.json` of a run whole and returns its path."""
    atomic_write_json(run_dir / "summary.json", summary)
    return run_dir / "summary.json"


def write_sweep_table(sweep_dir: Path) -> tuple[list[str], list[list[str]]]:
    """The table of a sweep from every `summary.json` below it: column names and rows of strings.

    Written to `results.csv` and `results.md` by each job in turn, under a lock. Columns: the job's
    folder, its `overrides`, `optimized_metric` and the numbers among the metrics of its last two
    stages.
    """
    with FileLock(sweep_dir / ".results.lock"):
        rows: list[dict[str, str]] = []
        for path in sorted(sweep_dir.rglob("summary.json"), key=_job_order):
            summary = json.loads(path.read_text(encoding="utf-8"))
            row = {"job": path.parent.relative_to(sweep_dir).as_posix()}
            row["overrides"] = " ".join(summary.get("overrides", []))
            row["optimized_metric"] = _shown(summary.get("optimized_metric"))
            for stage in summary.get("stages", [])[-2:]:
                row |= {k: _shown(v) for k, v in stage.get("metrics", {}).items() if _number(v)}
            rows.append(row)
        columns = list(dict.fromkeys(name for row in rows for name in row))
        cells = [[row.get(name, "") for name in columns] for row in rows]

        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([columns, *cells])
        atomic_write_text(sweep_dir / "results.csv", text.getvalue())
        atomic_write_text(sweep_dir / "results.md", markdown_table(columns, cells))
    return columns, cells


def _job_order(path: Path) -> tuple[int, str]:
    return (int(path.parent.name) if path.parent.name.isdigit() else sys.maxsize, str(path))


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
