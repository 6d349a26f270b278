"""Training curves: what the fits logged and what their validations found, a panel a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rlmec.report.drawing import SERIES, panels

Rows = Sequence[Mapping[str, float]]

PANELS = {
    "warmup": ("train/loss", "dev/accuracy"),
    "grm": ("train/loss", "val/loss", "grm/rewrite_success"),
    "policy": (
        *("train/loss", "dev/accuracy", "train/approx_kl", "train/ratio/mean"),
        "val/entropy",
    ),
}
"""What is drawn of each stage, where it was recorded."""


def training_curves(fits: Mapping[str, Rows], stage: str, path: Path) -> bool:
    """Draws the figures of PANELS over optimizer steps for the fits of one stage by their names.

    Rows hold a `step` and figures by name, in any order. Nothing is drawn, and False returned,
    where no row has two points of any figure.
    """
    series = {
        figure: {name: _points(rows, figure) for name, rows in fits.items()}
        for figure in PANELS[stage]
    }
    shown = {f: lines for f, lines in series.items() if any(len(p) > 1 for p in lines.values())}
    if not shown:
        return False
    with panels(path, len(shown), 3.3 * len(shown) + 0.4, 2.9) as axes:
        for one, (figure, lines) in zip(axes, shown.items(), strict=True):
            for at, (name, points) in enumerate(lines.items()):
                if points:
                    colour = SERIES[at % len(SERIES)]
                    marker = "." if len(points) < 20 else None
                    label = name.replace("_", " ")
                    one.plot(*zip(*points, strict=True), color=colour, marker=marker, label=label)
            one.set_title(figure, fontsize=9, loc="left")
            one.set_xlabel("optimizer step")
        if len(fits) > 1:
            axes[0].legend(frameon=False, fontsize=8)
    return True


def _points(rows: Rows, figure: str) -> list[tuple[float, float]]:
    return sorted((row["step"], row[figure]) for row in rows if row.get(figure) is not None)
