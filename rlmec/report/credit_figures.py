"""Figures of the credit: token rewards, precision and recall over the threshold, edit ratios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rlmec.credit import CreditItem, credit_quality, precision_recall_curve
from rlmec.report.drawing import BLUE, GREEN, GREY, RED, SERIES, panels


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
