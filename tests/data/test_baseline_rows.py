"""Rows of other trainings on the same pairs, worked by hand."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from small_models import prompts
from small_pairs import PROMPT, pair, values

from rlmec.data.baseline_rows import (
    advantage_rows,
    attempt_preferences,
    correction_preferences,
    right_rows,
)
from rlmec.data.policy_rows import pair_rows
from rlmec.data.prefix_tree import flat_rows
from rlmec.data.row import step_sizes

RIGHT = pair("r", (10, 11, 12), (10, 11, 12), (0.4, 0, 0.2))
WRONG = pair("w", (10, 13), (10, 20, 12), (0, -0.1), (0.5, 1, 0.5))
ALONE = pair("u", (30, 31), (), (0, -0.1), ())  # wrong, and never corrected


def data(*pairs, **more):
    plain = {"prompts": prompts(), "problems": {}, "max_length": 100, "max_tokens": None}
    return SimpleNamespace(pairs=list(pairs), **(plain | more))


def signs(row):
    """(target, reward, old log-prob) of every scored token."""
    rewards, old, _ = values(row)
    return list(zip(row.targets.tolist(), rewards, old, strict=True))


def test_rejection_fine_tuning_sees_right_attempts_alone():
    (row,) = right_rows(data(WRONG, RIGHT, ALONE))
    assert (row.id, row.input_ids) == ("r", [*PROMPT, 10, 11, 12])
    assert values(row) == [[0] * 3, [0] * 3, [1] * 3]
    with pytest.raises(ValueError, match="no attempt is right"):
        right_rows(data(WRONG))


def test_an_advantage_is_the_verdict_less_the_mean_of_the_problem():
    """Of p0 one right and two wrong attempts: mean -1/3, so 4/3 and -2/3. Of p1 all are wrong:
    no row. Without the mean every attempt is 1 or -1."""
    other = replace(ALONE, attempt=replace(ALONE.attempt, id="v", problem_id="p1"))
    made = data(RIGHT, WRONG, ALONE, other)
    rows = {row.id: row for row in advantage_rows(made)}
    assert {id_: set(values(row)[0]) for id_, row in rows.items()} == {
        "r": {round(4 / 3, 6)},
        "w": {round(-2 / 3, 6)},
        "u": {round(-2 / 3, 6)},
    }
    assert signs(rows["w"])[1] == (13, -0.666667, -2.0)
    assert not any(row.weights.any() for row in rows.values())
    plain = advantage_rows(made, right=1.0, wrong=-1.0, center=False)
    assert [set(values(row)[0]) for row in plain] == [{1.0}, {-1.0}, {-1.0}, {-1.0}]


def test_a_correction_is_preferred_to_its_attempt():
    """10 20 12 over 10 13: the common 10 cancels. Preferred tokens come first, with the start's
    log-probs of the correction; 20 and 13 are both predicted from 10."""
    made = data(RIGHT, WRONG, ALONE, start_logprobs={"w": [-4.0, -5.0, -6.0]})
    (row,) = correction_preferences(made)
    assert (row.id, row.whole, row.input_ids) == ("w", True, [5, 6, 10, 20])
    assert signs(row) == [(20, 1, -5.0), (12, 1, -6.0), (13, -1, -2.0)]
    assert row.sources.tolist() == [2, 3, 2]
    assert row.tokens == 4
    made.start_logprobs = {}
    with pytest.raises(ValueError, match=r"attempt 'w'.*policy\.score_corrections"):
        correction_preferences(made)


def test_every_wrong_attempt_meets_right_ones_of_its_problem_in_turn():
    second = pair("s", (10, 40), (10, 40), (0.4, 0))
    third = replace(ALONE, attempt=replace(ALONE.attempt, id="x", problem_id="p9"))
    made = data(WRONG, RIGHT, ALONE, second, third)
    rows = attempt_preferences(made)
    assert [row.id for row in rows] == ["r>w", "s>u"]
    assert signs(rows[0]) == [(11, 1, -2.0), (12, 1, -3.0), (13, -1, -2.0)]
    assert signs(rows[1])[0] == (10, 1, -1.0)
    assert [row.id for row in attempt_preferences(made, most_per_problem=1)] == ["r>w"]
    assert step_sizes(rows).row == 2


def test_a_row_that_compares_is_not_taken_apart():
    rows = attempt_preferences(data(WRONG, RIGHT))
    branching = replace(WRONG.attempt, completion_ids=[10, 13, 14])
    wrong = replace(WRONG, attempt=branching, old_logprobs=-np.ones(3), token_rewards=np.ones(3))
    (row,) = attempt_preferences(data(wrong, RIGHT))
    assert not row.is_flat
    with pytest.raises(ValueError, match="'r>w' compares its sequences"):
        flat_rows(row)
    assert flat_rows(rows[0]) == rows  # one branch ends at once: nothing to take apart


# --- what a step counts ---


def test_attempt_tokens_are_counted_once_with_credit_or_without():
    """The right one 3, the wrong one 2 (not its correction's 3), without any reward as well."""
    plain = replace(WRONG, token_rewards=np.zeros(2, dtype=np.float32))
    for wrong in (WRONG, plain):
        sizes = step_sizes(pair_rows(data(RIGHT, wrong)))
        assert sizes.attempt == 5
    assert step_sizes(pair_rows(data(RIGHT, WRONG))).row == 2
    assert step_sizes(pair_rows(data(RIGHT, plain))).row == 1
    assert step_sizes([]) == (1.0, 1.0)
    tree = pair_rows(data(pair("w", (10, 13, 14), (10, 20, 12), (0, -0.1, -0.1))))[0]
    assert not tree.is_flat
    assert sum(row.attempt_tokens for row in flat_rows(tree)) == tree.attempt_tokens == 3
