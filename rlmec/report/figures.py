"""Figures of the report, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlmec.report.table import Line


def accuracy_figure(lines: Sequence[Line], path: Path) -> None:
    """Accuracy of every judged model with its 95 % interval."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 0.55 * len(lines) + 1.1))
    places = range(len(lines))[::-1]
    shown = [100 * line.accuracy for line in lines]
    below = [max(0.0, 100 * (line.accuracy - line.low)) for line in lines]
    above = [max(0.0, 100 * (line.high - line.accuracy)) for line in lines]
    colours = ["#8a8f98"] + ["#7fb0d6"] * (len(lines) - 2) + ["#d1603d"]
    axes.barh(places, shown, color=colours[: len(lines)], xerr=[below, above], capsize=3)
    axes.set_yticks(list(places), [line.name.replace("_", " ") for line in lines])
    axes.set_xlim(
        0, max(5.0, min(100.0, max(s + a for s, a in zip(shown, above, strict=True)) + 9))
    )
    for place, value, up in zip(places, shown, above, strict=True):
        axes.text(value + up + 0.6, place, f"{value:.1f}", va="center", fontsize=9)
    axes.set_xlabel(f"accuracy on {lines[0].problems} unseen problems (%)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)
