"""Controls of what token rewards are worth, against numbers worked by hand."""

from functools import partial

import numpy as np
import pytest

from rlmec.ablations.placement import moved_penalties, weighed_signs
from rlmec.ablations.rewards import bounded_penalty
from rlmec.method.rewards import accepted_arguments, clipped_probability, edit_labels

NONE = np.zeros(4, dtype=bool)
LAST = np.array([False, False, True, True])


def logs(*probabilities: float) -> np.ndarray:
    return np.log(np.array(probabilities))


def given(*rewards: float):
    """A rule that gives these rewards."""

    def rule(grm_logprobs, is_right, removed):
        return np.array(rewards, dtype=np.float32)

    return rule


def moved(rule, removed=NONE, to="shuffled"):
    return moved_penalties(np.zeros(len(removed)), False, removed, None, rule=rule, to=to)


def test_one_sign_can_be_weighed_or_left_out():
    rule = partial(weighed_signs, rule=given(0.5, -0.1, 0.0, -0.05))
    arguments = (np.zeros(4), False, NONE, None)
    assert rule(*arguments, positive=1, negative=1).dtype == np.float32
    np.testing.assert_allclose(rule(*arguments, positive=1, negative=0), [0.5, 0, 0, 0])
    np.testing.assert_allclose(rule(*arguments, positive=0, negative=1), [0, -0.1, 0, -0.05])
    np.testing.assert_allclose(rule(*arguments, positive=2, negative=10), [1, -1, 0, -0.5])
    with pytest.raises(ValueError, match="neither must be below 0"):
        rule(*arguments, positive=1, negative=-1)


def test_penalties_are_spread_evenly_around_the_rewards():
    """-0.1 and -0.05 are -0.15 in all, over the three tokens without a reward above 0."""
    found = moved(given(0.5, -0.1, 0.0, -0.05), to="even")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [0.5, -0.05, -0.05, -0.05], atol=1e-7)


def test_penalties_go_to_the_removed_tokens():
    found = moved(given(-0.1, -0.05, 0.0, 0.0), LAST, to="removed")
    np.testing.assert_allclose(found, [0, 0, -0.075, -0.075], atol=1e-7)
    uncorrected = moved(given(-0.1, -0.06, 0.0, 0.0), to="removed")
    np.testing.assert_allclose(uncorrected, [-0.04] * 4, atol=1e-7)


def test_shuffled_penalties_are_the_same_ones_at_other_places():
    """The law over many attempts: the same values around the same rewards, the same on every run,
    and each place as likely as another."""
    at = np.zeros(6, dtype=int)
    draw = np.random.default_rng(1)
    for _ in range(600):
        rewards = draw.uniform(-0.1, 0, 8)
        rewards[[2, 5]] = 0.4  # rewards above 0, which stay
        rewards[0] = -0.5  # the one to follow
        found = moved(given(*rewards), np.zeros(8, dtype=bool))
        assert found[[2, 5]].tolist() == pytest.approx([0.4, 0.4])
        assert sorted(found) == pytest.approx(sorted(rewards.astype(np.float32)))
        assert found.tolist() == moved(given(*rewards), np.zeros(8, dtype=bool)).tolist()
        at[np.delete(found, [2, 5]).argmin()] += 1
    assert at.sum() == 600
    assert at.min() > 60  # 100 expected, standard deviation 9


def test_the_sum_of_penalties_stays():
    for to in ("even", "shuffled", "removed"):
        found = moved(partial(clipped_probability), LAST, to=to)
        assert found.sum() == 0  # p = 1: no penalty to move
        wrong = moved_penalties(
            logs(0.1, 0.9, 0.45, 0.5), False, LAST, 2, rule=clipped_probability, to=to
        )
        assert wrong.sum() == pytest.approx(-0.1 - 0.05)
    with pytest.raises(ValueError, match="one of even, shuffled, removed"):
        moved(given(-0.1, 0, 0, 0), to="anywhere")


def test_a_right_attempt_keeps_its_rewards():
    rule = partial(moved_penalties, rule=edit_labels, to="even")
    assert rule(logs(1, 1), True, NONE[:2], None).tolist() == [0.5, 0.5]


def test_an_inner_rule_gets_what_it_asks_for():
    """Penalties 0.1 on the last two tokens, bounded to 0.05 and 0.1 by p_0 = 0.1 and 1 (bound
    0.5), then spread."""
    inner = partial(bounded_penalty, rule=edit_labels, bound=0.5)
    rule = partial(moved_penalties, rule=inner, to="even")
    more = accepted_arguments(rule, old_logprobs=logs(1, 1, 0.1, 1), first_edit=2)
    found = rule(logs(1, 1, 1, 1), False, LAST, **more)
    np.testing.assert_allclose(found, [-0.15 / 4] * 4, atol=1e-7)
