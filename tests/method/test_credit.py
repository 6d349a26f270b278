"""Credit quality on attempts small enough to count by hand."""

import math

import numpy as np
import pytest

from rlmec.method.alignment import edit_script
from rlmec.method.credit import CreditItem, credit_quality, precision_recall_curve


def item(id, source, target, rewards, old, grm=None) -> CreditItem:
    values = None if grm is None else np.log(np.array(grm))
    script = edit_script(source, target)
    return CreditItem.from_script(id, script, np.array(rewards), np.array(old), values)


# a: 1 2 3 4 -> 1 9 3 8: removed 0 1 0 1, first edit at 1; punished 0 1 1 0
# b: 5 6 7 -> 5 6 6 7: a pure insertion, nothing removed; punished 0 0 1
A = item(
    "a",
    [1, 2, 3, 4],
    [1, 9, 3, 8],
    [0.0, -0.1, -0.05, 0.0],
    [-0.1, -3.0, -0.2, -0.3],
    [0.9, 0.1, 0.4, 0.6],
)
B = item("b", [5, 6, 7], [5, 6, 6, 7], [0.0, 0.0, -0.1], [-0.1, -2.0, -0.4], [0.8, 0.7, 0.2])


def test_precision_recall_and_rivals_by_hand():
    found = credit_quality([A, B])
    # punished: 3 tokens, one of them removed; removed: 2 tokens of 7
    assert (found.punished.precision, found.punished.recall) == (1 / 3, 1 / 2)
    assert found.punished.marked == 3
    assert found.base_rate == 2 / 7
    # the 3 least likely tokens: -3.0 (removed), -2.0, -0.4
    assert (found.unlikely.precision, found.unlikely.recall) == (1 / 3, 1 / 2)
    assert found.unlikely.marked == 3
    # after the first edit: a 1..3; b from the edit's own place on
    first = B.first_edit
    assert first in (1, 2)
    assert found.after_edit.marked == 3 + (3 - first)
    assert found.after_edit.precision == 2 / found.after_edit.marked
    assert found.after_edit.recall == 1.0
    assert (found.attempts, found.tokens, found.removed) == (2, 7, 2)
    assert (found.insertion_only, found.insertion_only_punished) == (1, 1)


def test_unlikely_tokens_are_chosen_over_all_attempts():
    # two punished tokens, both in a; the two least likely ones are in a (-3.0) and in c (-5.0)
    c = item("c", [7, 8], [7, 9], [0.0, 0.0], [-0.1, -5.0])
    found = credit_quality([A, c])
    assert found.unlikely.marked == 2
    assert (found.unlikely.precision, found.unlikely.recall) == (1.0, 2 / 3)


def test_ties_go_to_the_earlier_attempt_and_position():
    # 300 tokens a piece, every other one at -2.0; 5 punished, so the rival takes tokens 0 2 4 6 8
    # of the first attempt, and those are the ones its correction removes.
    source, old = list(range(300)), [-2.0, -1.0] * 150
    target = [999 if i in (0, 2, 4, 6, 8) else i for i in source]
    first = item("d", source, target, [0.0] * 300, old)
    second = item("e", source, source, [-0.1] * 5 + [0.0] * 295, old)
    found = credit_quality([first, second])
    assert (found.unlikely.precision, found.unlikely.recall) == (1.0, 1.0)


def test_shares_without_a_denominator_are_nan_and_left_out_of_the_metrics():
    silent = item("e", [1, 2], [1, 9], [0.0, 0.0], [-1.0, -1.0])
    found = credit_quality([silent])
    assert math.isnan(found.punished.precision)
    assert found.punished.recall == 0.0
    metrics = found.metrics()
    assert "credit_precision" not in metrics
    assert metrics["credit_recall"] == 0.0
    assert metrics["credit_base_rate"] == 0.5
    assert (metrics["credit_attempts"], type(metrics["credit_attempts"])) == (1, int)


def test_an_attempt_without_edits_marks_nothing_after_its_edit():
    same = item("f", [1, 2], [1, 2], [0.0, -0.1], [-1.0, -1.0])
    found = credit_quality([same])
    assert found.after_edit.marked == found.insertion_only == 0
    assert math.isnan(found.punished.recall)


def test_curve_by_hand():
    # p of a: .9 .1 .4 .6 (removed: .1, .6); of b: .8 .7 .2
    low, edge, high = precision_recall_curve([A, B], [0.15, 0.6, 0.65])
    assert (low.precision, low.recall, low.marked) == (1.0, 1 / 2, 1)
    assert (edge.precision, edge.recall, edge.marked) == (1 / 3, 1 / 2, 3)  # .6 is not below .6
    assert (high.precision, high.recall, high.marked) == (2 / 4, 1.0, 4)
    assert [p.threshold for p in (low, edge, high)] == [0.15, 0.6, 0.65]


def test_guards():
    with pytest.raises(ValueError, match="'g': token_rewards has 1 values, removed has 2"):
        item("g", [1, 2], [1, 9], [0.0], [-1.0, -1.0])
    with pytest.raises(ValueError, match="'h': old_logprobs holds NaN"):
        item("h", [1, 2], [1, 9], [0.0, 0.0], [-1.0, math.nan])
    with pytest.raises(ValueError, match="no wrong attempt"):
        credit_quality([])
    with pytest.raises(ValueError, match="no wrong attempt"):
        precision_recall_curve([], [0.5])
    with pytest.raises(ValueError, match="'i' has no grm_logprobs"):
        precision_recall_curve([A, item("i", [1], [2], [0.0], [-1.0])], [0.5])
