"""A mark says truly what a row function reads: what it does not name may be anything."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from small_models import prompts
from small_pairs import pair

from rlmec.ablations.rewards import first_error_labels, verdict
from rlmec.data import baseline_rows, policy_rows
from rlmec.method.rewards import clipped_probability, edit_labels, no_reward
from rlmec.records import Problem
from rlmec.settings.reads import ALL, CORRECTIONS, GRM_LOGPROBS, OLD_LOGPROBS, reads, what_is_read

ROWS = (
    policy_rows.pair_rows,
    policy_rows.problem_rows,
    policy_rows.separate_rows,
    policy_rows.reference_rows,
    baseline_rows.right_rows,
    baseline_rows.teacher_solution_rows,
    baseline_rows.advantage_rows,
    baseline_rows.group_advantage_rows,
    baseline_rows.correction_preferences,
    baseline_rows.attempt_preferences,
)


def joined(*, scored=True, corrected=True):
    """A right attempt and a wrong one; without scores as `join_pairs` makes them."""
    zeros = [0, 0, 0]
    right = pair("r", (10, 11, 12), (10, 11, 12), zeros)
    wrong = pair("w", (10, 11, 13), (10, 20, 12), zeros, [0.5, 1.0, 0.5])
    if not corrected:
        wrong = pair("w", (10, 11, 13), (), zeros, [])
    if not scored:
        right, wrong = (replace(p, old_logprobs=np.zeros(3, np.float32)) for p in (right, wrong))
    return SimpleNamespace(
        prompts=prompts(),
        problems={"p0": Problem("p0", "1+1?", "2", solution="1+1=2")},
        pairs=[right, wrong],
        max_length=64,
        max_tokens=None,
        draws={},
        start_logprobs={"w": [-0.5, -0.5, -0.5]},
        solve=lambda problem: "2",
        leave_out=lambda reason, count: None,
    )


def facts(rows):
    """What a training can see of rows: old log-probs count where there is a reward."""
    names = ("input_ids", "targets", "token_rewards", "weights")
    return [
        (row.id, row.old_logprobs[row.token_rewards != 0].tolist(), all_of(row, names))
        for row in rows
    ]


def all_of(row, names):
    return [getattr(row, name).tolist() for name in names]


def test_every_row_function_of_the_configuration_is_here():
    folder = Path(policy_rows.__file__).parents[2] / "conf" / "policy" / "rows"
    found = [re.findall(r"^_target_: \S+\.(\w+)$", p.read_text(), re.M) for p in folder.iterdir()]
    assert {name for names in found for name in names} <= {rows.__name__ for rows in ROWS}
    assert sum(len(names) for names in found) >= 8


@pytest.mark.parametrize("rows", ROWS, ids=lambda rows: rows.__name__)
def test_rows_are_the_same_without_scores_where_no_log_probs_are_read(rows):
    same = facts(rows(joined())) == facts(rows(joined(scored=False)))
    assert same == (OLD_LOGPROBS not in what_is_read(rows))


@pytest.mark.parametrize("rows", ROWS, ids=lambda rows: rows.__name__)
def test_rows_are_the_same_without_corrections_where_none_are_read(rows):
    same = facts(rows(joined())) == facts(rows(joined(corrected=False)))
    assert same == (CORRECTIONS not in what_is_read(rows))


def test_a_reward_rule_is_read_unless_it_gives_nothing():
    assert what_is_read(no_reward) == frozenset()
    assert what_is_read(clipped_probability) == ALL, "a rule without a mark"


@pytest.mark.parametrize("rule", [no_reward, edit_labels, verdict, first_error_labels])
@pytest.mark.parametrize("right", [True, False])
def test_a_rule_that_does_not_read_the_grm_works_without_it(rule, right):
    """A score without a GRM has NaN in place of its log-probs."""
    assert GRM_LOGPROBS not in what_is_read(rule)
    removed = np.array([False, not right, False])
    first = {"first_edit": None if right else 1} if rule is first_error_labels else {}
    with_grm = rule(np.array([-0.5, -3.0, -0.1]), right, removed, **first)
    assert rule(np.full(3, np.nan), right, removed, **first).tolist() == with_grm.tolist()


def test_a_part_that_nothing_has_is_refused():
    with pytest.raises(ValueError, match=r"reads: \['rewrds'\] not in"):
        reads("rewrds")
