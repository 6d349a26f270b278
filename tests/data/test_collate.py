"""Batches of rows: the counts of a step and the padding, worked by hand."""

import numpy as np
import pytest
import torch

from rlmec.data.collate import collate, pad_left, step_normalizers
from rlmec.data.row import Row, Segment, StepSizes


def row(id="r", ids=(1, 2, 3, 4), prompt=2, rewards=(0.5, 0.0), old=(-1.0, -2.0), w=(1.0, 0.5)):
    return Row.flat(id, list(ids), prompt, np.array(rewards), np.array(old), np.array(w))


# --- the counts of a step ---


def test_normalizers_count_the_step():
    rows = [row(), row(rewards=(-0.1, -0.1), w=(0.0, 0.0)), Row.likelihood("x", [1, 2, 3], 1)]
    assert step_normalizers(rows) == (3.0, 4.0)  # 1 + 2 + 0 and 2 + 0 + 2
    assert step_normalizers([row(rewards=(0.0, 0.0), w=(0.0, 0.0))]) == (1.0, 1.0)
    assert step_normalizers([]) == (1.0, 1.0)


# --- padding ---


def test_collate_by_hand():
    long = Row.flat("l", [5, 6, 7, 8, 9], 3, np.array([-0.1, 0.2]), np.array([-3, -4]), np.ones(2))
    made = collate([row(), long], 0, 3.0, 4.0, index=7)
    assert made["input_ids"].tolist() == [[1, 2, 3, 4, 0], [5, 6, 7, 8, 9]]
    assert made["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1] * 5]
    assert made["position_ids"].tolist() == [[0, 1, 2, 3, 0], [0, 1, 2, 3, 4]]
    assert made["sources"].tolist() == [1, 2, 5 + 2, 5 + 3]  # each before its target, rows of 5
    assert made["targets"].tolist() == [3, 4, 8, 9]
    assert made["old_logprobs"].tolist() == [-1, -2, -3, -4]
    assert made["weights"].tolist() == [1, 0.5, 1, 1]
    assert made["token_rewards"].equal(torch.tensor([0.5, 0, -0.1, 0.2]))
    scalars = ("policy_normalizer", "imitation_normalizer", "index")
    assert [made[name].item() for name in scalars] == [3.0, 4.0, 7]
    assert {name: value.dtype for name, value in made.items()} == TYPES


TYPES = {
    **dict.fromkeys(["input_ids", "attention_mask", "position_ids"], torch.int64),
    **dict.fromkeys(["sources", "targets", "row_ids", "index"], torch.int64),
    **dict.fromkeys(["token_rewards", "old_logprobs", "weights"], torch.float32),
    **dict.fromkeys(["policy_normalizer", "imitation_normalizer"], torch.float32),
    **dict.fromkeys(["attempt_normalizer", "row_normalizer"], torch.float32),
}


def test_collate_of_a_tree_by_hand():
    """1 2 | 3 4 | 5 with a flat row of three: a branch continues at position 2."""
    arrays = [np.array([1.0, 0.0]), np.array([-1.0, 0.0]), np.array([0.0, 1.0])]
    segments = (Segment(0, 2, -1), Segment(2, 4, 0), Segment(4, 5, 0))
    tree = Row("t", [1, 2, 3, 4, 5], np.array([1, 4]), np.array([3, 6]), *arrays, segments)
    sizes = StepSizes(30.0, 4.0)
    made = collate([tree, Row.likelihood("f", [7, 8, 9], 1)], 0, 1.0, 1.0, sizes=sizes)
    assert made["row_ids"].tolist() == [0, 0, 1, 1]
    assert [made[f"{n}_normalizer"].item() for n in ("attempt", "row")] == [30.0, 4.0]
    assert made["position_ids"].tolist() == [[0, 1, 2, 3, 2], [0, 1, 2, 0, 0]]
    assert made["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    assert made["segments"].tolist() == [[0, 0, 1, 1, 2], [0, 0, 0, 3, 3]]
    above = [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    alone = [[1, 0, 0, 0], [0] * 4, [0] * 4, [0] * 4]
    assert made["ancestors"].int().tolist() == [above, alone]
    assert made["sources"].tolist() == [1, 4, 5, 6]
    assert made["targets"].tolist() == [3, 6, 8, 9]


def test_a_filler_is_attended_to_and_counts_for_nothing():
    made = collate([], 3, 5.0, 6.0, index=2)
    assert made["input_ids"].tolist() == [[3, 3]]
    assert made["attention_mask"].tolist() == [[1, 1]]
    for name in ("sources", "targets", "token_rewards", "old_logprobs", "weights"):
        assert made[name].shape == (0,)
    assert {name: value.dtype for name, value in made.items()} == TYPES
    assert made.keys() == collate([row()], 3, 5.0, 6.0).keys()


def test_a_pad_id_outside_every_vocabulary_is_refused():
    with pytest.raises(ValueError, match="pad_id -1"):
        collate([row()], -1, 1.0, 1.0)


def test_pad_left_by_hand():
    ids, mask = pad_left([[1, 2, 3], [4]], 0)
    assert ids.tolist() == [[1, 2, 3], [0, 0, 4]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert ids.dtype == mask.dtype == torch.int64
    for bad in ([], [[1], []]):
        with pytest.raises(ValueError, match="sequences to pad"):
            pad_left(bad, 0)
