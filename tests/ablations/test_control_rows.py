"""Rows of controls: withheld corrections, balanced penalties, centred rewards."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from small_models import prompts
from small_pairs import pair

from rlmec.ablations.rows import balanced_rows, centred_rows, withheld_rows
from rlmec.data.policy_rows import pair_rows

RIGHT = pair("r", (10, 11, 12), (10, 11, 12), (0.4, 0, 0.2))
WRONG = pair("w", (10, 13, 14), (10, 11, 12), (0, -0.1, -0.05), (0.5, 1, 1))


def data(*pairs):
    plain = {"prompts": prompts(), "problems": {}, "max_length": 100, "max_tokens": None}
    return SimpleNamespace(pairs=list(pairs), **plain)


def credit(rows):
    """The weights and the rewards that are not 0, each sorted."""
    rows = list(rows)
    weights = sorted(float(w) for row in rows for w in row.weights if w)
    rewards = sorted(float(r) for row in rows for r in row.token_rewards if r)
    return weights, rewards


def test_withheld_corrections_leave_rewards_and_right_attempts():
    """Share 1 withholds nothing; share 0 takes the weights 0.5, 1, 1 of the correction away."""
    made = data(RIGHT, WRONG)
    assert credit(withheld_rows(made, share=1.0)) == credit(pair_rows(made))
    weights, rewards = credit(withheld_rows(made, share=0.0))
    assert weights == credit(pair_rows(data(RIGHT)))[0]
    assert rewards == credit(pair_rows(made))[1]


def test_a_share_of_the_problems_keeps_its_corrections():
    """Of 400 problems about a quarter (standard deviation 2.2 %), others under another seed."""
    one = pair("w", (10, 13, 14), (10, 11, 12), (0, -0.1, 0), (0, 1, 1))
    attempts = [replace(one.attempt, id=f"a{n}", problem_id=f"p{n}") for n in range(400)]
    pairs = [replace(one, attempt=attempt) for attempt in attempts]

    def imitated(seed):
        return {
            row.id
            for row in withheld_rows(data(*pairs), share=0.25, seed=seed)
            if row.weights.any()
        }

    assert 70 < len(imitated(1)) < 130
    assert imitated(1) == imitated(1) != imitated(2)


def test_penalties_are_balanced_by_one_factor():
    """Rewards 0.6 in all, penalties 0.15: the factor is 4."""
    _, rewards = credit(balanced_rows(data(RIGHT, WRONG)))
    assert rewards == pytest.approx([-0.4, -0.2, 0.2, 0.4])
    with pytest.raises(ValueError, match="no token has a penalty"):
        list(balanced_rows(data(RIGHT)))


def test_rewards_are_centred_over_all_tokens():
    """(0.6 - 0.15) / 6 tokens = 0.075."""
    _, rewards = credit(centred_rows(data(RIGHT, WRONG)))
    expected = np.array([0.4, 0, 0.2, 0, -0.1, -0.05]) - 0.075
    assert rewards == pytest.approx(sorted(expected))
    assert sum(rewards) == pytest.approx(0, abs=1e-6)
