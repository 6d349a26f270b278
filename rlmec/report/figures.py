"""Figures of the report, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

FIRST, OTHERS, LAST = "#8a8f98", "#7fb0d6", "#d1603d"


class Bar(NamedTuple):
    """One model: its accuracy with a 95 % interval on so many problems."""

    name: str
    accuracy: float
    low: float
    high: float
    problems: int


def accuracy_figure(panels: Mapping[str, Sequence[Bar]], path: Path) -> None:
    """Accuracy of every judged model with its 95 % interval, a panel a task on one scale.

    The start (first bar) is grey, the last one, where there are several, stands out.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    counts = [len(bars) for bars in panels.values()]
    figure, places = plt.subplots(
        len(panels),
        figsize=(6.8, 0.46 * sum(counts) + 0.62 * len(panels) + 0.5),
        sharex=True,
        squeeze=False,
        height_ratios=[n + 0.6 for n in counts],
    )
    top = max(100 * bar.high for bars in panels.values() for bar in bars)
    for axes, (task, bars) in zip(places[:, 0], panels.items(), strict=True):
        _panel(axes, bars)
        axes.set_title(
            f"{task}, {bars[0].problems:,} problems", loc="left", fontsize=9, color="#444444"
        )
    places[-1, 0].set_xlim(0, min(112.0, max(6.0, 1.12 * top)))
    places[-1, 0].set_xlabel("accuracy (%), with its 95 % interval")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _panel(axes: Any, bars: Sequence[Bar]) -> None:
    places = range(len(bars))[::-1]
    shown = [100 * bar.accuracy for bar in bars]
    below = [max(0.0, 100 * (bar.accuracy - bar.low)) for bar in bars]
    above = [max(0.0, 100 * (bar.high - bar.accuracy)) for bar in bars]
    colours = [FIRST] + [OTHERS] * (len(bars) - 2) + [LAST]
    style = {"ecolor": "#333333", "elinewidth": 1.0, "capsize": 3}
    axes.barh(places, shown, 0.66, color=colours[: len(bars)], xerr=[below, above], error_kw=style)
    axes.set_yticks(list(places), [bar.name.replace("_", " ") for bar in bars])
    axes.set_ylim(-0.6, len(bars) - 0.4)
    for place, value, up in zip(places, shown, above, strict=True):
        axes.annotate(
            f"{value:.1f}",
            (value + up, place),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    axes.grid(axis="x", color="#e3e3e3", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
