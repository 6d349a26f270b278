"""Reward rules against numbers worked by hand."""

from functools import partial

import numpy as np
import pytest

from rlmec.method.rewards import (
    asked,
    bounded_penalty,
    clipped_probability,
    continuous_probability,
    edit_labels,
    good_prefix,
    no_reward,
    verdict,
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


@pytest.mark.parametrize(
    "rule", [clipped_probability, edit_labels, continuous_probability, verdict]
)
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
    with pytest.raises(ValueError, match="not below 0"):
        edit_labels(np.zeros(4), False, NONE, **{setting: -0.1})


def test_continuous_rewards_by_hand():
    # 0.5 (2 p - 1): p = 0.9, 0.2, 0.5, 0 gives 0.4, -0.3, 0, -0.5, whatever the verdict.
    for is_right in (True, False):
        rewards = continuous_probability(logs(0.9, 0.2, 0.5, 0.0), is_right, NONE)
        assert rewards.dtype == np.float32
        np.testing.assert_allclose(rewards, [0.4, -0.3, 0.0, -0.5], atol=1e-7)
    assert continuous_probability(logs(1.0), True, NONE[:1], scale=2.0).tolist() == [2.0]
    with pytest.raises(ValueError, match="token 0 has the log-probability"):
        continuous_probability(np.array([np.nan]), True, NONE[:1])
    with pytest.raises(ValueError, match="not below 0"):
        continuous_probability(logs(1.0), True, NONE[:1], scale=-1.0)


def test_a_verdict_is_one_reward_for_all_tokens():
    assert verdict(np.full(3, np.nan), True, NONE[:3]).tolist() == [0.5] * 3
    wrong = verdict(np.full(3, np.nan), False, NONE[:3], wrong=-1.0)
    assert (wrong.dtype, wrong.tolist()) == (np.float32, [-1.0] * 3)


REMOVED = np.array([False, False, True, True])


def test_the_good_prefix_is_rewarded_up_to_the_first_edit():
    """Penalty 0.25 on tokens 2 and 3; the correction first differs at token 1 (an insertion)."""
    rule = partial(good_prefix, rule=partial(edit_labels, penalty=0.25), reward=0.5)
    found = rule(logs(1, 1, 1, 1), False, REMOVED, 1)
    assert found.dtype == np.float32
    assert found.tolist() == [0.5, 0.0, -0.25, -0.25]
    assert rule(logs(1, 1), False, NONE[:2], 2).tolist() == [0.5, 0.5]  # only appended to
    assert rule(logs(1, 1), True, NONE[:2], None).tolist() == [0.5, 0.5]  # a right one: the rule's
    assert rule(logs(1, 1), False, NONE[:2], None).tolist() == [0, 0]  # uncorrected: the rule's
    with pytest.raises(ValueError, match="not below 0"):
        good_prefix(logs(1), False, NONE[:1], 1, rule=no_reward, reward=-0.1)


def test_a_penalty_is_bounded_by_the_tokens_own_probability():
    """p_0 = 1, 0.5, 0.04, 0 and bound 0.5: at most 0.5, 0.25, 0.02, 0. The rule's: 0, 0, -0.1,
    -0.1; of a right attempt all 0.5, which stay."""
    rule = partial(bounded_penalty, rule=edit_labels, bound=0.5)
    found = rule(logs(1, 1, 1, 1), False, REMOVED, logs(1, 0.5, 0.04, 0))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [0, 0, -0.02, 0], atol=1e-8)
    wide = rule(logs(1, 1, 1, 1), False, REMOVED, logs(1, 1, 1, 1))
    np.testing.assert_allclose(wide, [0, 0, -0.1, -0.1], atol=1e-8)
    assert rule(logs(1, 1), True, NONE[:2], logs(0.1, 0.1)).tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match="not below 0"):
        bounded_penalty(logs(1), False, NONE[:1], logs(1), rule=no_reward, bound=-1)


def test_a_rule_in_a_rule_in_a_rule_gets_what_it_asks_for():
    rule = partial(bounded_penalty, rule=partial(good_prefix, rule=edit_labels, reward=0.3))
    more = asked(rule, old_logprobs=logs(1, 1, 0.05, 1), first_edit=1)
    found = rule(logs(1, 1, 1, 1), False, REMOVED, **more)
    np.testing.assert_allclose(found, [0.3, 0, -0.05, -0.1], atol=1e-8)
    assert asked(edit_labels, old_logprobs=1, first_edit=1) == {}
