"""Statistics of a comparison of methods over seeds: pure functions of numbers.

In: one figure per seed for each method, in the same order of seeds, or one per seed and problem.
Out: p-values and intervals. The deciding test is fixed before the runs: the paired t-test over
seeds against one method, with Holm's correction over the other methods.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Difference:
    """A method minus the one it is compared with: mean over seeds, t statistic, two-sided p."""

    mean: float
    t: float
    p_value: float


def paired_t(ours: Sequence[float], others: Sequence[float]) -> Difference:
    """Return the mean of `ours` minus `others`, paired by seed, with its paired t-test.

    Differences that are all 0 give p = 1; equal differences that are not 0 give p = 0. Raises
    ValueError if there are fewer than two seeds or the numbers of seeds differ.
    """
    if len(ours) != len(others) or len(ours) < 2:
        raise ValueError(
            f"{len(ours)} and {len(others)} seeds: each method needs at least two, and both the "
            f"same number"
        )
    differences = np.asarray(ours, dtype=float) - np.asarray(others, dtype=float)  # [seeds]
    mean = float(differences.mean())
    spread = float(differences.std(ddof=1))

    # Without spread the statistic is a quotient of rounding errors, of which scipy warns.
    if spread <= 1e-12 * max(1.0, abs(mean)):
        return Difference(mean, 0.0, 1.0) if mean == 0 else Difference(mean, math.inf, 0.0)

    found: Any = stats.ttest_rel(ours, others)
    return Difference(mean, float(found.statistic), float(found.pvalue))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return Holm's corrected p-values by name, in the order given.

    The i-th smallest of m p-values is multiplied by m - i + 1. A corrected value is never below the
    one before it and never above 1. Source: Holm (1979).
    """
    corrected: dict[str, float] = {}
    least = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda n: p_values[n])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = least
    return {name: corrected[name] for name in p_values}


def bootstrap_interval(
    ours: np.ndarray, others: np.ndarray, *, draws: int = 2000, level: float = 0.95, seed: int = 1
) -> tuple[float, float]:
    """Return the percentile interval of the mean difference, resampling seeds and problems.

    `ours` and `others` are [seeds, problems]: the result of each method on each problem (1 right, 0
    wrong), in the same order. A draw takes the same seeds and problems of both. The interval is
    deterministic for a `seed`. Raises ValueError if the shapes differ, or if there are fewer than
    two seeds or two problems.
    """
    if ours.shape != others.shape or ours.ndim != 2 or min(ours.shape) < 2:
        raise ValueError(
            f"shapes {ours.shape} and {others.shape}: both must be the same [seeds, problems], "
            f"with at least two of each"
        )
    differences = np.asarray(ours, dtype=float) - others  # [seeds, problems]

    # Indices are resampled instead of values: two independent samples, seeds and problems.
    def mean_of(seeds: np.ndarray, problems: np.ndarray, axis: int) -> np.ndarray:
        drawn = differences[seeds[..., :, None], problems[..., None, :]]
        return drawn.mean((-2, -1))  # [draws]

    found = stats.bootstrap(
        [np.arange(size) for size in differences.shape],
        mean_of,
        n_resamples=draws,
        batch=100,
        vectorized=True,
        axis=-1,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
