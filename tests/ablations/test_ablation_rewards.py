"""Reward rules of the ablations against numbers worked by hand."""

from functools import partial

import numpy as np
import pytest

from rlmec.ablations.rewards import (
    bounded_penalty,
    continuous_probability,
    first_error_labels,
    good_prefix,
    verdict,
)
from rlmec.method.alignment import edit_script
from rlmec.method.rewards import accepted_arguments, edit_labels, no_reward

NONE = np.zeros(4, dtype=bool)


def logs(*probabilities: float) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(np.array(probabilities))


@pytest.mark.parametrize("rule", [continuous_probability, verdict])
def test_every_rule_checks_its_attempt(rule):
    with pytest.raises(ValueError, match=r"\(3,\) and removed tokens of shape \(4,\)"):
        rule(np.zeros(3), False, NONE)
    with pytest.raises(ValueError, match="right attempt has 1 removed tokens"):
        rule(np.zeros(4), True, np.array([False, True, False, False]))


def test_continuous_rewards_by_hand():
    # 0.5 (2 p - 1): p = 0.9, 0.2, 0.5, 0 gives 0.4, -0.3, 0, -0.5, whatever the verdict.
    for is_right in (True, False):
        rewards = continuous_probability(logs(0.9, 0.2, 0.5, 0.0), is_right, NONE)
        assert rewards.dtype == np.float32
        np.testing.assert_allclose(rewards, [0.4, -0.3, 0.0, -0.5], atol=1e-7)
    assert continuous_probability(logs(1.0), True, NONE[:1], scale=2.0).tolist() == [2.0]
    with pytest.raises(ValueError, match="token 0 has the log-probability"):
        continuous_probability(np.array([np.nan]), True, NONE[:1])
    with pytest.raises(ValueError, match="below 0"):
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
    with pytest.raises(ValueError, match="below 0"):
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
    with pytest.raises(ValueError, match="below 0"):
        bounded_penalty(logs(1), False, NONE[:1], logs(1), rule=no_reward, bound=-1)


def test_a_rule_in_a_rule_in_a_rule_gets_what_it_asks_for():
    rule = partial(bounded_penalty, rule=partial(good_prefix, rule=edit_labels, reward=0.3))
    more = accepted_arguments(rule, old_logprobs=logs(1, 1, 0.05, 1), first_edit=1)
    found = rule(logs(1, 1, 1, 1), False, REMOVED, **more)
    np.testing.assert_allclose(found, [0.3, 0, -0.05, -0.1], atol=1e-8)
    assert accepted_arguments(edit_labels, old_logprobs=1, first_edit=1) == {}


# --- penalties on the first error alone ---

UNUSED = np.zeros(5)


def reward_of(attempt, target):
    script = edit_script(attempt, target)
    return first_error_labels(
        np.zeros(len(attempt)), False, script.removed, script.first_edit, penalty=0.25
    ).tolist()


def test_only_the_run_of_removed_tokens_at_the_first_edit_is_punished():
    assert reward_of([1, 2, 3, 4, 5, 6], [1, 9, 8, 4, 7, 6]) == [0, -0.25, -0.25, 0, 0, 0]


def test_a_run_that_reaches_the_end_is_punished_to_the_end():
    assert reward_of([1, 2, 3], [1]) == [0, -0.25, -0.25]


def test_an_insertion_first_punishes_nothing_even_if_more_is_removed_later():
    assert reward_of([1, 2, 3], [1, 9, 2, 8]) == [0, 0, 0]
    assert reward_of([1, 2], [1, 2, 3]) == [0, 0]  # appended: the first edit is behind the end


def test_without_a_correction_there_is_no_reward():
    assert not first_error_labels(UNUSED, False, np.zeros(5, dtype=bool), None).any()


def test_a_right_attempt_is_rewarded_throughout():
    found = first_error_labels(UNUSED, True, np.zeros(5, dtype=bool), None, reward=0.75)
    assert found.dtype == np.float32
    assert found.tolist() == [0.75] * 5


@pytest.mark.parametrize("sizes", [{"reward": -1.0}, {"penalty": -0.1}])
def test_negative_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match="below 0"):
        first_error_labels(UNUSED, True, np.zeros(5, dtype=bool), None, **sizes)
