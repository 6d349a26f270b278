"""Reward rules against numbers worked by hand."""

import numpy as np
import pytest

from rlmec.method.rewards import (
    accepted_arguments,
    clipped_probability,
    edit_labels,
    no_reward,
)

NONE = np.zeros(4, dtype=bool)


def logs(*probabilities: float) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(np.array(probabilities))


def test_right_attempt_is_rewarded_above_the_pivot():
    # p - 0.5 = 0.4, -0.3, 0, 0.5; clipped to [0, 0.5].
    rewards = clipped_probability(logs(0.9, 0.2, 0.5, 1.0), True, NONE)
    assert rewards.dtype == np.float32
    np.testing.assert_allclose(rewards, [0.4, 0.0, 0.0, 0.5], atol=1e-7)


def test_wrong_attempt_is_punished_below_the_pivot():
    # p - 0.5 = 0.4, -0.3, -0.05, -0.5; clipped to [-0.1, 0].
    rewards = clipped_probability(logs(0.9, 0.2, 0.45, 0.0), False, NONE)
    np.testing.assert_allclose(rewards, [0.0, -0.1, -0.05, -0.1], atol=1e-7)


def test_settings_move_pivot_and_bounds():
    # p - 0.3 = 0.6, -0.1, 0.15, -0.3; clipped to [-0.2, 0.1].
    settings = {"pivot": 0.3, "wrong_low": -0.2, "wrong_high": 0.1}
    rewards = clipped_probability(logs(0.9, 0.2, 0.45, 0.0), False, NONE, **settings)
    np.testing.assert_allclose(rewards, [0.1, -0.1, 0.1, -0.2], atol=1e-7)


def test_removed_tokens_do_not_change_the_probability_rule():
    removed = np.array([True, False, True, False])
    values = logs(0.9, 0.2, 0.45, 0.0)
    np.testing.assert_array_equal(
        clipped_probability(values, False, removed), clipped_probability(values, False, NONE)
    )


@pytest.mark.parametrize("bad", [np.nan, 0.01, np.inf])
def test_log_probs_that_are_none_are_refused(bad):
    with pytest.raises(ValueError, match="token 2 has the log-probability"):
        clipped_probability(np.array([-1.0, -2.0, bad, -1.0]), True, NONE)


def test_rounding_above_zero_is_probability_one():
    assert clipped_probability(np.array([1e-6]), True, NONE[:1]).tolist() == [0.5]


def test_bounds_the_wrong_way_round_are_refused():
    with pytest.raises(ValueError, match=r"lower bound 0.1 .* upper bound 0.0"):
        clipped_probability(logs(0.5, 0.5, 0.5, 0.5), False, NONE, wrong_low=0.1)


@pytest.mark.parametrize("rule", [clipped_probability, edit_labels])
def test_every_rule_checks_its_attempt(rule):
    with pytest.raises(ValueError, match=r"\(3,\) and removed tokens of shape \(4,\)"):
        rule(np.zeros(3), False, NONE)
    with pytest.raises(ValueError, match="right attempt has 1 removed tokens"):
        rule(np.zeros(4), True, np.array([False, True, False, False]))


def test_edit_labels_need_no_reward_model():
    removed = np.array([False, True, True, False])
    wrong = edit_labels(np.full(4, np.nan), False, removed, penalty=0.25)
    assert wrong.dtype == np.float32
    assert wrong.tolist() == [0.0, -0.25, -0.25, 0.0]
    assert edit_labels(np.full(4, np.nan), True, NONE, reward=0.75).tolist() == [0.75] * 4


@pytest.mark.parametrize("setting", ["reward", "penalty"])
def test_edit_labels_take_sizes(setting):
    with pytest.raises(ValueError, match="below 0"):
        edit_labels(np.zeros(4), False, NONE, **{setting: -0.1})


def test_no_reward_is_zero_for_every_token():
    rewards = no_reward(np.full(4, np.nan), False, NONE)
    assert (rewards.dtype, rewards.tolist()) == (np.float32, [0.0] * 4)


def test_a_rule_gets_the_arguments_that_it_has():
    def rule(grm_logprobs, is_right, removed, old_logprobs): ...

    assert accepted_arguments(rule, old_logprobs=1, first_edit=2) == {"old_logprobs": 1}
    assert accepted_arguments(edit_labels, old_logprobs=1, first_edit=2) == {}
