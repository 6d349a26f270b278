"""The rule that punishes the first error alone, by hand."""

import numpy as np
import pytest

from rlmec.method.alignment import edit_script
from rlmec.method.rewards import first_error_labels

ANY = np.zeros(5)


def reward_of(attempt, target):
    script = edit_script(attempt, target)
    return first_error_labels(
        np.zeros(len(attempt)), False, script.removed, script.first_edit, penalty=0.25
    ).tolist()


def test_only_the_run_of_removed_tokens_at_the_first_edit_is_punished():
    assert reward_of([1, 2, 3, 4, 5, 6], [1, 9, 8, 4, 7, 6]) == [0, -0.25, -0.25, 0, 0, 0]


def test_a_run_that_reaches_the_end_is_punished_to_the_end():
    assert reward_of([1, 2, 3], [1]) == [0, -0.25, -0.25]


def test_an_insertion_first_punishes_nothing_even_if_more_is_removed_later():
    assert reward_of([1, 2, 3], [1, 9, 2, 8]) == [0, 0, 0]
    assert reward_of([1, 2], [1, 2, 3]) == [0, 0]  # appended: the first edit is behind the end


def test_without_a_correction_there_is_no_reward():
    assert not first_error_labels(ANY, False, np.zeros(5, dtype=bool), None).any()


def test_a_right_attempt_is_rewarded_throughout():
    found = first_error_labels(ANY, True, np.zeros(5, dtype=bool), None, reward=0.75)
    assert found.dtype == np.float32
    assert found.tolist() == [0.75] * 5


@pytest.mark.parametrize("sizes", [{"reward": -1.0}, {"penalty": -0.1}])
def test_negative_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match="not below 0"):
        first_error_labels(ANY, True, np.zeros(5, dtype=bool), None, **sizes)
