"""The rows of the table by name; each row is a function `(bench, *, settings) -> results`.

The settings of a row in the configuration (`rows.NAME`) are the keyword arguments of its function.
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
    """Raise ValueError for a row that does not exist or that the configuration lacks."""
    unknown = [name for name in names if name not in ROWS or name not in settings]
    if unknown:
        raise ValueError(f"no row {', '.join(unknown)} in this preset; rows: {', '.join(ROWS)}")
