"""Rows that imitate a correction up to its first fix."""

from types import SimpleNamespace

import pytest
from small_models import prompts
from small_pairs import pair

from rlmec.ablations.rows import first_fix_rows
from rlmec.data.policy_rows import pair_rows

RIGHT = pair("r", (10, 11, 12), (10, 11, 12), (0.4, 0, 0.2))


def data(*pairs):
    plain = {"prompts": prompts(), "problems": {}, "max_length": 100, "max_tokens": None}
    return SimpleNamespace(pairs=list(pairs), **plain)


def coded(attempt, target):
    """A pair of texts, all weights 1."""
    code = prompts().codec.completion
    ids = code(attempt)
    return pair("w", ids, code(target), [0] * len(ids), [1] * len(code(target)))


@pytest.mark.parametrize(
    ("attempt", "target", "imitated"),
    [
        ("1\n2\n3", "1\n7\n3", "1\n7\n"),  # the second line, up to its end
        ("1\n2\n3", "1\n7\n8", "1\n7\n"),  # a later edit is left out
        ("1\n3", "1\n2\n3", "1\n2\n"),  # an added line
        ("1\n2\n3", "1\n3", "1\n3"),  # a removed line: the line that takes its place
        ("1\n2", "1\n7", "1\n7"),  # the last line, with its end
    ],
)
def test_only_the_prefix_and_the_first_fix_are_imitated(attempt, target, imitated):
    made = coded(attempt, target)
    cut, right = first_fix_rows(data(made, RIGHT))
    kept = cut.targets[cut.weights != 0].tolist()
    assert kept == made.target_ids[: len(kept)]
    assert prompts().codec.text(kept) == imitated
    assert (len(kept) == len(made.target_ids)) == (not imitated.endswith("\n"))
    (whole,) = pair_rows(data(RIGHT))
    assert right.weights.tolist() == whole.weights.tolist()


def test_the_rows_of_the_first_fix_are_those_of_the_pairs():
    made = data(coded("1\n2\n3", "1\n7\n8"), RIGHT)
    whole = list(pair_rows(made))
    cut = list(first_fix_rows(made))
    assert [row.id for row in cut] == [row.id for row in whole]
    assert sum(int((row.weights != 0).sum()) for row in whole) == 6 + 3
    assert sum(int((row.weights != 0).sum()) for row in cut) == 4 + 3
