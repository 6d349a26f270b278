"""Rows are read from the file as they were written, in any order and by any process."""

import errno
import multiprocessing
import re
import tempfile

import numpy as np
import pytest
from small_rows import random_pair

from rlmec.data.prefix_tree import merge, trim
from rlmec.data.row import CREDIT, Row, rows_digest
from rlmec.data.row_file import BUFFER, RowFile, _written, most_bytes


def some_rows(count=9):
    """Flat rows and trees, a `whole` one among them, and a name beyond ASCII."""
    draw = np.random.default_rng(3)
    rows = []
    for i in range(count):
        pair = random_pair(draw, f"añ{i}", edits=i)
        rows += [trim(merge(f"tree {i}", pair)), *pair]
    ids = np.arange(4)
    none = np.zeros(2)
    return [*rows, Row("w", ids, [1, 2], [7, 8], none, none, none, tokens=9, whole=True)]


def same(one, other):
    for name in ("input_ids", "sources", "targets", *CREDIT):
        values = getattr(one, name), getattr(other, name)
        assert values[0].dtype == values[1].dtype
        assert np.array_equal(*values)
    plain = ("id", "segments", "tokens", "attempt_tokens", "whole", "longest")
    return all(getattr(one, name) == getattr(other, name) for name in plain)


def test_rows_are_read_as_they_were_written(tmp_path):
    rows = some_rows()
    filed = RowFile(rows, tmp_path)
    assert list(tmp_path.iterdir()) == []  # it has no name, so nothing is left after a kill
    assert len(filed) == len(rows)
    assert all(map(same, filed, rows))
    assert all(map(same, filed[2:5], rows[2:5]))
    assert filed[-1].id == "w"
    with pytest.raises(IndexError):
        filed[len(rows)]
    assert filed.lengths.tolist() == [len(row.input_ids) for row in rows]
    assert filed.longest.tolist() == [row.longest for row in rows]
    assert filed.tokens.tolist() == [row.tokens for row in rows]
    assert filed.digest == rows_digest(rows)


def test_chosen_rows_keep_the_given_order():
    rows = some_rows()
    numbers = [7, 0, 3, 12]
    some = RowFile(rows).chosen(numbers)  # the file outlives the sequence that wrote it
    wanted = [rows[n] for n in numbers]
    assert all(map(same, some, wanted))
    assert some.digest == rows_digest(wanted)
    assert same(some.chosen([2, 1])[0], rows[3])
    assert some.lengths.tolist() == [len(row.input_ids) for row in wanted]
    assert len(some.chosen([])) == 0


def test_a_row_takes_no_more_bytes_than_the_disk_plan_counts():
    """4 per id, 20 per scored token, and the rest in 256."""
    rows = some_rows(60)
    for row in rows:
        assert len(_written(row)) <= most_bytes(len(row.input_ids), len(row.sources))
    long = Row.likelihood("x" * 190, np.arange(900), 300)
    assert 4 * 900 + 20 * 600 < len(_written(long)) <= most_bytes(900, 600) == 15_856


def test_a_full_disk_is_named_with_the_bytes(tmp_path, monkeypatch):
    """Nothing is written again when the file is closed, which would be a second error."""

    def full(**_):
        return open("/dev/full", "wb", buffering=0)

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    row = Row.likelihood("a", np.arange(100_000), 1)
    size = len(_written(row))
    folder = tmp_path / "work" / "rows"
    with pytest.raises(OSError, match=re.escape(str(folder))) as caught:
        RowFile((row for _ in range(9)), folder)
    assert caught.value.errno == errno.ENOSPC
    assert re.search(rf"\b0 bytes.*\b{size:,} are not", str(caught.value))
    assert size > BUFFER

    few = RowFile(some_rows(), folder)  # its rows wait to be written
    with pytest.raises(OSError, match="No space"):
        few[0]


def names_of(rows):
    assert [row.id for row in rows] == [row.id for row in some_rows()]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_the_rows(method):
    child = multiprocessing.get_context(method).Process(
        target=names_of, args=[RowFile(some_rows())]
    )
    child.start()
    child.join()
    assert child.exitcode == 0
