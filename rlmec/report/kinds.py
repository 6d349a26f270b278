"""Figures of accuracy before and after by kind of problem, and of what wrong attempts get wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlmec.evaluation import wilson
from rlmec.report.drawing import GREY, RED, panels

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
