"""Rows of the warm-up and the policy, worked by hand."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from small_models import PROBLEMS, prompts
from small_pairs import pair, values
from small_rows import edited

from rlmec.data.policy_rows import (
    pair_rows,
    pair_tree,
    problem_rows,
    reference_rows,
    rows_of,
    separate_rows,
)
from rlmec.data.prefix_tree import merge, trim


def made(*pairs, rows=pair_rows, max_length=100, max_tokens=None):
    data = SimpleNamespace(pairs=list(pairs), max_length=max_length, max_tokens=max_tokens)
    return list(rows(data))


def scored(row):
    """What a row scores: (ids read so far, target, reward, old log-prob where rewarded, weight)."""
    out = []
    for i, source in enumerate(row.sources.tolist()):
        own = np.arange(len(row.input_ids)) <= source
        own &= row.ancestors[row.segment_ids[source]][row.segment_ids]
        read = tuple(np.asarray(row.input_ids)[own].tolist())
        reward, old, weight = (v[i] for v in values(row))
        out.append((read, int(row.targets[i]), reward, old if reward else 0.0, weight))
    return out


# --- pairs ---


def test_a_right_attempt_is_one_row_with_rewards_and_imitation():
    """Its last token is a target alone."""
    (row,) = made(pair(attempt=(10, 11, 12), target=(10, 11, 12), rewards=(0.4, 0, 0.2)))
    assert (row.id, row.input_ids.tolist(), row.tokens) == ("a", [5, 6, 10, 11], 5)
    assert row.targets.tolist() == [10, 11, 12]
    assert values(row) == [[0.4, 0, 0.2], [-1, -2, -3], [0.5, 0.5, 0.5]]


def test_a_wrong_attempt_and_its_correction_share_what_they_have_in_common():
    """10 11 12 13 against 10 20 12; rewards on the second and third token of the attempt.

    The trunk 5 6 10 ends at the first edit. Of the correction's tail 20 12 only 20 is a source, of
    the attempt's 11 12 13 only 11 (its last reward is at 12). Both first tail tokens come from 10.
    """
    wrong = pair("a", (10, 11, 12, 13), (10, 20, 12), (0, -0.1, -0.05, 0), (0.5, 1, 0.5))
    (row,) = made(wrong)
    assert (row.id, row.input_ids.tolist()) == ("a", [5, 6, 10, 20, 11])
    assert row.segments == ((0, 3, -1), (3, 4, 0), (4, 5, 0))
    assert row.position_ids.tolist() == [0, 1, 2, 3, 3]
    assert row.tokens == 5  # the ids that are computed, not the 6 + 5 of both sequences
    assert row.sources.tolist() == [1, 2, 3, 2, 4]
    assert row.targets.tolist() == [10, 20, 12, 11, 12]
    assert values(row)[0] == [0, 0, 0, -0.1, -0.05]
    assert values(row)[1][3:] == [-2, -3]
    assert values(row)[2] == [0.5, 1, 0.5, 0, 0]


def test_a_rewarded_token_of_the_trunk_is_scored_once_for_both_losses():
    (row,) = made(pair("a", (10, 11), (10, 20), (-0.1, 0), (0.5, 1)))
    assert row.input_ids.tolist() == [5, 6, 10]
    assert row.targets.tolist() == [10, 20]
    assert values(row) == [[-0.1, 0], [-1, 0], [0.5, 1]]


def test_separate_rows_score_the_same():
    """Two rows for a wrong attempt; read so far, target and credit are those of the tree, where
    one of the trunk's tokens that has both a reward and a weight counts as two."""
    pairs = [
        pair("x", (10, 11, 12, 13), (10, 20, 12), (0, -0.1, -0.05, 0), (0.5, 1, 0.5)),
        pair("y", (10,), (10,), (0.5,)),
        pair("z", target=(10, 20, 12, 13), weights=(0.5, 1, 0.5, 1)),
    ]
    ours, plain = made(*pairs), made(*pairs, rows=separate_rows)
    assert [r.id for r in ours] == ["x", "y", "z"]
    assert [r.id for r in plain] == ["x/corrected", "x", "y", "z/corrected", "z"]
    assert all(r.is_flat for r in plain)
    one, other = ([s for r in rows for s in scored(r)] for rows in (ours, plain))
    assert sorted(one) == sorted(other)


def test_a_wrong_attempt_without_a_reward_needs_no_branch_of_its_own():
    (row,) = made(pair(rewards=(0, 0, 0)))
    assert (row.id, row.input_ids.tolist()) == ("a/corrected", [5, 6, 10, 20])


def test_an_uncorrected_attempt_is_in_the_reinforcement_term_alone():
    (row,) = made(pair(target=(), weights=()))
    assert (row.id, row.input_ids.tolist(), row.targets.tolist()) == ("a", [5, 6, 10], [11])
    assert values(row) == [[-0.1], [-2], [0]]
    assert made(pair(target=(), weights=(), rewards=(0, 0, 0))) == []


def test_a_tree_larger_than_a_micro_batch_stays_two_rows():
    wrong = pair("a", (10, 11, 12, 13), (10, 20, 12), (0, -0.1, -0.05, 0), (0.5, 1, 0.5))
    assert [r.id for r in made(wrong, max_tokens=5)] == ["a"]
    assert [r.id for r in made(wrong, max_tokens=4)] == ["a/corrected", "a"]


def test_pairs_of_one_problem_share_a_row_within_the_limit():
    """Trees of 5, 4 and 5 tokens with the prompt 5 6 in common: 5, 7 and 10 together."""
    pairs = [
        pair("x", (10, 11, 12, 13), (10, 20, 12), (0, -0.1, -0.05, 0), (0.5, 1, 0.5)),
        pair("y", (30, 31, 32), (30, 31, 32), (0.5, 0, 0)),
        pair("z", (40, 41, 42, 43), (40, 41, 42, 43), (0.5, 0, 0, 0)),
    ]

    def cut(limit):
        return [r.id for r in made(*pairs, rows=problem_rows, max_length=limit)]

    assert cut(10) == ["x"]
    assert cut(9) == ["x", "z"]
    assert cut(6) == ["x", "y", "z"]
    together = made(*pairs, rows=problem_rows)
    one, other = ([s for r in rows for s in scored(r)] for rows in (together, made(*pairs)))
    assert sorted(one) == sorted(other)
    assert [r.tokens for r in together] == [len(r.input_ids) for r in together]
    other_problem = replace(pairs[1], attempt=replace(pairs[1].attempt, problem_id="p1"))
    assert len(made(pairs[0], other_problem, pairs[2], rows=problem_rows)) == 3


# --- references ---


def test_reference_rows_train_all_of_a_solution_and_its_end():
    data = SimpleNamespace(prompts=prompts(), problems={p.id: p for p in PROBLEMS})
    rows = list(reference_rows(data))
    assert [r.id for r in rows] == [p.id for p in PROBLEMS]
    for row, problem in zip(rows, PROBLEMS, strict=True):
        target = [*prompts().codec.encode(problem.solution), prompts().codec.end_id]
        assert row.input_ids[row.prompt_length :].tolist() == target
        assert values(row) == [[0] * len(target), [0] * len(target), [1] * len(target)]


def test_problems_without_a_reference_are_left_out_and_all_of_them_refused():
    bare = [replace(p, solution=None) for p in PROBLEMS]
    mixed = SimpleNamespace(prompts=prompts(), problems={p.id: p for p in [*bare[:7], PROBLEMS[7]]})
    assert [r.id for r in reference_rows(mixed)] == ["p7"]
    with pytest.raises(ValueError, match="no problem has a reference solution"):
        list(reference_rows(SimpleNamespace(prompts=prompts(), problems={p.id: p for p in bare})))


@pytest.mark.parametrize("seed", range(40))
def test_the_tree_of_a_pair_is_the_trimmed_tree_of_its_flat_rows(seed):
    """Few different tokens, zeros in credit, and pairs of which one begins with the other."""
    draw = np.random.default_rng(seed)
    for _ in range(25):
        attempt = draw.integers(10, 13, draw.integers(1, 7)).tolist()
        target = edited(draw, attempt, int(draw.integers(1, 4)), 13)
        if seed % 4 == 0:
            target = [*attempt, 10] if seed % 8 else attempt[:-1] or [9]
        rewards = draw.choice([0, -0.1, 0.2], len(attempt), p=[0.5, 0.3, 0.2])
        weights = draw.choice([0, 0.5, 1], len(target))
        one = pair("a", tuple(attempt), tuple(target), rewards, weights)
        flat = rows_of(one)
        if target == attempt or len(flat) < 2:
            continue
        wanted = trim(merge("a", flat))
        found = pair_tree(one)
        for name in ("input_ids", "sources", "targets", "token_rewards", "old_logprobs", "weights"):
            assert getattr(found, name).tolist() == getattr(wanted, name).tolist()
            assert getattr(found, name).dtype == getattr(wanted, name).dtype
        for name in ("id", "segments", "tokens", "attempt_tokens", "whole"):
            assert getattr(found, name) == getattr(wanted, name)
