"""Joined pairs with their credit, worked by hand; what is dropped or refused; the loader."""

import multiprocessing
import os
import signal
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from small_models import PROBLEMS, prompts

from rlmec.data.baseline_rows import group_advantage_rows
from rlmec.data.collate import step_normalizers
from rlmec.data.datamodule import NothingToTrain, PlanSettings, SolutionPairDataModule
from rlmec.data.policy_rows import pair_rows, reference_rows
from rlmec.data.row import rows_digest
from rlmec.method.rewards import clipped_probability
from rlmec.records import Attempt, Correction, Score

DIGEST = prompts().codec.digest
PLAN = PlanSettings(tokens_per_step=60, seed=1, steps=4, max_length=200)


def attempt(id, ids, verdict="wrong", problem="p0", **changes):
    made = Attempt(id, problem, [5, 6], list(ids), [], "", verdict, False, DIGEST)
    return replace(made, **changes)


def correction(id, ids, reason="accepted", **changes):
    made = Correction(id, "p0", list(ids), "", "right", 0.2, reason, "oracle", DIGEST)
    return replace(made, **changes)


def score(id, probabilities, old):
    return Score(id, np.log(probabilities).tolist(), list(old), DIGEST)


def joined(attempts, corrections=(), scores=(), reward=clipped_probability, **changes):
    arguments = {"plan": PLAN, "rows": pair_rows} | changes
    return SolutionPairDataModule(
        prompts(),
        PROBLEMS,
        attempts=attempts,
        corrections=corrections,
        scores=scores,
        reward=reward,
        **arguments,
    )


def close(array, wanted):
    assert array.dtype == np.float32
    assert array.tolist() == pytest.approx(wanted, abs=1e-6)


# --- pairs worked by hand ---

WRONG = attempt("w", [10, 11, 12, 1])
MENDED = correction("w", [10, 20, 12, 1])
WRONG_SCORE = score("w", [0.9, 0.2, 0.45, 0.6], [-1, -2, -3, -4])
RIGHT = attempt("r", [10, 13, 1], "right")
RIGHT_SCORE = score("r", [0.9, 0.5, 0.7], [-5, -6, -7])


WRONG_TOO, MENDED_TOO = replace(WRONG, id="w2"), replace(MENDED, attempt_id="w2")
TOO = replace(WRONG_SCORE, attempt_id="w2")


def test_a_wrong_attempt_and_its_correction():
    """p - 0.5 = 0.4, -0.3, -0.05, 0.1, held within [-0.1, 0]; the second token is replaced."""
    (pair,) = joined([WRONG], [MENDED], [WRONG_SCORE]).pairs
    assert (pair.attempt, pair.target_ids) == (WRONG, [10, 20, 12, 1])
    close(pair.token_rewards, [0, -0.1, -0.05, 0])
    close(pair.old_logprobs, [-1, -2, -3, -4])
    close(pair.edit_weights, [0.5, 1, 0.5, 0.5])
    assert pair.corrected_by == "oracle"


def test_a_right_attempt_is_its_own_target_with_kept_weights():
    """p - 0.5 = 0.4, 0, 0.2, held within [0, 0.5]."""
    (pair,) = joined([RIGHT], scores=[RIGHT_SCORE]).pairs
    assert pair.target_ids == RIGHT.completion_ids
    close(pair.token_rewards, [0.4, 0, 0.2])
    close(pair.old_logprobs, [-5, -6, -7])
    close(pair.edit_weights, [0.5] * 3)
    assert pair.corrected_by == ""


def test_an_insertion_at_the_start_is_edited_and_removes_nothing():
    rule = partial(clipped_probability, wrong_low=-0.2)
    longer = correction("w", [20, 10, 11, 12, 1])
    (pair,) = joined([WRONG], [longer], [WRONG_SCORE], rule, edited_weight=2, kept_weight=1).pairs
    close(pair.edit_weights, [2, 1, 1, 1, 1])
    close(pair.token_rewards, [0, -0.2, -0.05, 0])


def test_the_reward_rule_sees_what_the_correction_removes():
    """The correction deletes 11 and replaces 12; a right attempt loses nothing."""
    seen = {}

    def rule(grm_logprobs, is_right, removed):
        seen[is_right] = (np.exp(grm_logprobs).round(3).tolist(), removed.tolist())
        return np.where(removed, -1, 0).astype(np.float32)

    shorter = correction("w", [10, 22, 1])
    data = joined([WRONG, RIGHT], [shorter], [WRONG_SCORE, RIGHT_SCORE], rule)
    rewards = [pair.token_rewards.tolist() for pair in data.pairs]
    assert rewards == [[0, -1, -1, 0], [0, 0, 0]]
    assert [round(x, 3) for x in seen[False][0]] == pytest.approx([0.9, 0.2, 0.45, 0.6])
    assert seen[False][1] == [False, True, True, False]
    assert seen[True][1] == [False] * 3


def test_without_a_reward_rule_no_score_is_needed():
    (pair,) = joined([WRONG], [MENDED], reward=None).pairs
    close(pair.token_rewards, [0] * 4)
    close(pair.edit_weights, [0.5, 1, 0.5, 0.5])


def test_rows_of_a_right_and_a_wrong_attempt():
    data = joined([WRONG, RIGHT], [MENDED], [WRONG_SCORE, RIGHT_SCORE])
    data.plan_for(1, 0)
    assert [row.id for row in data.rows] == ["w", "r"]
    assert [row.tokens for row in data.rows] == [6, 5]  # what a step counts for them
    assert sum(len(row.input_ids) for row in data.rows) < 12
    plan = replace(PLAN, tokens_per_step=11, steps=None, epochs=1)
    data = joined([WRONG, RIGHT], [MENDED], [WRONG_SCORE, RIGHT_SCORE], plan=plan)
    assert data.plan_for(1, 0).steps == 1
    plan = replace(plan, tokens_per_step=6)  # the wrong pair alone fills a step
    data = joined([WRONG, WRONG_TOO], [MENDED, MENDED_TOO], [WRONG_SCORE, TOO], plan=plan)
    assert data.plan_for(1, 0).steps == 2


def test_where_prefixes_cannot_be_shared_rows_are_taken_apart():
    data = joined([WRONG, RIGHT], [MENDED], [WRONG_SCORE, RIGHT_SCORE])
    data.plan_for(1, 0)
    whole = data.rows
    data.plan_for(1, 0, share_prefixes=False)
    assert [row.id for row in data.rows] == ["w/0", "w/1", "r"]
    assert all(row.is_flat for row in data.rows)
    assert sum(row.tokens for row in data.rows) == sum(row.tokens for row in whole) == 11
    assert step_normalizers(data.rows) == step_normalizers(whole)


def test_a_tree_is_as_long_as_its_longest_sequence():
    """5 6 10 and two branches of up to two more: 5 tokens at most, 6 in all."""
    data = joined([WRONG], [MENDED], [WRONG_SCORE], plan=replace(PLAN, max_length=5))
    data.plan_for(1, 0)
    (row,) = data.rows
    assert (row.longest, len(row.input_ids)) == (5, 6)
    data = joined([WRONG], [MENDED], [WRONG_SCORE], plan=replace(PLAN, max_length=4))
    with pytest.raises(ValueError, match="'longer_than_max_length': 1"):
        data.plan_for(1, 0)
    bounded = replace(PLAN, max_length=5, max_tokens_per_micro_batch=5)
    data = joined([WRONG], [MENDED], [WRONG_SCORE], plan=bounded)
    data.plan_for(1, 0)
    assert [row.id for row in data.rows] == ["w/corrected", "w"]


def test_a_clipped_attempt_is_never_right():
    cut = attempt("w", [10, 11, 12, 1], "right", clipped=True)
    (pair,) = joined([cut], [MENDED], [WRONG_SCORE]).pairs
    assert pair.target_ids == MENDED.completion_ids
    assert (pair.token_rewards <= 0).all()


# --- what is dropped ---


def test_an_uncorrected_attempt_is_dropped_and_counted():
    rejected = correction("w", [10, 20, 12, 1], "not_right")
    data = joined([WRONG, RIGHT], [rejected], [WRONG_SCORE, RIGHT_SCORE])
    assert [pair.attempt.id for pair in data.pairs] == ["r"]
    assert data.dropped == {"uncorrected": 1}
    assert data.table is data.table  # joined, and counted, once


def test_keep_uncorrected_keeps_it_for_the_reinforcement_term_alone():
    data = joined([WRONG], [], [WRONG_SCORE], keep_uncorrected=True)
    (pair,) = data.pairs
    assert (pair.target_ids, len(pair.edit_weights)) == ([], 0)
    close(pair.token_rewards, [0, -0.1, -0.05, 0])
    data.plan_for(1, 0)
    (row,) = data.rows
    assert (row.id, row.weights.tolist()) == ("w", [0] * 2)  # of the two that have a reward
    assert data.dropped == {"longer_than_max_length": 0}


def test_right_attempts_beyond_the_cap_of_their_problem_are_dropped():
    attempts = [attempt(f"a{i}", [10, 13 + i, 1], "right") for i in range(4)]
    attempts.append(attempt("b", [10, 13, 1], "right", problem="p1"))
    data = joined(attempts, reward=None, max_right_per_problem=2)
    assert [pair.attempt.id for pair in data.pairs] == ["a0", "a1", "b"]
    assert data.dropped == {"right_beyond_cap": 2}


def test_attempts_that_a_row_function_leaves_out_are_counted_once():
    """One of two groups has a right and a wrong attempt. Planned again, the counts are the same."""
    attempts = [attempt("r", [10, 11, 1], "right"), attempt("w", [10, 12, 1])]
    attempts += [attempt(f"x{i}", [10, 13 + i, 1], problem="p1") for i in range(3)]
    scores = [score(a.id, [0.5] * 3, [-1.0] * 3) for a in attempts]
    data = joined(attempts, scores=scores, rows=group_advantage_rows, keep_uncorrected=True)
    for _ in range(2):
        data.plan_for(1, 0)
        assert [row.id for row in data.rows] == ["r", "w"]
        assert data.dropped == {"group_all_wrong": 3, "longer_than_max_length": 0}

    alone = joined(attempts[2:], scores=scores, rows=group_advantage_rows, keep_uncorrected=True)
    with pytest.raises(NothingToTrain, match="'group_all_wrong': 3"):
        alone.plan_for(1, 0)


def test_too_long_rows_are_dropped_and_counted_never_cut():
    """Prompt of 2 and completions of 3 to 6 tokens, the last of which is run over by none; 6 tokens
    are allowed."""
    attempts = [attempt(f"a{n}", [10] * (n - 1) + [1], "right") for n in (3, 4, 5, 6)]
    data = joined(attempts, reward=None, plan=replace(PLAN, max_length=6))
    data.plan_for(1, 0)
    assert [len(row.input_ids) for row in data.rows] == [4, 5, 6]
    assert data.dropped["longer_than_max_length"] == 1
    data.plan_for(1, 0)
    assert data.dropped["longer_than_max_length"] == 1  # planned again, not dropped again


def test_nothing_left_to_train_on_is_refused_with_the_counts():
    data = joined([WRONG], reward=None)
    with pytest.raises(ValueError, match=r"no row to train on .*'uncorrected': 1"):
        data.plan_for(1, 0)


# --- what is refused ---


def test_a_missing_score_names_the_attempt():
    with pytest.raises(ValueError, match="attempt 'w': it has no score"):
        _ = joined([RIGHT, WRONG], [MENDED], [RIGHT_SCORE]).pairs


def test_a_score_of_another_length_names_the_attempt_and_both_numbers():
    short = score("w", [0.9, 0.2, 0.45], [-1, -2, -3])
    with pytest.raises(ValueError, match="attempt 'w' has 4 tokens, its score 3"):
        list(joined([WRONG], [MENDED], [short]).pairs)


def test_an_attempt_at_an_unknown_problem_is_named():
    with pytest.raises(ValueError, match="attempt 'w': no problem 'p99'"):
        _ = joined([replace(WRONG, problem_id="p99")], reward=None).pairs


@pytest.mark.parametrize("which", ["attempts", "corrections", "scores"])
def test_records_of_another_tokenizer_are_refused_wherever_they_stand(which):
    """The second of two tables that were put together counts as much as the first."""
    tables = {
        "attempts": [WRONG, RIGHT],
        "corrections": [MENDED, correction("r", [10, 1], "unchanged")],
        "scores": [WRONG_SCORE, RIGHT_SCORE],
    }
    first, second = tables[which]
    tables[which] = [first, replace(second, tokenizer="f" * 64)]
    with pytest.raises(ValueError, match=rf"made with tokenizer f{{12}}, but {DIGEST[:12]} is in"):
        joined(*tables.values())


@pytest.mark.parametrize(
    ("tables", "named"),
    [
        (([WRONG, WRONG],), "two Attempt records with id 'w'"),
        (([WRONG], [MENDED, MENDED]), "two Correction records with attempt_id 'w'"),
        (([WRONG], [MENDED], [WRONG_SCORE] * 2), "two Score records with attempt_id 'w'"),
    ],
)
def test_two_records_with_one_id_are_refused(tables, named):
    with pytest.raises(ValueError, match=named):
        joined(*tables)


def test_a_rejected_correction_beside_an_accepted_one_is_no_duplicate():
    rejected = correction("w", [10, 1], "not_right")
    (pair,) = joined([WRONG], [rejected, MENDED], [WRONG_SCORE]).pairs
    assert pair.target_ids == MENDED.completion_ids


# --- the loader ---


def planned(workers=0, accumulate=3, **changes):
    plan = replace(PLAN, num_workers=workers, accumulate=accumulate, **changes)
    data = SolutionPairDataModule(
        prompts(), PROBLEMS, reference_rows, plan, val_rows=reference_rows
    )
    data.plan_for(1, 0)
    return data


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_workers_outlive_what_asks_the_run_to_stop(number):
    """The step in work still wants its batches, more of them than were made before the signal."""
    expected = [batch["input_ids"].tolist() for batch in planned().train_dataloader()]
    assert len(expected) > 2 * 2 + 2
    batches = iter(planned(workers=2).train_dataloader())
    found = [next(batches), next(batches)]  # one of each worker: both have begun
    for child in multiprocessing.active_children():
        os.kill(child.pid, number)
    found += batches
    assert [batch["input_ids"].tolist() for batch in found] == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_the_position_counts_what_was_handed_out_and_a_resumed_loader_gives_the_rest(workers):
    first = planned(workers)
    whole = list(first.train_dataloader())
    assert len(whole) == len(first.loader) == 4 * 3
    assert first.loader.position == 12
    for stop in (0, 1, 5, 11, 12):
        cut = planned(workers)
        batches = iter(cut.train_dataloader())
        for i in range(stop):
            assert same(next(batches), whole[i])
        state = cut.state_dict()
        assert state["position"] == stop
        del batches
        again = planned(workers)
        again.load_state_dict(state)
        loader = again.train_dataloader()
        assert len(loader) == 12
        rest = list(loader)
        assert len(rest) == 12 - stop
        assert all(same(*pair) for pair in zip(rest, whole[stop:], strict=True))
        assert again.state_dict() == first.state_dict()


def test_the_state_is_plain_values():
    data = planned()
    next(iter(data.train_dataloader()))
    found = data.state_dict()
    assert found == {"position": 1, "plan": data.plan.digest, "rows": rows_digest(data.rows)}


@pytest.mark.parametrize(
    "changes", [{"seed": 2}, {"accumulate": 2}, {"steps": 5}, {"tokens_per_step": 80}]
)
def test_a_checkpoint_of_another_plan_is_refused(changes):
    data = planned()
    data.train_dataloader()
    with pytest.raises(ValueError, match="written with other rows, another number of ranks"):
        planned(**changes).load_state_dict(data.state_dict())


def test_a_checkpoint_of_rows_with_other_ids_is_refused():
    """Rows of the same lengths, in the same plan, from prompts with other digits."""
    data = planned()
    data.train_dataloader()
    digits = str.maketrans("0123456789", "1234567890")  # each digit is one token
    other = [replace(p, question=p.question.translate(digits)) for p in PROBLEMS]
    changed = SolutionPairDataModule(prompts(), other, reference_rows, data.settings)
    changed.plan_for(1, 0)
    assert changed.plan.digest == data.plan.digest
    checkpoint = {"SolutionPairDataModule": data.state_dict()}
    assert data.has_plan_of(checkpoint)
    assert not changed.has_plan_of(checkpoint)
    with pytest.raises(ValueError, match="token ids in its 8 rows"):
        changed.load_state_dict(data.state_dict())


def test_every_batch_carries_the_counts_of_its_whole_step():
    data = planned()
    batches = list(data.train_dataloader())
    for step in range(4):
        mine = batches[3 * step : 3 * step + 3]
        weighted = sum(float(len(b["targets"])) for b in mine)
        assert [float(b["imitation_normalizer"]) for b in mine] == [weighted] * 3
        assert [float(b["policy_normalizer"]) for b in mine] == [1.0] * 3
        assert [int(b["index"]) for b in mine] == [step] * 3


def test_validation_rows_are_dealt_to_the_ranks_whole():
    data, seen = planned(), []
    for rank in range(3):
        data.plan_for(3, rank)
        for batch in data.val_dataloader():
            seen += [row[mask == 1] for row, mask in zip(*_ids(batch), strict=True)]
    wanted = [row.input_ids.tolist() for row in reference_rows(data)]
    assert sorted(x.tolist() for x in seen) == sorted(wanted)


def _ids(batch):
    return batch["input_ids"], batch["attention_mask"]


def test_without_validation_rows_there_are_no_batches():
    data = joined([RIGHT], reward=None)
    data.plan_for(1, 0)
    assert list(data.val_dataloader()) == []
