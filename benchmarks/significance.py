"""Statistics of a comparison of methods over seeds: pure functions of numbers.

In: one figure a seed for each method, in the same order of seeds, or one a seed and problem. Out:
p-values and intervals. The test that decides is named beforehand: the paired t-test over seeds
against one method, with Holm's correction over the others. No disk, no model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Difference:
    """A method less the one it is compared with: mean over seeds, t statistic, two-sided p."""

    mean: float
    t: float
    p_value: float


def student_p(t: float, freedom: int) -> float:
    """Two-sided p-value of Student's t with `freedom` degrees of freedom, by the finite series.

    An infinite t gives 0. Raises ValueError below one degree or for NaN. Source: Abramowitz and
    Stegun, 26.7.3 and 26.7.4.
    """
    if freedom < 1 or math.isnan(t):
        raise ValueError(f"t is {t} with {freedom} degrees of freedom")
    angle = math.atan(abs(t) / math.sqrt(freedom))
    cosine, is_odd = math.cos(angle), freedom % 2
    term = cosine if is_odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(3 if is_odd else 2, freedom - 1, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    within = math.sin(angle) * total
    if is_odd:
        within = 2 / math.pi * (angle + within)
    return min(max(1.0 - within, 0.0), 1.0)


def paired_t(ours: Sequence[float], others: Sequence[float]) -> Difference:
    """`ours` less `others`, seed by seed, and the paired t-test of it.

    Differences that are all 0 give p = 1, all alike but not 0 p = 0. Fewer than two seeds or
    unequal numbers raise ValueError.
    """
    if len(ours) != len(others) or len(ours) < 2:
        raise ValueError(f"{len(ours)} and {len(others)} seeds: at least two each, as many of both")
    differences = np.asarray(ours, dtype=float) - np.asarray(others, dtype=float)  # [seeds]
    mean, spread = float(differences.mean()), float(differences.std(ddof=1))
    if spread <= 1e-12 * max(1.0, abs(mean)):
        return Difference(mean, 0.0, 1.0) if mean == 0 else Difference(mean, math.inf, 0.0)
    t = mean / (spread / math.sqrt(len(differences)))
    return Difference(mean, t, student_p(t, len(differences) - 1))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's corrected p-values by name: the i-th smallest of m times (m - i + 1), never below one
    before it, at most 1. Source: Holm (1979)."""
    out: dict[str, float] = {}
    least = 0.0
    for at, name in enumerate(sorted(p_values, key=lambda n: p_values[n])):
        least = max(least, min(1.0, (len(p_values) - at) * p_values[name]))
        out[name] = least
    return {name: out[name] for name in p_values}


def bootstrap_interval(
    ours: np.ndarray, others: np.ndarray, *, draws: int = 2000, level: float = 0.95, seed: int = 1
) -> tuple[float, float]:
    """Interval of the mean difference when seeds and problems are both drawn anew.

    `ours` and `others` are [seeds, problems], what each gave on each problem (1 right, 0 wrong), in
    the same order. In a draw the same seeds and problems are taken of both. Unequal shapes raise
    ValueError. Deterministic for a `seed`.
    """
    if ours.shape != others.shape or ours.ndim != 2 or not ours.size:
        raise ValueError(f"shapes {ours.shape} and {others.shape} are not [seeds, problems] alike")
    differences = np.asarray(ours, dtype=float) - others  # [seeds, problems]
    seeds, problems = differences.shape
    rng, means = np.random.default_rng(seed), np.empty(draws)
    for at in range(draws):
        of_seeds = np.bincount(rng.integers(0, seeds, seeds), minlength=seeds)
        of_problems = np.bincount(rng.integers(0, problems, problems), minlength=problems)
        means[at] = of_seeds @ differences @ of_problems / differences.size
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def best_rate(scores: Mapping[float, float]) -> float:
    """The learning rate with the best score on dev, of equal ones the lowest; none: ValueError."""
    if not scores:
        raise ValueError("no learning rate was tried")
    return min(scores, key=lambda rate: (-scores[rate], rate))
