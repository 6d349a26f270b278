"""Statistics of a comparison against tables and numbers worked by hand."""

import math

import numpy as np
import pytest

from benchmarks.significance import holm, paired_t


@pytest.mark.parametrize(
    ("t", "freedom", "p"),
    [
        (1.0, 1, 0.5),  # a quarter of the circle on either side
        (1.0, 2, 1 - 1 / math.sqrt(3)),  # 1 - t / sqrt(2 + t^2)
        (12.706205, 1, 0.05),  # from here on: the 97.5 % points of a printed table
        (4.302653, 2, 0.05),
        (3.182446, 3, 0.05),
        (2.776445, 4, 0.05),
        (2.570582, 5, 0.05),
        (2.262157, 9, 0.05),
        (2.228139, 10, 0.05),
        (-4.604095, 4, 0.01),
        (0.0, 7, 1.0),
    ],
)
def test_p_values_by_the_table(t, freedom, p):
    """Differences of mean t / sqrt(n) and standard deviation 1 have the statistic t."""
    shape = np.arange(freedom + 1.0)
    differences = (shape - shape.mean()) / shape.std(ddof=1) + t / math.sqrt(len(shape))
    found = paired_t(differences, 0 * shape)
    assert found.t == pytest.approx(t)
    assert found.p_value == pytest.approx(p, abs=2e-7)


def test_a_paired_t_test_by_hand():
    """Differences 1, 2, 3 (of 0.01): mean 2, sd 1, t = 2 / (1 / sqrt 3) = 3.4641016; with two
    degrees of freedom p = 1 - t / sqrt(2 + t^2) = 1 - 3.4641016 / 3.7416574 = 0.0741799."""
    found = paired_t([0.81, 0.84, 0.86], [0.80, 0.82, 0.83])
    assert found.mean == pytest.approx(0.02)
    assert found.t == pytest.approx(3.4641016, abs=1e-6)
    assert found.p_value == pytest.approx(0.0741799, abs=1e-6)
    # t_0.975 = 4.302653 and t_0.8 = 1.060660; the standard error is 0.01 / sqrt 3.
    assert (found.low, found.high) == pytest.approx((-0.0048414, 0.0448414), abs=1e-6)
    assert found.detectable == pytest.approx(0.0309651, abs=1e-6)
    back = paired_t([0.80, 0.82, 0.83], [0.81, 0.84, 0.86])
    assert (back.mean, back.p_value) == (-found.mean, found.p_value)


def test_units_that_all_differ_alike():
    assert paired_t([0.5, 0.6], [0.5, 0.6]).p_value == 1.0
    assert paired_t([0.5, 0.75], [0.25, 0.5]).p_value == 0.0
    for bad in (([0.5], [0.5]), ([0.5, 0.6], [0.5, 0.6, 0.7])):
        with pytest.raises(ValueError, match=f"{len(bad[0])} and {len(bad[1])} units"):
            paired_t(*bad)


def test_holm_by_hand():
    """Sorted 0.01, 0.02, 0.03, 0.5 times 4, 3, 2, 1: 0.04, 0.06, 0.06 (never below the one
    before), 0.5. One p-value stays; none is above 1."""
    given = {"c": 0.03, "a": 0.01, "d": 0.5, "b": 0.02}
    found = holm(given)
    assert list(found) == list(given)
    assert found == pytest.approx({"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.5})
    assert holm({"a": 0.02}) == {"a": 0.02}
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}
