"""Laws of the edit script, and hand-worked scripts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlmec.method.alignment import (
    apply,
    edit_ratio,
    edit_script,
    edit_weights,
)

IDS = st.lists(st.integers(0, 3), max_size=9)
FIXED = settings(derandomize=True, deadline=None, max_examples=200)


def brute_force(source: list[int], target: list[int]) -> int:
    """The textbook recursion, cell by cell."""
    row = list(range(len(target) + 1))
    for i, a in enumerate(source, 1):
        previous, row = row, [i]
        for j, b in enumerate(target, 1):
            row.append(min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (a != b)))
    return row[-1]


@FIXED
@given(IDS, IDS)
def test_applying_the_script_gives_the_target(source, target):
    assert apply(edit_script(source, target), source, target) == target


@FIXED
@given(IDS, IDS)
def test_kept_tokens_are_read_from_the_source(source, target):
    script = edit_script(source, target)
    hollow = [7 if edited else -1 for edited in script.edited]  # only edited tokens are there
    rebuilt = apply(script, source, hollow)
    expected = [7 if e else t for e, t in zip(script.edited, target, strict=True)]
    assert rebuilt == expected


@FIXED
@given(IDS, IDS)
def test_distance_is_the_brute_force_cost(source, target):
    assert edit_script(source, target).distance == brute_force(source, target)


@FIXED
@given(IDS, IDS)
def test_masks_count_what_the_distance_counts(source, target):
    script = edit_script(source, target)
    substituted = sum(
        op.source_end - op.source_start for op in script.opcodes if op.tag == "replace"
    )
    assert len(script.removed) == len(source)
    assert len(script.edited) == len(target)
    assert script.edited.sum() + script.removed.sum() - substituted == script.distance
    kept_source = [t for t, gone in zip(source, script.removed, strict=True) if not gone]
    kept_target = [t for t, new in zip(target, script.edited, strict=True) if not new]
    assert kept_source == kept_target


@FIXED
@given(IDS, IDS)
def test_edit_ratio_is_symmetric_and_a_share(source, target):
    assert edit_ratio(source, target) == edit_ratio(target, source)
    assert 0.0 <= edit_ratio(source, target) <= 1.0
    assert (edit_ratio(source, target) == 0.0) == (source == target)


def test_insertion_at_the_very_start_is_marked():
    script = edit_script([1, 2], [9, 1, 2])
    assert script.edited.tolist() == [True, False, False]
    assert script.removed.tolist() == [False, False]
    assert (script.distance, script.first_edit, script.removed.any()) == (1, 0, False)


def test_deletion_is_marked_on_its_own_token_only():
    script = edit_script([1, 2, 3], [1, 3])
    assert script.edited.tolist() == [False, False]
    assert script.removed.tolist() == [False, True, False]
    assert (script.distance, script.first_edit, script.removed.any()) == (1, 1, True)


def test_substitution_is_marked_on_both_sides():
    # 5 6 7 -> 5 8 7 4: one substitution (6 by 8) and one insertion (4), so distance 2 = 2 + 1 - 1.
    script = edit_script([5, 6, 7], [5, 8, 7, 4])
    assert script.edited.tolist() == [False, True, False, True]
    assert script.removed.tolist() == [False, True, False]
    assert (script.distance, script.first_edit) == (2, 1)
    assert edit_ratio([5, 6, 7], [5, 8, 7, 4]) == 2 / 4


def test_appended_tokens_have_their_first_edit_after_the_source():
    script = edit_script([1, 2], [1, 2, 3])
    assert script.first_edit == 2
    assert not script.removed.any()


def test_nothing_to_edit():
    script = edit_script([1, 2], [1, 2])
    assert (script.distance, script.first_edit, script.removed.any()) == (0, None, False)
    empty = edit_script([], [])
    assert (empty.opcodes, empty.distance, edit_ratio([], [])) == ((), 0, 0.0)
    assert edit_ratio([], [1]) == 1.0


def test_weights_are_float32_over_the_target():
    script = edit_script([5, 6, 7], [5, 8, 7, 4])
    weights = edit_weights(script)
    assert weights.dtype == np.float32
    assert weights.tolist() == [0.5, 1.0, 0.5, 1.0]
    assert edit_weights(script, edited_weight=2.0, kept_weight=0.0).tolist() == [0, 2, 0, 2]


def test_a_script_refuses_other_sequences():
    with pytest.raises(ValueError, match="from 2 to 3 tokens does not fit sequences of 2 and 2"):
        apply(edit_script([1, 2], [9, 1, 2]), [1, 2], [1, 2])
