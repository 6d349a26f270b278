"""A sequence on demand: read as a list would be, and made again each time."""

import pytest

from rlmec.on_demand import Made


def test_items_are_those_of_a_list_and_are_not_kept():
    asked = []
    made = Made(5, lambda number: asked.append(number) or number * number)
    assert len(made) == 5
    assert list(made) == [0, 1, 4, 9, 16]
    assert (made[-1], made[1:4], made[::-2]) == (16, [1, 4, 9], [16, 4, 0])
    assert asked == [0, 1, 2, 3, 4, 4, 1, 2, 3, 4, 2, 0]
    for outside in (5, -6):
        with pytest.raises(IndexError):
            made[outside]
