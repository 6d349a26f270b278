"""Pairs are joined without a training plan, the same ones as in the DataModule."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from small_models import PROBLEMS, prompts

from rlmec.data.datamodule import PlanSettings, SolutionPairDataModule
from rlmec.data.pairs import join_pairs
from rlmec.data.policy_rows import pair_rows
from rlmec.method.rewards import clipped_probability
from rlmec.records import Attempt, Correction, Score

DIGEST = prompts().codec.digest
CREDIT = {"reward": clipped_probability, "edited_weight": 1.0, "kept_weight": 0.5}


def attempt(id, verdict, ids=(10, 11, 12)):
    return Attempt(id, "p0", [5, 6], list(ids), [], "", verdict, False, DIGEST)


WRONG, RIGHT = attempt("w", "wrong"), attempt("r", "right")
FIXED = Correction("w", "p0", [10, 20, 12], "", "right", 0.3, "accepted", "oracle", DIGEST)
SCORES = [Score(a, np.log([0.9, 0.3, 0.6]).tolist(), [-1.0, -2.0, -3.0], DIGEST) for a in "wr"]


def joined(attempts=(WRONG, RIGHT), corrections=(FIXED,), scores=SCORES, **changes):
    return join_pairs(
        PROBLEMS, attempts, corrections, scores, **({"tokenizer": DIGEST} | CREDIT | changes)
    )


def test_a_pair_worked_by_hand():
    """p = 0.9, 0.3, 0.6; rewards p - 0.5, clipped to -0.1..0 if wrong, to 0..0.5 if right."""
    wrong, right = joined().pairs
    assert wrong.target_ids == [10, 20, 12]
    assert wrong.corrected_by == "oracle"
    assert wrong.token_rewards.tolist() == pytest.approx([0, -0.1, 0])
    assert wrong.edit_weights.tolist() == [0.5, 1.0, 0.5]
    assert right.target_ids == [10, 11, 12]
    assert right.token_rewards.tolist() == pytest.approx([0.4, 0, 0.1])
    assert right.edit_weights.tolist() == [0.5, 0.5, 0.5]


def test_every_attempt_is_a_pair_or_is_counted():
    several = [
        WRONG,
        attempt("alone", "wrong"),
        attempt("late", "timeout"),
        RIGHT,
        attempt("r2", "right", (10, 12)),
    ]
    more = [replace(SCORES[0], attempt_id=a.id) for a in several if a.id not in "wr"]
    more[-1] = replace(more[-1], grm_logprobs=[-0.1, -0.2], old_logprobs=[-1.0, -1.0])
    table = joined(
        several, scores=[*SCORES, *more], max_right_per_problem=1, dropped={"too_long": 2}
    )
    assert [pair.attempt.id for pair in table.pairs] == ["w", "r"]
    assert table.dropped == Counter(uncorrected=1, undecided=1, right_beyond_cap=1, too_long=2)
    assert len(table.pairs) + table.dropped.total() == len(several) + 2

    kept = joined(several, scores=[*SCORES, *more], keep_uncorrected=True)
    (alone,) = [pair for pair in kept.pairs if pair.attempt.id == "alone"]
    assert alone.target_ids == []
    assert alone.edit_weights.size == 0
    assert alone.token_rewards.any()


def test_the_data_module_serves_the_same_pairs():
    data = SolutionPairDataModule(
        prompts(),
        PROBLEMS,
        pair_rows,
        PlanSettings(10, 1, steps=1),
        attempts=[WRONG, RIGHT],
        corrections=[FIXED],
        scores=SCORES,
        **CREDIT,
    )
    for one, other in zip(data.pairs, joined().pairs, strict=True):
        assert one.attempt == other.attempt
        assert one.target_ids == other.target_ids
        for name in ("token_rewards", "old_logprobs", "edit_weights"):
            assert np.array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"scores": SCORES[1:]}, "attempt 'w'.*no score"),
        (
            {"scores": [replace(SCORES[0], grm_logprobs=[-1.0], old_logprobs=[-1.0]), SCORES[1]]},
            "3.*1",
        ),
        ({"attempts": [replace(WRONG, problem_id="nowhere")]}, "attempt 'w'.*'nowhere'"),
        ({"attempts": [WRONG, WRONG]}, "'w'"),
        ({"tokenizer": "other"}, "Attempt"),
    ],
    ids=["score", "length", "problem", "twice", "tokenizer"],
)
def test_records_that_do_not_belong_together_are_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        list(joined(**changes).pairs)


def test_corrections_that_are_not_imitated_only_place_rewards():
    wrong, right = joined(imitate_corrections=False).pairs
    assert wrong.target_ids == [10, 20, 12]
    assert wrong.token_rewards.tolist() == pytest.approx([0, -0.1, 0])
    assert wrong.edit_weights.tolist() == [0, 0, 0]
    assert right.edit_weights.tolist() == [0.5, 0.5, 0.5]
