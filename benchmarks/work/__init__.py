"""The rows of the table by name: a function each, `(bench, *, settings) -> results`.

A row's settings in the configuration (`rows.NAME`) are its keyword arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.measuring import Result
from benchmarks.work.aligning import alignment
from benchmarks.work.fitting import trainer
from benchmarks.work.generating import sampling
from benchmarks.work.growing import scaling
from benchmarks.work.losses import head
from benchmarks.work.planning import plan
from benchmarks.work.rewriting import rewrite
from benchmarks.work.scoring import score_samples, score_wrong
from benchmarks.work.training import train_right, train_wrong

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
