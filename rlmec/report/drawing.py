"""What all figures of the report have in common: size, colours, and the way to a PNG file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

GREY, BLUE, RED, GREEN = "#8a8f98", "#3b7dd8", "#d1603d", "#0b9b6d"
SERIES = (BLUE, RED, GREEN, "#8b5fbf", "#c9a227", GREY)


@contextmanager
def panels(path: Path, columns: int, width: float, height: float) -> Iterator[list[Any]]:
    """Axes side by side, drawn on inside the block and written to `path` when it ends well."""
    from matplotlib.figure import Figure  # no window system, no global state

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = list(figure.subplots(1, columns, squeeze=False)[0])
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    yield axes
    figure.savefig(path, dpi=110)
