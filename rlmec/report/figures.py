"""The figures of the report, drawn as PNG files.

In: numbers that other modules have measured. Out: one file per function, at the given path. Nothing
here uses matplotlib's global state, and matplotlib is imported only when a figure is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlmec.evaluation.accuracy import wilson
from rlmec.method.credit import CreditItem, credit_quality, precision_recall_curve

GREY, BLUE, RED, GREEN = "#8a8f98", "#3b7dd8", "#d1603d", "#0b9b6d"
LIGHT_BLUE, PURPLE, OCHRE = "#7fb0d6", "#8b5fbf", "#c9a227"
SERIES = (BLUE, RED, GREEN, PURPLE, OCHRE, GREY)
DARK, LINES = "#333333", "#e3e3e3"

TITLE: dict[str, Any] = {"fontsize": 9, "loc": "left"}
LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 8}


@contextmanager
def panels(path: Path, columns: int, width: float, height: float) -> Iterator[list[Any]]:
    """Yield axes side by side; what the block draws is written to `path` when the block ends.

    `width` and `height` are those of the whole figure in inches.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = list(figure.subplots(1, columns, squeeze=False)[0])
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    yield axes
    figure.savefig(path, dpi=110)


# --- accuracy ---


class Bar(NamedTuple):
    """One model: its accuracy with a 95 % interval on a number of problems."""

    name: str
    accuracy: float
    low: float
    high: float
    problems: int


def accuracy_figure(tasks: Mapping[str, Sequence[Bar]], path: Path) -> None:
    """Accuracy of every judged model with its 95 % interval, one panel per task on one scale.

    The first bar (the start) is grey, and the last one of several stands out.
    """
    from matplotlib.figure import Figure

    counts = [len(bars) for bars in tasks.values()]
    figure = Figure(figsize=(6.8, 0.46 * sum(counts) + 0.62 * len(tasks) + 0.5))
    rows = figure.subplots(
        len(tasks), sharex=True, squeeze=False, height_ratios=[n + 0.6 for n in counts]
    )
    for axes, (task, bars) in zip(rows[:, 0], tasks.items(), strict=True):
        _accuracy_bars(axes, bars)
        axes.set_title(f"{task}, {bars[0].problems:,} problems", color="#444444", **TITLE)

    # Small accuracies get a scale of their own; above the highest bar there is room for its number.
    top = max(100 * bar.high for bars in tasks.values() for bar in bars)
    rows[-1, 0].set_xlim(0, min(112.0, max(6.0, 1.12 * top)))
    rows[-1, 0].set_xlabel("accuracy (%), with its 95 % interval")
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def _accuracy_bars(axes: Any, bars: Sequence[Bar]) -> None:
    places = range(len(bars))[::-1]
    shown = [100 * bar.accuracy for bar in bars]
    # max: rounding may put an end of the interval on the wrong side of the accuracy
    below = [max(0.0, 100 * (bar.accuracy - bar.low)) for bar in bars]
    above = [max(0.0, 100 * (bar.high - bar.accuracy)) for bar in bars]
    colours = [GREY] + [LIGHT_BLUE] * (len(bars) - 2) + [RED]
    style = {"ecolor": DARK, "elinewidth": 1.0, "capsize": 3}
    axes.barh(places, shown, 0.66, color=colours[: len(bars)], xerr=[below, above], error_kw=style)

    for place, value, up in zip(places, shown, above, strict=True):
        axes.annotate(
            f"{value:.1f}",
            (value + up, place),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )

    axes.set_yticks(list(places), [bar.name.replace("_", " ") for bar in bars])
    axes.set_ylim(-0.6, len(bars) - 0.4)
    axes.grid(axis="x", color=LINES, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


Counts = Mapping[str, tuple[int, int]]


def kinds_figure(
    before: Counts, after: Counts, errors: tuple[Mapping[str, int], Mapping[str, int]], path: Path
) -> None:
    """Accuracy by kind of problem, and wrong attempts by kind of error.

    `before` (the start) and `after` (the policy) hold (right, total) attempts per kind of problem;
    `errors` hold the wrong attempts of both by kind of error. The right panel is left out if the
    task names no kinds of errors.
    """
    kinds = sorted(set(before) | set(after), key=_first_number)
    wrong = sorted(set(errors[0]) | set(errors[1]), key=lambda e: -errors[0].get(e, 0))
    columns, width = (2, 9.4) if wrong else (1, 5.4)
    height = 1.3 + 0.34 * max(len(kinds), len(wrong))
    with panels(path, columns, width, height) as axes:
        accuracies = [
            [_accuracy_bar(*counts.get(kind, (0, 0))) for kind in kinds]
            for counts in (before, after)
        ]
        _paired_bars(axes[0], [kind or "all" for kind in kinds], accuracies)
        axes[0].set_xlabel("accuracy (%), with its 95 % interval")
        axes[0].set_xlim(0, 105)
        axes[0].set_title("by kind of problem", **TITLE)

        if wrong:
            bars = [[(float(e.get(name, 0)), 0.0, 0.0) for name in wrong] for e in errors]
            _paired_bars(axes[1], wrong, bars)
            axes[1].set_xlabel("attempts")
            axes[1].set_title("wrong attempts by kind of the first error", **TITLE)
        axes[-1].legend(loc="best", **LEGEND)


def _first_number(name: str) -> tuple[int, str]:
    """The key that sorts "2 steps" before "10 steps"."""
    digits = "".join(c for c in name if c.isdigit())
    return int(digits[:9] or 0), name


def _accuracy_bar(right: int, total: int) -> tuple[float, float, float]:
    """An accuracy in percent, and how far its interval goes below and above it."""
    if not total:
        return 0.0, 0.0, 0.0
    low, high = wilson(right, total)
    accuracy = right / total
    return 100 * accuracy, 100 * max(0.0, accuracy - low), 100 * max(0.0, high - accuracy)


def _paired_bars(
    axes: Any, names: list[str], pairs: list[list[tuple[float, float, float]]]
) -> None:
    """Two bars per name, of the start and of the policy; each is (length, below, above)."""
    for offset, label, colour, bars in zip(
        (-0.2, 0.2), ("start", "rlmec"), (GREY, RED), pairs, strict=True
    ):
        errors = [[below for _, below, _ in bars], [above for _, _, above in bars]]
        axes.barh(
            [i + offset for i in range(len(names))],
            [length for length, _, _ in bars],
            0.38,
            color=colour,
            label=label,
            xerr=errors if any(map(any, errors)) else None,
            error_kw={"elinewidth": 1, "ecolor": DARK},
        )
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()


# --- token rewards and corrections ---


def reward_histograms(right: np.ndarray, wrong: np.ndarray, path: Path) -> None:
    """Histograms of the token rewards of right and of wrong attempts, on a log scale.

    Rewards of 0 are given as a share in the title: there may be so many that no bar could show
    them next to the others.
    """
    with panels(path, 2, 8.4, 3.0) as axes:
        for one, name, rewards, colour in (
            (axes[0], "right", right, GREEN),
            (axes[1], "wrong", wrong, RED),
        ):
            given = rewards[rewards != 0]
            if len(given):
                one.hist(given, bins=40, color=colour, log=True)
            zero = 1 - len(given) / max(len(rewards), 1)
            one.set_title(f"{name} attempts: {len(rewards):,} tokens, {zero:.1%} at 0", **TITLE)
            one.set_xlabel("token reward (other than 0)")
        axes[0].set_ylabel("tokens")


def credit_curve(items: Sequence[CreditItem], truth: str, path: Path) -> None:
    """Precision and recall of penalties by a threshold on the GRM's probability of a token.

    A point says what would be if every token with a probability below the threshold were punished.
    Dashed lines show the penalties that the reward rule gave, a dotted line the base rate. `truth`
    names what decides which penalties are right. The items need `grm_logprobs`.
    """
    thresholds = np.concatenate([np.geomspace(1e-4, 0.05, 12), np.linspace(0.075, 0.999, 38)])
    points = precision_recall_curve(items, [float(t) for t in thresholds])
    given = credit_quality(items)
    with panels(path, 1, 6.4, 3.6) as (axes,):
        for name, colour in (("precision", BLUE), ("recall", RED)):
            own = getattr(given.punished, name)
            axes.plot(
                [point.threshold for point in points],
                [getattr(point, name) for point in points],
                color=colour,
                label=f"{name} (dashed: as given, {own:.2f})",
            )
            axes.axhline(own, color=colour, linestyle="--", linewidth=0.9)
        rate = given.base_rate
        axes.axhline(rate, color=GREY, linestyle=":", label=f"base rate ({rate:.2f})")

        axes.set_ylim(0, 1.04)
        axes.set_xlim(0, 1)
        axes.set_xlabel("threshold on the GRM's probability of a token")
        shown = truth.replace("_", " ")
        axes.set_title(f"tokens of {len(items):,} wrong attempts; truth: {shown}", **TITLE)
        axes.legend(loc="center right", **LEGEND)


def edit_ratios(ratios: Mapping[str, Sequence[float]], limit: float, path: Path) -> None:
    """Histogram of edit ratios by the source of the corrections, with the limit that is allowed."""
    shown = {name: values for name, values in ratios.items() if len(values)}
    with panels(path, 1, 6.4, 3.0) as (axes,):
        axes.hist(
            [np.asarray(values) for values in shown.values()],
            bins=[float(edge) for edge in np.linspace(0, 1, 41)],
            stacked=True,
            color=[SERIES[i % len(SERIES)] for i in range(len(shown))],
            label=[f"{name} ({len(values):,})" for name, values in shown.items()],
        )
        axes.axvline(limit, color=GREY, linestyle="--", linewidth=1)
        axes.set_xlabel("edit ratio: token edits over the longer length (dashed: the limit)")
        axes.set_ylabel("corrections")
        axes.set_xlim(0, 1)
        axes.legend(**LEGEND)


# --- training ---

Rows = Sequence[Mapping[str, float]]

CURVES = {
    "warmup": ("train/loss", "dev/accuracy"),
    "grm": ("train/loss", "val/loss", "grm/rewrite_success"),
    "policy": (
        "train/loss",
        "dev/accuracy",
        "train/approx_kl",
        "train/ratio/mean",
        "val/entropy",
    ),
}
"""The metrics that are drawn for each stage, if they were recorded."""


def training_curves(fits: Mapping[str, Rows], stage: str, path: Path) -> bool:
    """Draw the metrics of CURVES over optimizer steps, for the fits of one stage by name.

    Each row holds a `step` and metrics by name; rows may be in any order. Draws nothing and returns
    False if no metric has two points in any fit.
    """
    curves = {
        metric: {name: _points(rows, metric) for name, rows in fits.items()}
        for metric in CURVES[stage]
    }
    shown = {m: lines for m, lines in curves.items() if any(len(p) > 1 for p in lines.values())}
    if not shown:
        return False

    with panels(path, len(shown), 3.3 * len(shown) + 0.4, 2.9) as axes:
        for one, (metric, lines) in zip(axes, shown.items(), strict=True):
            for at, (name, points) in enumerate(lines.items()):
                if points:
                    one.plot(
                        *zip(*points, strict=True),
                        color=SERIES[at % len(SERIES)],
                        marker="." if len(points) < 20 else None,
                        label=name.replace("_", " "),
                    )
            one.set_title(metric, **TITLE)
            one.set_xlabel("optimizer step")
        if len(fits) > 1:
            axes[0].legend(**LEGEND)
    return True


def _points(rows: Rows, metric: str) -> list[tuple[float, float]]:
    return sorted((row["step"], row[metric]) for row in rows if row.get(metric) is not None)
