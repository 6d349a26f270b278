"""The GRM's training mixture: its rows, their number, and what they share."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import PROBLEMS, prompts

from rlmec.data.grm_rows import first_changed_line, grm_rows, merge_by_problem
from rlmec.data.prefix_tree import flat_rows
from rlmec.data.row import Row
from rlmec.records import Attempt, Correction

DIGEST = prompts().codec.digest
PROMPT = [5, 6]


def texts(right, wrong):
    """Attempts of the first problem and corrections of all wrong ones."""
    encode = prompts().codec.completion
    attempts, corrections = [], []
    for i in range(right):
        text = f"{i}\nThe answer is 2."
        attempts.append(
            Attempt(f"r{i}", "p0", PROMPT, encode(text), [], text, "right", False, DIGEST)
        )
    for i in range(wrong):
        text, fixed = f"0 + 2 = {i}\nThe answer is 3.", f"0 + 2 = {i}\nThe answer is 2."
        attempts.append(
            Attempt(f"w{i}", "p0", PROMPT, encode(text), [], text, "wrong", False, DIGEST)
        )
        corrections.append(
            Correction(
                f"w{i}", "p0", encode(fixed), fixed, "right", 0.1, "accepted", "oracle", DIGEST
            )
        )
    return attempts, corrections


def mixture(right=9, wrong=8, copy=1.0, locate=0.25, seed=1, change=lambda c: c):
    attempts, corrections = texts(right, wrong)
    problems = {p.id: p for p in PROBLEMS}
    found = grm_rows(
        prompts(),
        problems,
        attempts,
        [change(c) for c in corrections],
        copy=copy,
        locate=locate,
        seed=seed,
    )
    rows = sorted(found, key=lambda item: item.place)
    assert [item.place for item in rows] == list(range(len(rows)))
    return rows


def merged(items, most, limit):
    problem_of = [item.attempt.problem_id for item in items]
    return list(merge_by_problem([item.row for item in items], problem_of, most, limit))


def by_task(rows):
    return {task: [r.attempt.id for r in rows if r.task == task] for task in TASKS}


TASKS = ("rewrite", "copy", "locate")


@pytest.mark.parametrize(
    ("copy", "locate", "counts"),
    [
        (1.0, 0.25, [8, 8, 2]),
        (0.5, 0.5, [8, 4, 4]),
        (0.0, 0.0, [8, 0, 0]),
        (2.0, 1.0, [8, 9, 8]),  # no more right attempts than there are
        (0.2, 0.2, [8, 2, 2]),  # 1.6 rounds to 2
    ],
)
def test_copies_and_locations_are_counted_by_the_rewrites(copy, locate, counts):
    rows = mixture(copy=copy, locate=locate)
    assert [len(ids) for ids in by_task(rows).values()] == counts
    assert len(rows) == sum(counts) == len({r.row.id for r in rows})


def test_the_mixture_is_a_function_of_the_seed():
    one, again, other = (by_task(mixture(copy=0.5, locate=0.5, seed=s)) for s in (1, 1, 2))
    assert one == again
    assert one["copy"] != other["copy"]
    assert one["locate"] != other["locate"]
    assert one["rewrite"] == [f"w{i}" for i in range(8)]


def test_what_each_row_asks_and_answers():
    rows = {r.row.id: r.row for r in mixture(right=1, wrong=1, locate=1.0)}
    (right, wrong), (correction,) = texts(1, 1)
    problem, made = PROBLEMS[0], prompts()
    wanted = {
        "w0/rewrite": (made.rewrite(problem, wrong.completion_ids), correction.completion_ids),
        "r0/copy": (made.rewrite(problem, right.completion_ids), right.completion_ids),
        "w0/locate": (made.locate(problem, wrong.text), made.located(1)),
    }
    assert set(rows) == set(wanted)
    for id_, (prompt, target) in wanted.items():
        assert rows[id_].input_ids.tolist() == [*prompt, *target]
        assert rows[id_].prompt_length == len(prompt)
        assert rows[id_].weights.tolist() == [1.0] * len(target)
        assert not rows[id_].token_rewards.any()


def pieces(rows):
    """What every scored token is predicted from and what it is, row by row, in a fixed order."""
    flat = [one for row in rows for one in flat_rows(row)]
    return sorted(
        (one.input_ids[: source + 1].tolist(), target)
        for one in flat
        for source, target in zip(one.sources.tolist(), one.targets.tolist(), strict=True)
    )


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 9), st.integers(60, 900))
def test_rows_put_together_score_the_same_tokens_after_the_same_ones(most, limit):
    made = mixture(locate=0.5)
    single = [item.row for item in made]
    rows = merged(made, most, limit)
    assert pieces(rows) == pieces(single)
    assert sum(row.tokens for row in rows) == sum(row.tokens for row in single)
    assert len({row.id for row in rows}) == len(rows) >= len(single) / most
    longest = max(len(row.input_ids) for row in single)
    assert all(len(row.input_ids) <= max(limit, longest) for row in rows)


def test_a_prompt_of_rows_put_together_is_there_once():
    attempts, corrections = texts(2, 1)
    rows = merged(mixture(right=2, wrong=1, locate=0.0, copy=2.0), 3, 2048)
    common = len(prompts().rewrite(PROBLEMS[0], [])) - len(prompts().codec.encode("\nCorrected:\n"))
    (row,) = rows
    own = sum(len(a.completion_ids) for a in attempts)
    assert len(row.input_ids) <= row.tokens - 2 * (common - 2)
    assert own + len(corrections[0].completion_ids) < len(row.input_ids)


def test_only_rows_of_one_problem_and_one_beginning_are_put_together():
    rows = [Row.likelihood(f"{i}/x", [i % 2 + 3, 7, i + 10], 2) for i in range(6)]
    made = list(merge_by_problem(rows, "ppppqq", 3, 100))
    assert [row.id for row in made] == ["0/x", "1/x", "4/x", "5/x"]
    assert [sorted(row.targets.tolist()) for row in made] == [[10, 12], [11, 13], [14], [15]]


def test_rejected_corrections_teach_nothing():
    def reject(c):
        return replace(c, reason="not_right") if c.attempt_id != "w3" else c

    assert by_task(mixture(change=reject, locate=1.0)) == {
        "rewrite": ["w3"],
        "copy": by_task(mixture(wrong=1))["copy"],
        "locate": ["w3"],
    }


# --- the first changed line ---


@pytest.mark.parametrize(
    ("attempt", "correction", "line"),
    [
        ("a\nb\nc", "a\nx\nc", 1),
        ("a\nb", "x\nb", 0),
        ("a\nb", "a\nb\nc", 1),  # only more lines: the last one at most
        ("a\nb\nc", "a", 1),
        ("a", "a", 0),
        ("\n".join("abcdefghijkl"), "\n".join("abcdefghijkx"), 11),
        ("a\n\nb", "a\nb", 1),
    ],
)
def test_the_first_line_a_correction_changes(attempt, correction, line):
    assert first_changed_line(attempt, correction) == line
