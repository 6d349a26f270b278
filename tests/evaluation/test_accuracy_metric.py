"""AccuracyMetric: counts worked by hand, however the completions are cut into batches."""

from __future__ import annotations

import random

import pytest

from rlmec.evaluation.accuracy import AccuracyMetric

VERDICTS = ["right", "right", "no_answer", "wrong", "right"]
CLIPPED = [False, True, False, False, False]
COUNTS = {"accuracy": 2, "clipped_rate": 1, "no_answer_rate": 1, "count": 5}  # one right is clipped


def counts(metric: AccuracyMetric) -> dict[str, int]:
    return {name: int(count) for name, count in metric.compute().items()}


def test_counts_do_not_depend_on_how_the_completions_are_cut() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    order = random.Random(seed).sample(range(5), 5)
    metric = AccuracyMetric()
    for rows in (order[:1], [], order[1:4], order[4:]):
        metric.update([VERDICTS[i] for i in rows], [CLIPPED[i] for i in rows])
    assert counts(metric) == COUNTS

    metric.reset()
    metric.update(VERDICTS[:1], CLIPPED[:1])
    assert counts(metric) == {"accuracy": 1, "clipped_rate": 0, "no_answer_rate": 0, "count": 1}


def test_no_completion_counts_as_zero() -> None:
    metric = AccuracyMetric()
    metric.update([], [])
    assert set(counts(metric).values()) == {0}


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        AccuracyMetric().update(["right"], [])
