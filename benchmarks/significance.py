"""Statistics of a comparison of methods: pure functions of numbers.

In: one figure per unit (a chain, or a seed where there is one chain) for each method, in the same
order of units. Out: p-values, intervals, and the difference that could have been seen. The deciding
test is fixed before the runs: the paired t-test over units against one method, with Holm's
correction over the other methods.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

POWER = 0.8
"""How likely the smallest difference that "could have been seen" is to be found at 5 %."""


@dataclass(frozen=True)
class Difference:
    """A method minus the one it is compared with, paired by unit.

    `mean` over the units, the t statistic, the two-sided p, the ends of the 95 % interval, and
    `detectable`: the true difference that a test with this spread finds with probability `POWER`.
    """

    mean: float
    t: float
    p_value: float
    low: float
    high: float
    detectable: float


def paired_t(ours: Sequence[float], others: Sequence[float]) -> Difference:
    """Return `ours` minus `others`, paired by unit, with its paired t-test.

    Differences that are all 0 give p = 1; equal differences that are not 0 give p = 0. The interval
    is Student's. `detectable` is (t_0.975 + t_POWER) times the standard error, both quantiles of
    Student's distribution: an approximation that is a little too large. Raises ValueError if there
    are fewer than two units or their numbers differ.
    """
    if len(ours) != len(others) or len(ours) < 2:
        raise ValueError(
            f"{len(ours)} and {len(others)} units: each method needs at least two, and both the "
            f"same number"
        )
    differences = np.asarray(ours, dtype=float) - np.asarray(others, dtype=float)  # [units]
    mean = float(differences.mean())
    spread = float(differences.std(ddof=1))

    # Without spread the statistic is a quotient of rounding errors, of which scipy warns.
    if spread <= 1e-12 * max(1.0, abs(mean)):
        t, p = (0.0, 1.0) if mean == 0 else (math.inf, 0.0)
        return Difference(mean, t, p, mean, mean, 0.0)

    found: Any = stats.ttest_rel(ours, others)
    error = spread / math.sqrt(len(differences))
    half, more = (float(q) for q in stats.t.ppf([0.975, POWER], len(differences) - 1))
    low, high = mean - half * error, mean + half * error
    detectable = (half + more) * error
    return Difference(mean, float(found.statistic), float(found.pvalue), low, high, detectable)


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
