"""Rows: what is checked at construction, and the places of a tree's tokens."""

from dataclasses import replace

import numpy as np
import pytest

from rlmec.data.row import Row, Segment, rows_digest


def row(id="r", ids=(1, 2, 3, 4), prompt=2, rewards=(0.5, 0.0), old=(-1.0, -2.0), w=(1.0, 0.5)):
    return Row.flat(id, list(ids), prompt, np.array(rewards), np.array(old), np.array(w))


def tree(*segments, ids=6, sources=(0,)):
    credit = [np.zeros(len(sources))] * 2
    targets = np.full(len(sources), 9)
    made = [Segment(*s) for s in segments]
    return Row("t", list(range(ids)), np.array(sources), targets, *credit, credit[0] + 1, made)


def test_a_flat_row_scores_each_completion_token_by_the_one_before_it():
    made = row()
    assert made.sources.tolist() == [1, 2]
    assert made.targets.tolist() == [3, 4]
    assert made.position_ids.tolist() == [0, 1, 2, 3]
    assert (made.prompt_length, made.longest, made.tokens, made.is_flat) == (2, 4, 4, True)


def test_a_row_holds_float32():
    made = row()
    assert [getattr(made, n).dtype for n in ("token_rewards", "old_logprobs", "weights")] == [
        np.float32
    ] * 3


def test_a_likelihood_row_has_weight_one_everywhere():
    made = Row.likelihood("x", [1, 2, 3, 4, 5], 2)
    assert made.weights.tolist() == [1.0] * 3
    assert made.token_rewards.tolist() == made.old_logprobs.tolist() == [0.0] * 3


@pytest.mark.parametrize("name", ["rewards", "old", "w"])
def test_a_row_of_another_length_is_refused_with_both_numbers(name):
    with pytest.raises(ValueError, match=r"row 'r': .* shape \(3,\), 2 tokens are scored"):
        row(**{name: (0.0, 0.0, 0.0)})


@pytest.mark.parametrize("prompt", [0, 4, 5])
def test_a_row_needs_a_prompt_and_a_completion(prompt):
    with pytest.raises(ValueError, match=rf"row 'r': 4 ids, {prompt} of them prompt"):
        row(prompt=prompt)
    with pytest.raises(ValueError, match=rf"4 ids, {prompt} of them prompt"):
        Row.likelihood("r", [1, 2, 3, 4], prompt)


def test_a_row_refuses_numbers_that_would_reach_the_loss():
    nan = float("nan")
    for bad in ({"rewards": (nan, 0.0)}, {"w": (nan, 0.0)}, {"old": (nan, -1.0)}):
        with pytest.raises(ValueError, match=r"row 'r': .* not finite"):
            row(**bad)
    with pytest.raises(ValueError, match="row 'r': a weight is below 0"):
        row(w=(1.0, -0.5))
    for unread in (nan, -np.inf):  # no reward there
        assert not np.isfinite(row(old=(-1.0, unread)).old_logprobs[1])
    assert row(w=(0.0, 3e38)).weights[1] > 2e38  # its square is not finite


def test_a_tree_by_hand():
    """Two ids, then two branches of two and one; the first goes on with one more."""
    made = tree((0, 2, -1), (2, 4, 0), (4, 5, 1), (5, 6, 0))
    assert made.position_ids.tolist() == [0, 1, 2, 3, 4, 2]
    assert made.segment_ids.tolist() == [0, 0, 1, 1, 2, 3]
    assert made.ancestors.astype(int).tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [1, 1, 1, 0],
        [1, 0, 0, 1],
    ]
    assert (made.longest, made.is_flat) == (5, False)


@pytest.mark.parametrize(
    ("segments", "named"),
    [
        ([(0, 2, -1), (3, 6, 0)], r"segment 1 is \[3, 6\) after 2 ids"),
        ([(0, 2, -1), (2, 2, 0), (2, 6, 0)], r"segment 1 is \[2, 2\)"),
        ([(0, 2, -1), (2, 6, 1)], "with parent 1"),
        ([(0, 2, -1), (2, 5, 0)], "segments end at 5, there are 6 ids"),
    ],
)
def test_segments_that_are_no_tree_are_refused(segments, named):
    with pytest.raises(ValueError, match=rf"row 't': .*{named}"):
        tree(*segments)


@pytest.mark.parametrize("source", [-1, 6])
def test_a_source_outside_the_row_is_refused(source):
    with pytest.raises(ValueError, match=rf"row 't': sources from {source} to {source} in 6 ids"):
        tree((0, 6, -1), sources=(source,))


def test_the_digest_of_rows_counts_every_id_and_no_credit():
    base = [row(), row(ids=(9, 8, 7, 6))]
    branched = replace(base[0], segments=(Segment(0, 2, -1), Segment(2, 4, 0)))
    others = [
        base[:1],
        base[::-1],
        [row(ids=(1, 2, 3, 5)), base[1]],
        [row(ids=(2, 2, 3, 4)), base[1]],  # a token of the prompt
        [replace(base[0], sources=[0, 2]), base[1]],
        [replace(base[0], targets=[3, 5]), base[1]],
        [branched, base[1]],
    ]
    assert len({rows_digest(rows) for rows in (base, *others)}) == 8
    assert rows_digest([row(rewards=(0.0, 0.0), w=(1.0, 1.0)), base[1]]) == rows_digest(base)
