"""Figures of the report, as PNG files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlmec.evaluation.accuracy import wilson
from rlmec.method.credit import CreditItem, credit_quality, precision_recall_curve

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


Counts = Mapping[str, tuple[int, int]]


def kinds_figure(
    before: Counts, after: Counts, errors: tuple[Mapping[str, int], Mapping[str, int]], path: Path
) -> None:
    """Left: accuracy with its 95 % interval by kind of problem, (right, total) attempts of the
    start and of the policy. Right: wrong attempts by kind of error, where the task names any."""
    kinds = sorted(set(before) | set(after), key=_natural)
    wrong = sorted(set(errors[0]) | set(errors[1]), key=lambda e: -errors[0].get(e, 0))
    tall = 1.3 + 0.34 * max(len(kinds), len(wrong))
    with panels(path, 2 if wrong else 1, 9.4 if wrong else 5.4, tall) as axes:
        shares = [
            [_share(counts.get(kind, (0, 0))) for kind in kinds] for counts in (before, after)
        ]
        _pairs(axes[0], [kind or "all" for kind in kinds], shares)
        axes[0].set_xlabel("accuracy (%), with its 95 % interval")
        axes[0].set_xlim(0, 105)
        axes[0].set_title("by kind of problem", fontsize=9, loc="left")
        if wrong:
            bars = [[(float(e.get(name, 0)), 0.0, 0.0) for name in wrong] for e in errors]
            _pairs(axes[1], wrong, bars)
            axes[1].set_xlabel("attempts")
            axes[1].set_title("wrong attempts by what is first wrong", fontsize=9, loc="left")
        axes[-1].legend(frameon=False, fontsize=8, loc="best")


def _share(counts: tuple[int, int]) -> tuple[float, float, float]:
    right, total = counts
    if not total:
        return 0.0, 0.0, 0.0
    low, high = wilson(right, total)
    share = right / total
    return 100 * share, 100 * max(0.0, share - low), 100 * max(0.0, high - share)


def _pairs(axes: Any, names: list[str], values: list[list[tuple[float, float, float]]]) -> None:
    for offset, name, colour, bars in zip(
        (-0.2, 0.2), ("start", "rlmec"), (GREY, RED), values, strict=True
    ):
        places = [i + offset for i in range(len(names))]
        errors = [[b[1] for b in bars], [b[2] for b in bars]]
        axes.barh(
            places,
            [b[0] for b in bars],
            0.38,
            color=colour,
            label=name,
            xerr=errors if any(map(any, errors)) else None,
            error_kw={"elinewidth": 1, "ecolor": "#333333"},
        )
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()


def _natural(name: str) -> tuple[int, str]:
    digits = "".join(c for c in name if c.isdigit())
    return int(digits[:9] or 0), name


def reward_histograms(right: np.ndarray, wrong: np.ndarray, path: Path) -> None:
    """How many tokens of right and of wrong attempts have which reward, on a log scale; zeros
    stand apart in the title, for there are often so many of them."""
    with panels(path, 2, 8.4, 3.0) as axes:
        for one, name, rewards, colour in (
            (axes[0], "right", right, GREEN),
            (axes[1], "wrong", wrong, RED),
        ):
            given = rewards[rewards != 0]
            if len(given):
                one.hist(given, bins=40, color=colour, log=True)
            zero = 1 - len(given) / max(len(rewards), 1)
            title = f"{name} attempts: {len(rewards):,} tokens, {zero:.1%} at 0"
            one.set_title(title, fontsize=9, loc="left")
            one.set_xlabel("token reward (other than 0)")
        axes[0].set_ylabel("tokens")


def credit_curve(items: Sequence[CreditItem], truth: str, path: Path) -> None:
    """Precision and recall if every token with a GRM probability below a threshold were punished,
    with the base rate, and the reward rule's own penalties as dashed lines. Items need
    `grm_logprobs`."""
    thresholds = np.concatenate([np.geomspace(1e-4, 0.05, 12), np.linspace(0.075, 0.999, 38)])
    points = precision_recall_curve(items, [float(t) for t in thresholds])
    found = credit_quality(items)
    with panels(path, 1, 6.4, 3.6) as (axes,):
        at = [point.threshold for point in points]
        for name, colour in (("precision", BLUE), ("recall", RED)):
            own = getattr(found.punished, name)
            label = f"{name} (dashed: as given, {own:.2f})"
            axes.plot(at, [getattr(point, name) for point in points], color=colour, label=label)
            axes.axhline(own, color=colour, linestyle="--", linewidth=0.9)
        axes.axhline(
            found.base_rate, color=GREY, linestyle=":", label=f"base rate ({found.base_rate:.2f})"
        )
        axes.set_ylim(0, 1.04)
        axes.set_xlim(0, 1)
        axes.set_xlabel("threshold on the GRM's probability of a token")
        title = f"tokens of {len(items):,} wrong attempts; truth: {truth.replace('_', ' ')}"
        axes.set_title(title, fontsize=9, loc="left")
        axes.legend(frameon=False, fontsize=8, loc="center right")


def edit_ratios(ratios: Mapping[str, Sequence[float]], limit: float, path: Path) -> None:
    """Distributions of edit ratios by the corrections' source, those above `limit` in its light."""
    with panels(path, 1, 6.4, 3.0) as (axes,):
        shown = {name: values for name, values in ratios.items() if len(values)}
        labels = [f"{name} ({len(values):,})" for name, values in shown.items()]
        axes.hist(
            [np.asarray(values) for values in shown.values()],
            bins=[float(edge) for edge in np.linspace(0, 1, 41)],
            stacked=True,
            color=[SERIES[i % len(SERIES)] for i in range(len(shown))],
            label=labels,
        )
        axes.axvline(limit, color=GREY, linestyle="--", linewidth=1)
        axes.set_xlabel("edit ratio: token edits over the longer length (dashed: the limit)")
        axes.set_ylabel("corrections")
        axes.set_xlim(0, 1)
        axes.legend(frameon=False, fontsize=8)


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
