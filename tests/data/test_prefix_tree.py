"""Trees of rows: every distinct prefix once, and the same credit as the single rows."""

import numpy as np
import pytest
from small_rows import credits, random_pair, scored

from rlmec.data import prefix_tree
from rlmec.data.collate import step_normalizers
from rlmec.data.prefix_tree import flat_rows, merge, trim
from rlmec.data.row import Row, Segment

SEEDS = range(40)  # a failing one is named in the test's id


def pairs_of(seed, most=4):
    """Rows of one to four pairs with the same prompt, 0 to 8 edits each; few different tokens, so
    that they meet again by chance."""
    draw = np.random.default_rng(seed)
    rows, head = [], None
    for i in range(int(draw.integers(1, most + 1))):
        pair = random_pair(draw, f"p{i}", edits=int(draw.integers(0, 9)), vocabulary=5)
        head = head or pair[0].input_ids[: pair[0].prompt_length].tolist()
        rows += [
            Row.flat(
                row.id,
                [*head, *row.input_ids[row.prompt_length :]],
                len(head),
                row.token_rewards,
                row.old_logprobs,
                row.weights,
            )
            for row in pair
        ]
    return rows


def prefixes(sequences):
    return {tuple(ids[: n + 1]) for ids in sequences for n in range(len(ids))}


@pytest.mark.parametrize("seed", SEEDS)
def test_every_distinct_prefix_stands_in_the_tree_once(seed):
    rows = pairs_of(seed)
    made = merge("m", rows)
    wanted = prefixes(row.input_ids for row in rows)
    assert len(made.input_ids) == len(wanted)
    ids, found = np.asarray(made.input_ids), set()
    for at in range(len(ids)):
        on_path = made.ancestors[made.segment_ids[at]][made.segment_ids] & (
            np.arange(len(ids)) <= at
        )
        found.add(tuple(ids[on_path].tolist()))
        assert made.position_ids[at] == on_path.sum() - 1
    assert found == wanted
    assert made.tokens == sum(len(row.input_ids) for row in rows)
    assert made.longest == max(len(row.input_ids) for row in rows)


@pytest.mark.parametrize("seed", SEEDS)
def test_segments_are_the_longest_runs(seed):
    """No segment has a single child: it would be one with it."""
    parents = [segment.parent for segment in merge("m", pairs_of(seed)).segments]
    assert all(parents.count(at) != 1 for at in range(len(parents)))


@pytest.mark.parametrize("seed", SEEDS)
def test_without_joining_tokens_are_scored_row_after_row(seed):
    rows = pairs_of(seed)
    assert scored(merge("m", rows, join=False)) == [s for row in rows for s in scored(row)]


@pytest.mark.parametrize("seed", SEEDS)
def test_credit_and_counts_are_those_of_the_rows(seed):
    rows = pairs_of(seed)
    made = merge("m", rows)
    assert credits([made]) == credits(rows)
    assert step_normalizers([made]) == step_normalizers(rows)
    assert len(made.targets) <= sum(len(row.targets) for row in rows)
    assert credits(flat_rows(made)) == credits(rows)
    assert all(row.is_flat for row in flat_rows(made))
    assert sum(row.tokens for row in flat_rows(made)) == made.tokens


@pytest.mark.parametrize("seed", SEEDS)
def test_a_trimmed_row_has_the_credit_and_no_id_that_it_does_not_need(seed):
    rows = pairs_of(seed)
    for row in (merge("m", rows), *rows):
        made = trim(row)
        assert credits([made]) == credits([row])
        assert ((made.token_rewards != 0) | (made.weights != 0)).all()
        read = {s[:-4] for s in scored(made)}
        assert len(made.input_ids) == max(len(prefixes(read)), 1)
        assert made.tokens == (row.tokens if row.is_flat else len(made.input_ids))
        parents = [segment.parent for segment in made.segments]
        assert all(parents.count(at) != 1 for at in range(len(parents)))


def test_three_tokens_by_hand():
    """Prompt 7; attempt 1 2 3 with rewards on its last two, correction 1 4 3 with weights.

    Tree: 7 1 | 4 3 | 2 3, branches in the order of the rows. 1 is scored once, for imitation alone
    (no reward); 4 and 2 both come from the trunk's last token, at 1. Neither 3 is a source.
    """
    zeros = np.zeros(3)
    right = Row.flat("c", [7, 1, 4, 3], 1, zeros, zeros, np.array([0.5, 1, 0.5]))
    wrong = Row.flat(
        "w", [7, 1, 2, 3], 1, np.array([0, -0.1, -0.05]), np.array([-1, -2, -3]), zeros
    )
    made = merge("m", [right, wrong])
    assert made.input_ids.tolist() == [7, 1, 4, 3, 2, 3]
    assert made.segments == (Segment(0, 2, -1), Segment(2, 4, 0), Segment(4, 6, 0))
    assert made.position_ids.tolist() == [0, 1, 2, 3, 2, 3]
    assert made.sources.tolist() == [0, 1, 2, 1, 4]
    assert made.targets.tolist() == [1, 4, 3, 2, 3]
    assert made.weights.tolist() == [0.5, 1, 0.5, 0, 0]
    assert made.token_rewards.tolist() == pytest.approx([0, 0, 0, -0.1, -0.05])
    assert step_normalizers([made]) == (2.0, 3.0)
    short = trim(made)
    assert short.input_ids.tolist() == [7, 1, 4, 2]
    assert short.segments == (Segment(0, 2, -1), Segment(2, 3, 0), Segment(3, 4, 0))
    assert short.sources.tolist() == [0, 1, 2, 1, 3]


def test_a_useless_branch_goes_and_its_sibling_becomes_one_with_the_trunk():
    zeros = np.zeros(3)
    right = Row.flat("c", [7, 1, 4, 3], 1, zeros, zeros, np.array([0.5, 1, 0.5]))
    wrong = Row.flat("w", [7, 1, 2, 3], 1, zeros, zeros, zeros)
    made = trim(merge("m", [wrong, right]))
    assert made.input_ids.tolist() == [7, 1, 4]
    assert made.is_flat
    nothing = trim(wrong)
    assert (nothing.input_ids, len(nothing.targets)) == ([7], 0)


def test_two_rewards_or_two_weights_of_one_token_stay_two():
    one = Row.likelihood("a", [7, 1, 2], 1)
    assert merge("m", [one, one]).weights.tolist() == [1.0] * 4
    assert merge("m", [one, one]).input_ids.tolist() == [7, 1, 2]


def test_what_cannot_be_merged_is_refused():
    one, other = Row.likelihood("a", [7, 1, 2], 1), Row.likelihood("b", [8, 1, 2], 1)
    with pytest.raises(ValueError, match="rows 'a', 'b' have no common beginning"):
        merge("m", [one, other])
    branched = merge("m", [one, Row.likelihood("b", [7, 3], 1)])
    with pytest.raises(ValueError, match="row 'm' is a tree already: 3 segments"):
        merge("n", [one, branched])


@pytest.mark.parametrize("seed", range(20))
def test_twice_scored_tokens_are_joined_as_they_are_one_by_one(seed):
    draw = np.random.default_rng(seed)
    places = draw.permutation([(s, t) for s in range(4) for t in range(3)] * 2)[:15]
    fields = {
        "sources": places[:, 0],
        "targets": places[:, 1],
        "token_rewards": draw.choice([0, -0.1, 0.2], 15).astype(np.float32),
        "old_logprobs": -draw.random(15).astype(np.float32),
        "weights": draw.choice([0, 0.5, 1], 15).astype(np.float32),
    }
    wanted = prefix_tree._joined_one_by_one(fields)
    found = prefix_tree._joined(fields)
    assert {n: v.tolist() for n, v in found.items()} == {n: v.tolist() for n, v in wanted.items()}
