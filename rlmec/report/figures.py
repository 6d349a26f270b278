"""The figures of the report: a drawing per figure, to be saved as PNG or put into a page as SVG.

In: numbers that other modules have measured. Out: matplotlib figures of one size, each with one
subject. `inline_svg` turns a figure into an element of a page. Nothing here uses matplotlib's
global state, and matplotlib is imported only when a figure is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rlmec.evaluation.accuracy import wilson
from rlmec.method.credit import CreditItem, credit_quality, precision_recall_curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GREY, BLUE, ORANGE, GREEN = "#66707c", "#1d63c4", "#b85c00", "#08774f"
PURPLE, OCHRE, PINK = "#7a45c9", "#8a6d00", "#b5307b"
INK, QUIET, LINE = "#1b2027", "#5c6673", "#dfe3e8"

SERIES = (BLUE, ORANGE, GREEN, PURPLE, OCHRE, PINK, GREY)
"""The colours of series without a colour of their own, in this order."""

OWN_COLOURS = {
    "start": GREY,
    "policy": BLUE,
    "rlmec": BLUE,
    "continued_sft": ORANGE,
    "imitation_alone": GREEN,
    "rft": PURPLE,
    "dpo": OCHRE,
    "grpo": PINK,
}
"""The colours of judged models, the same in every figure and every report."""

WIDTH, HEIGHT = 3.9, 2.6
"""The size of a figure in inches: three fit into a page, and one on a phone."""

SMALL = 8.0
"""The size of all texts but the title, in points."""

LEGEND: dict[str, Any] = {"frameon": False, "fontsize": SMALL, "labelcolor": INK}


def series_colours(names: Sequence[str]) -> dict[str, str]:
    """A colour per series. Names without a colour of their own get what the others leave."""
    free = [c for c in SERIES if c not in {OWN_COLOURS.get(name) for name in names}]
    unnamed = [name for name in names if name not in OWN_COLOURS]
    given = {name: free[i % len(free)] for i, name in enumerate(unnamed)}
    return {name: OWN_COLOURS.get(name) or given[name] for name in names}


def write_png(figure: Figure, path: Path) -> None:
    """Saves a figure as PNG."""
    figure.savefig(path, dpi=150)


def _figure(title: str, height: float = HEIGHT) -> tuple[Figure, Any]:
    """A figure with one panel, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    _plain_axes(axes, title)
    return figure, axes


def _plain_axes(axes: Any, title: str) -> None:
    axes.set_title(_literal(title), fontsize=9, loc="left", color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(which="both", colors=QUIET, labelsize=SMALL, length=0)
    axes.grid(color=LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(fontsize=SMALL, color=QUIET)


def _literal(text: str) -> str:
    """A text that matplotlib shows as it is: no formula, no character that SVG cannot hold."""
    shown = "".join(c if c.isprintable() else "\ufffd" for c in text)
    return shown.replace("$", r"\$")


# --- accuracy ---


class Bar(NamedTuple):
    """One model: its accuracy with a 95 % interval on a number of problems."""

    name: str
    accuracy: float
    low: float
    high: float
    problems: int


def accuracy_figure(tasks: Mapping[str, Sequence[Bar]]) -> Figure:
    """Accuracy of every judged model with its 95 % interval, one panel per task on one scale."""
    from matplotlib.figure import Figure

    counts = [len(bars) for bars in tasks.values()]
    height = 0.27 * sum(counts) + 0.42 * len(tasks) + 0.4
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    rows = figure.subplots(
        len(tasks), sharex=True, squeeze=False, height_ratios=[n + 0.6 for n in counts]
    )
    for axes, (task, bars) in zip(rows[:, 0], tasks.items(), strict=True):
        _plain_axes(axes, f"{task}, {bars[0].problems:,} problems")
        _accuracy_bars(axes, bars)

    # Small accuracies get a scale of their own; above the highest bar there is room for its number.
    top = max(100 * bar.high for bars in tasks.values() for bar in bars)
    rows[-1, 0].set_xlim(0, min(115.0, max(6.0, 1.15 * top)))
    rows[-1, 0].set_xlabel("accuracy (%), with its 95 % interval")
    return figure


def _accuracy_bars(axes: Any, bars: Sequence[Bar]) -> None:
    places = range(len(bars))[::-1]
    shown = [100 * bar.accuracy for bar in bars]
    # max: rounding may put an end of the interval on the wrong side of the accuracy
    below = [max(0.0, 100 * (bar.accuracy - bar.low)) for bar in bars]
    above = [max(0.0, 100 * (bar.high - bar.accuracy)) for bar in bars]
    named = series_colours([bar.name for bar in bars])
    colours = [named[bar.name] for bar in bars]
    style = {"ecolor": INK, "elinewidth": 1.0, "capsize": 3}
    axes.barh(places, shown, 0.66, color=colours, xerr=[below, above], error_kw=style)

    for place, value, up in zip(places, shown, above, strict=True):
        axes.annotate(
            f"{value:.1f}",
            (value + up, place),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=SMALL,
            color=INK,
        )

    axes.set_yticks(list(places), [_literal(bar.name.replace("_", " ")) for bar in bars])
    axes.set_ylim(-0.6, len(bars) - 0.4)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)


Counts = Mapping[str, tuple[int, int]]


def kinds_figure(before: Counts, after: Counts) -> Figure:
    """Accuracy of the start (`before`) and of the policy (`after`) by kind of problem.

    Both hold (right, total) attempts per kind.
    """
    kinds = sorted(set(before) | set(after), key=_first_number)
    figure, axes = _figure("accuracy by kind of problem", 1.1 + 0.34 * len(kinds))
    bars = [
        [_accuracy_bar(*counts.get(kind, (0, 0))) for kind in kinds] for counts in (before, after)
    ]
    _paired_bars(axes, [kind or "all" for kind in kinds], bars)
    axes.set_xlabel("accuracy (%), with its 95 % interval")
    axes.set_xlim(0, 105)
    _legend_below(figure)
    return figure


def errors_figure(before: Mapping[str, int], after: Mapping[str, int]) -> Figure:
    """Wrong attempts of the start (`before`) and of the policy (`after`) by kind of error."""
    names = sorted(set(before) | set(after), key=lambda name: -before.get(name, 0))
    figure, axes = _figure("wrong attempts by their first error", 1.1 + 0.34 * len(names))
    bars = [[(float(e.get(name, 0)), 0.0, 0.0) for name in names] for e in (before, after)]
    _paired_bars(axes, names, bars)
    axes.set_xlabel("attempts")
    _legend_below(figure)
    return figure


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
    for offset, label, bars in zip((-0.2, 0.2), ("start", "policy"), pairs, strict=True):
        errors = [[below for _, below, _ in bars], [above for _, _, above in bars]]
        axes.barh(
            [i + offset for i in range(len(names))],
            [length for length, _, _ in bars],
            0.38,
            color=OWN_COLOURS[label],
            label=label,
            xerr=errors if any(map(any, errors)) else None,
            error_kw={"elinewidth": 1, "ecolor": INK},
        )
    axes.set_yticks(range(len(names)), [_literal(name) for name in names])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")


def _legend_below(figure: Figure) -> None:
    figure.legend(loc="outside lower left", ncols=3, **LEGEND)


# --- token rewards and corrections ---


def reward_figure(rewards: np.ndarray, *, right: bool) -> Figure:
    """Histogram of the token rewards of right or of wrong attempts, on a log scale.

    Rewards of 0 are given as a share in the title: there may be so many that no bar could show
    them next to the others.
    """
    given = rewards[rewards != 0]
    zero = 1 - len(given) / max(len(rewards), 1)
    which = "right" if right else "wrong"
    figure, axes = _figure(f"{which} attempts: {len(rewards):,} tokens, {zero:.1%} at 0")
    if len(given):
        axes.hist(given, bins=40, color=BLUE if right else ORANGE, log=True)
        axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("token reward (other than 0)")
    axes.set_ylabel("tokens")
    return figure


def credit_figure(items: Sequence[CreditItem], truth: str) -> Figure:
    """Precision and recall of penalties by a threshold on the GRM's probability of a token.

    A point says what would be if every token with a probability below the threshold were punished.
    Dashed lines show the penalties that the reward rule gave, a dotted line the base rate. `truth`
    names what decides which penalties are right. The items need `grm_logprobs`.
    """
    thresholds = np.concatenate([np.geomspace(1e-4, 0.05, 12), np.linspace(0.075, 0.999, 38)])
    points = precision_recall_curve(items, [float(t) for t in thresholds])
    given = credit_quality(items)
    shown = truth.replace("_", " ")
    figure, axes = _figure(f"{len(items):,} wrong attempts; truth: {shown}", HEIGHT + 0.4)
    for name, colour in (("precision", BLUE), ("recall", ORANGE)):
        own = getattr(given.punished, name)
        axes.plot(
            [point.threshold for point in points],
            [getattr(point, name) for point in points],
            color=colour,
            label=f"{name} (dashed: as given, {own:.2f})",
        )
        axes.axhline(own, color=colour, linestyle="--", linewidth=0.9)
    rate = given.base_rate
    axes.axhline(rate, color=GREY, linestyle=":", label=f"by chance ({rate:.2f})")

    axes.set_ylim(0, 1.04)
    axes.set_xlim(0, 1)
    axes.set_xlabel("threshold on the GRM's probability of a token")
    figure.legend(loc="outside lower left", **LEGEND)
    return figure


def edits_figure(ratios: Mapping[str, Sequence[float]], limit: float) -> Figure:
    """Histogram of edit ratios by the source of the corrections, with the limit that is allowed."""
    shown = {name: values for name, values in ratios.items() if len(values)}
    legend_lines = (len(shown) + 1) // 2
    figure, axes = _figure("how much the corrections change", HEIGHT + 0.2 * legend_lines)
    axes.hist(
        [np.asarray(values) for values in shown.values()],
        bins=[float(edge) for edge in np.linspace(0, 1, 41)],
        stacked=True,
        color=[SERIES[i % len(SERIES)] for i in range(len(shown))],
        label=[_literal(f"{name} ({len(values):,})") for name, values in shown.items()],
    )
    axes.axvline(limit, color=GREY, linestyle="--", linewidth=1)
    axes.set_xlabel("token edits over the longer length (dashed: the limit)")
    axes.set_ylabel("corrections")
    axes.set_xlim(0, 1)
    figure.legend(loc="outside lower left", ncols=2, **LEGEND)
    return figure


# --- training ---

Rows = Sequence[Mapping[str, float]]
Points = list[tuple[float, float]]

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

METRIC_WORDS = {
    "dev/accuracy": "Share of dev problems solved greedily",
    "grm/rewrite_success": "Share of held-out attempts that the GRM corrects",
    "train/approx_kl": "Distance to the old policy, in nats per rewarded token",
    "train/loss": "Loss of the training steps",
    "train/ratio/mean": "Mean probability of rewarded tokens over that of the old policy",
    "val/entropy": "Entropy of the policy in nats per token",
    "val/loss": "Loss on held-out pairs",
}
"""The metrics of CURVES in words."""


def curves(fits: Mapping[str, Rows], stage: str) -> dict[str, dict[str, Points]]:
    """The metrics of CURVES over optimizer steps: by metric, the points of each fit of a stage.

    Each row holds a `step` and metrics by name; rows may be in any order. A metric without two
    points in any fit is left out, and so is a fit without points.
    """
    found = {}
    for metric in CURVES[stage]:
        lines = {name: _points(rows, metric) for name, rows in fits.items()}
        if any(len(points) > 1 for points in lines.values()):
            found[metric] = {name: points for name, points in lines.items() if points}
    return found


def curve_figure(stage: str, metric: str, lines: Mapping[str, Points]) -> Figure:
    """One metric of a stage's fits over optimizer steps."""
    many = len(lines) > 1
    legend_lines = (len(lines) + 2) // 3 if many else 0
    figure, axes = _figure(f"{stage}: {metric}", HEIGHT + 0.2 * legend_lines)
    colours = series_colours(list(lines))
    for name, points in lines.items():
        axes.plot(
            *zip(*points, strict=True),
            color=colours[name],
            linewidth=1.6,
            marker="." if len(points) < 20 else None,
            label=_literal(name.replace("_", " ")),
        )
    axes.set_xlabel("optimizer step")
    axes.xaxis.get_major_locator().set_params(integer=True)
    if many:
        _legend_below(figure)
    return figure


def _points(rows: Rows, metric: str) -> Points:
    return sorted((row["step"], row[metric]) for row in rows if row.get(metric) is not None)
