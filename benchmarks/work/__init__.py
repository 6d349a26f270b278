"""The rows of the table by name: a function each, `(bench, *, settings) -> results`.

A row's settings in the configuration (`rows.NAME`) are its keyword arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.measurement import Result
from benchmarks.work.alignment import alignment
from benchmarks.work.generation import sampling
from benchmarks.work.growth import scaling
from benchmarks.work.head import head
from benchmarks.work.plan import plan
from benchmarks.work.rewrites import rewrite
from benchmarks.work.scores import score_samples, score_wrong
from benchmarks.work.trainer import trainer
from benchmarks.work.training_step import train_right, train_wrong

ROWS: dict[str, Callable[..., list[Result]]] = {
    row.__name__: row
    for row in (
        train_wrong,
        train_right,
        head,
        rewrite,
        score_wrong,
        score_samples,
        alignment,
        plan,
        sampling,
        trainer,
        scaling,
    )
}


def check_names(names: list[str], settings: dict[str, Any]) -> None:
    """Raises ValueError for a row that does not exist or that the configuration lacks."""
    if unknown := [name for name in names if name not in ROWS or name not in settings]:
        raise ValueError(f"no row {', '.join(unknown)}; there are {', '.join(ROWS)}")
