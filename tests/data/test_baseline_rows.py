"""Rows of other trainings on the same pairs, worked by hand."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_models import prompts
from small_pairs import PROMPT, pair, values

from rlmec.data.baseline_rows import (
    advantage_rows,
    attempt_preferences,
    correction_preferences,
    group_advantage_rows,
    right_rows,
    teacher_solution_rows,
)
from rlmec.data.policy_rows import pair_rows
from rlmec.data.prefix_tree import flat_rows
from rlmec.data.row import step_sizes
from rlmec.method.objectives import TokenBatch, grpo

RIGHT = pair("r", (10, 11, 12), (10, 11, 12), (0.4, 0, 0.2))
WRONG = pair("w", (10, 13), (10, 20, 12), (0, -0.1), (0.5, 1, 0.5))
ALONE = pair("u", (30, 31), (), (0, -0.1), ())  # wrong, and never corrected


def data(*pairs, **more):
    plain = {
        "prompts": prompts(),
        "problems": {},
        "max_length": 100,
        "max_tokens": None,
        "draws": {},
    }
    return SimpleNamespace(pairs=list(pairs), **(plain | more))


def group(name, verdicts):
    """Pairs of one problem, one per letter of `verdicts` (r: right, w: wrong)."""
    made = {"r": RIGHT, "w": ALONE}
    return [
        replace(made[v], attempt=replace(made[v].attempt, id=f"{name}/{i}", problem_id=name))
        for i, v in enumerate(verdicts)
    ]


def grouped(*pairs, **more):
    """The joined data with a counter of what a row function leaves out."""
    counts = Counter()

    def leave_out(reason, count):
        counts[reason] += count

    return data(*pairs, leave_out=leave_out, **more), counts


def signs(row):
    """(target, reward, old log-prob) of every scored token."""
    rewards, old, _ = values(row)
    return list(zip(row.targets.tolist(), rewards, old, strict=True))


def test_rejection_fine_tuning_sees_right_attempts_alone():
    (row,) = right_rows(data(WRONG, RIGHT, ALONE))
    assert (row.id, row.input_ids.tolist()) == ("r", [*PROMPT, 10, 11, 12])
    assert values(row) == [[0] * 3, [0] * 3, [1] * 3]
    with pytest.raises(ValueError, match="no attempt is right"):
        list(right_rows(data(WRONG)))


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
    plain = list(advantage_rows(made, right=1.0, wrong=-1.0, center=False))
    assert [set(values(row)[0]) for row in plain] == [{1.0}, {-1.0}, {-1.0}, {-1.0}]


def test_group_advantages_of_one_right_attempt_of_four():
    """r is 1, 0, 0, 0: mean 1/4 and standard deviation sqrt(3)/4 = 0.4330127. The right attempt has
    0.75 / 0.4330127 = 1.7320508 = sqrt(3), the wrong ones -0.25 / 0.4330127 = -0.5773503."""
    made, counts = grouped(*group("p", "rwww"))
    rows = list(group_advantage_rows(made))
    assert [row.id for row in rows] == ["p/0", "p/1", "p/2", "p/3"]
    assert values(rows[0])[0] == pytest.approx([1.7320508] * 3, abs=1e-5)
    for row in rows[1:]:
        assert values(row)[0] == pytest.approx([-0.5773503] * 2, abs=1e-5)
    assert values(rows[1])[1] == [-1.0, -2.0]
    assert not any(row.weights.any() for row in rows)
    assert not counts


def test_group_advantages_without_the_standard_deviation():
    """3/4 and -1/4 in a group of four, 1/2 and -1/2 in a group of two, whatever their order."""
    first, second = group("p", "rwww"), group("q", "wr")
    made, _ = grouped(*first[:2], *second, *first[2:])
    rows = {row.id: row for row in group_advantage_rows(made, divide_by_std=False)}
    found = {id_: set(values(row)[0]) for id_, row in rows.items()}
    assert found == {
        **{"p/0": {0.75}, "p/1": {-0.25}, "p/2": {-0.25}, "p/3": {-0.25}},
        **{"q/0": {-0.5}, "q/1": {0.5}},
    }


def test_the_advantages_of_a_group_have_mean_0_and_variance_1():
    made, _ = grouped(*group("p", "rrwrwww"))
    advantages = np.array([row.token_rewards[0] for row in group_advantage_rows(made)])
    assert advantages.mean() == pytest.approx(0, abs=1e-6)
    assert advantages.var() == pytest.approx(1, abs=1e-4)


def test_a_group_that_is_all_alike_has_no_row_and_is_counted():
    """So is a group of a single attempt."""
    made, counts = grouped(*group("p", "rr"), *group("q", "www"), *group("s", "r"))
    assert list(group_advantage_rows(made)) == []
    assert counts == {"group_all_right": 3, "group_all_wrong": 3}


def test_an_attempt_counts_as_often_as_it_was_drawn():
    """The wrong attempt was drawn three times, so its group is one right and three wrong ones: 3/4
    and -1/4 (GRPO without the standard deviation); 1 - (-1/2) and -1 - (-1/2) (PPO)."""
    drawn = {"draws": {"p/1": 3}}
    made, _ = grouped(*group("p", "rw"), **drawn)
    rows = list(group_advantage_rows(made, divide_by_std=False))
    assert [row.id for row in rows] == ["p/0", "p/1", "p/1/again1", "p/1/again2"]
    assert [values(row)[0][0] for row in rows] == [0.75, -0.25, -0.25, -0.25]
    plain = list(advantage_rows(data(*group("p", "rw"), **drawn)))
    assert [values(row)[0][0] for row in plain] == [1.5, -0.5, -0.5, -0.5]
    made, counts = grouped(*group("q", "ww"), draws={"q/0": 5})
    assert not list(group_advantage_rows(made))
    assert counts == {"group_all_wrong": 2}  # attempts that are stored, as elsewhere in the figures


def test_the_gradient_of_group_advantages_at_the_start():
    """One right attempt and one wrong one, each with its first two tokens: r - mean is 1/2 and
    -1/2. The ratio is 1 and there are 3 + 2 tokens, so that d loss / d log pi_j is -A / 5: -0.1 for
    a token of the right attempt, 0.1 for one of the wrong attempt. Per sequence it is A over the
    attempt's length and 2 rows: 0.5 / 3 / 2 = 0.0833333 and 0.5 / 2 / 2 = 0.125."""
    made, _ = grouped(*group("p", "rw"))
    rows = list(group_advantage_rows(made, divide_by_std=False))
    old, rewards = (
        torch.from_numpy(np.concatenate([getattr(row, name) for row in rows]))
        for name in ("old_logprobs", "token_rewards")
    )
    logprobs = old.clone().requires_grad_()
    ids = torch.tensor([0, 0, 0, 1, 1])
    tokens = TokenBatch(logprobs, old, rewards, 0 * old, torch.ones(5, dtype=torch.bool), ids)
    sizes = step_sizes(rows)
    assert (sizes.attempt, sizes.row) == (5, 2)

    for per_sequence, expected in (
        (False, [-0.1] * 3 + [0.1] * 2),
        (True, [-0.0833333] * 3 + [0.125] * 2),
    ):
        sums = grpo(tokens, per_sequence_mean=per_sequence)
        loss = sums.policy / getattr(sizes, sums.divide_by)
        (found,) = torch.autograd.grad(loss, logprobs)
        assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_a_preferred_completion_has_weights_where_its_likelihood_is_wanted():
    """All tokens of 10 20 12, the common 10 included; none of the rejected 10 13."""
    made = data(RIGHT, WRONG, ALONE, start_logprobs={"w": [-4.0, -5.0, -6.0]})
    (row,) = correction_preferences(made, likelihood=True)
    assert signs(row) == [(10, 0, -4.0), (20, 1, -5.0), (12, 1, -6.0), (13, -1, -2.0)]
    assert values(row)[2] == [1, 1, 1, 0]
    (plain,) = correction_preferences(made)
    assert row.input_ids.tolist() == plain.input_ids.tolist()
    assert (row.tokens, row.whole) == (plain.tokens, True)

    (first,) = attempt_preferences(data(WRONG, RIGHT), likelihood=True)
    assert list(zip(first.targets.tolist(), values(first)[2], strict=True)) == [
        (10, 1),
        (11, 1),
        (12, 1),
        (13, 0),
    ]


def test_a_correction_is_preferred_to_its_attempt():
    """10 20 12 over 10 13: the common 10 cancels. Preferred tokens come first, with the start's
    log-probs of the correction; 20 and 13 are both predicted from 10."""
    made = data(RIGHT, WRONG, ALONE, start_logprobs={"w": [-4.0, -5.0, -6.0]})
    (row,) = correction_preferences(made)
    assert (row.id, row.whole, row.input_ids.tolist()) == ("w", True, [5, 6, 10, 20])
    assert signs(row) == [(20, 1, -5.0), (12, 1, -6.0), (13, -1, -2.0)]
    assert row.sources.tolist() == [2, 3, 2]
    assert row.tokens == 4
    made.start_logprobs = {}
    with pytest.raises(ValueError, match=r"attempt 'w'.*policy\.score_corrections"):
        list(correction_preferences(made))


def test_every_wrong_attempt_meets_right_ones_of_its_problem_in_turn():
    second = pair("s", (10, 40), (10, 40), (0.4, 0))
    third = replace(ALONE, attempt=replace(ALONE.attempt, id="x", problem_id="p9"))
    made = data(WRONG, RIGHT, ALONE, second, third)
    rows = list(attempt_preferences(made))
    assert [row.id for row in rows] == ["r>w", "s>u"]
    assert signs(rows[0]) == [(11, 1, -2.0), (12, 1, -3.0), (13, -1, -2.0)]
    assert signs(rows[1])[0] == (10, 1, -1.0)
    assert [row.id for row in attempt_preferences(made, most_per_problem=1)] == ["r>w"]
    assert step_sizes(rows).row == 2


def test_a_row_that_compares_is_not_taken_apart():
    rows = list(attempt_preferences(data(WRONG, RIGHT)))
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
        sizes = step_sizes(list(pair_rows(data(RIGHT, wrong))))
        assert sizes.attempt == 5
    assert step_sizes(list(pair_rows(data(RIGHT, WRONG)))).row == 2
    assert step_sizes(list(pair_rows(data(RIGHT, plain)))).row == 1
    assert step_sizes([]) == (1.0, 1.0)
    (tree,) = pair_rows(data(pair("w", (10, 13, 14), (10, 20, 12), (0, -0.1, -0.1))))
    assert not tree.is_flat
    assert sum(row.attempt_tokens for row in flat_rows(tree)) == tree.attempt_tokens == 3


# --- whole solutions of a teacher ---


def solved(*pairs, solve):
    problem = SimpleNamespace(id="p0")
    return SimpleNamespace(pairs=pairs, prompts=prompts(), problems={"p0": problem}, solve=solve)


def test_a_whole_solution_stands_in_for_a_correction():
    """The right attempt keeps its weights 0.5; the corrected one becomes the teacher's text, all
    weights 1; the uncorrected one has no row."""
    right = pair("r", (10, 11), (10, 11), (0, 0))
    wrong = pair("w", (10, 12), (10, 13), (0, -0.1), (0.5, 1))
    lost = pair("u", (10, 14), (), (0, 0))
    text = prompts().codec.completion("7\n8")
    rows = list(teacher_solution_rows(solved(right, wrong, lost, solve=lambda problem: "7\n8")))
    assert [row.id for row in rows] == ["r", "w/solved"]
    assert rows[0].weights.tolist() == [0.5, 0.5]
    assert rows[1].targets.tolist() == text
    assert rows[1].weights.tolist() == [1.0] * len(text)
    assert not any(row.token_rewards.any() for row in rows)
    assert rows[1].input_ids[: len(PROMPT)].tolist() == PROMPT


def test_a_problem_that_the_teacher_cannot_solve_has_no_row():
    wrong = pair("w", (10, 12), (10, 13), (0, 0))
    assert not list(teacher_solution_rows(solved(wrong, solve=lambda problem: None)))
    with pytest.raises(ValueError, match="no method `solve`"):
        list(teacher_solution_rows(solved(wrong, solve=None)))
