"""Tables keep every value and every column; parts are written once, whatever kills the work."""

import dataclasses
import itertools
import os
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlmec.records import (
    Alternatives,
    Attempt,
    Correction,
    Problem,
    Score,
)
from rlmec.store import atomic, tables
from rlmec.store import parts as parts_module
from rlmec.store.parts import PartFolder, without_repeats
from rlmec.store.tables import (
    TableError,
    TableRecords,
    count_rows,
    iter_columns,
    iter_table,
    read_table,
    write_records,
    write_table,
)


def attempt(i, **changes):
    base = Attempt(
        id=f"p{i}/0",
        problem_id=f"p{i}",
        prompt_ids=[1, 2, i],
        completion_ids=[5, 6],
        logprobs=[-0.5, -0.25],
        text="añ\n🙂",
        verdict="right",
        clipped=False,
        tokenizer="t",
    )
    return dataclasses.replace(base, **changes)


RECORDS = {
    Problem: [Problem("p", "q?", "4"), Problem("p2", "q?", "b", "s", "k", ("a", "b"))],
    Attempt: [
        attempt(1, label=True),
        attempt(2, label=None, logprobs=[], verdict="wrong"),
        attempt(3, label=False, clipped=True, prompt_ids=[]),
    ],
    Correction: [Correction("a", "p", [], "", "no_answer", 0.1, "no_proposal", "oracle", "t")],
    Score: [Score("a", [-0.5, -3.0], [-1.0, 0.0], "t")],
    Alternatives: [Alternatives("a", [3], [5, 6], [-0.5, -1.0], "t")],
}


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r.__name__)
def test_what_is_written_is_read(tmp_path, record):
    path = tmp_path / "table.parquet"
    write_table(path, RECORDS[record], record)
    assert read_table(path, record) == RECORDS[record]
    assert count_rows(path) == len(RECORDS[record])
    assert [p.name for p in tmp_path.iterdir()] == ["table.parquet"]


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r.__name__)
def test_records_are_read_by_number(tmp_path, record, monkeypatch):
    """Two tables with row groups of 1 to 5 rows, of which few are kept."""
    monkeypatch.setattr(tables, "BLOCK", 2)
    monkeypatch.setattr(tables, "KEPT_BLOCKS", 1)
    monkeypatch.setattr(tables, "KEPT_GROUPS", 1)
    monkeypatch.setattr(tables, "ROWS_WRITTEN", 5)
    rows = RECORDS[record] * 4
    assert write_records(tmp_path / "a", iter(rows), record) == len(rows)
    write_table(tmp_path / "none", [], record)
    write_table(tmp_path / "b", rows[:1], record)
    found = TableRecords([tmp_path / name for name in ("a", "none", "b")], record)
    wanted = [*rows, rows[0]]
    assert len(found) == len(wanted)
    assert list(found) == found[:] == wanted
    assert [found[n] for n in reversed(range(len(wanted)))] == wanted[::-1]
    assert found[-1] == rows[0]
    with pytest.raises(IndexError):
        found[len(wanted)]

    some = found.chosen([1, 2, len(wanted) - 1])
    assert list(some) == [wanted[1], wanted[2], wanted[-1]]
    assert list(some.chosen([0, 2])) == [wanted[1], wanted[-1]]
    name = dataclasses.fields(record)[0].name
    assert [value for (value,) in some.columns(name)] == [getattr(r, name) for r in some]
    assert not found.chosen([])
    with pytest.raises(ValueError, match="rise"):
        found.chosen([1, 0])


def test_records_that_are_read_by_number_name_what_they_refuse(tmp_path):
    path = tmp_path / "scores.parquet"
    write_table(path, RECORDS[Score] * 3, Score)
    bad = pq.read_table(path).to_pylist()
    bad[1]["old_logprobs"] = [0.0]
    pq.write_table(pa.Table.from_pylist(bad, schema=tables.schema(Score)), path, row_group_size=2)
    found = TableRecords([path], Score)
    assert found[2] == RECORDS[Score][0]
    with pytest.raises(TableError, match=r"scores\.parquet, row 1: "):
        found[0]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        TableRecords([tmp_path / "nowhere"], Score)


def test_lists_with_nulls_are_read_as_they_are():
    values = [[1, 2], None, [], [None, 3]]
    for some in (values, values[:1], [[], []], []):
        column = pa.chunked_array([pa.array(some, pa.list_(pa.int32()))])
        assert tables._values(column) == some
        assert tables._values(column.slice(1)) == some[1:]


def test_log_probabilities_are_float32(tmp_path):
    write_table(tmp_path / "t", [Score("a", [-0.1], [-0.3], "t")], Score)
    (score,) = read_table(tmp_path / "t", Score)
    assert score.grm_logprobs == [float(np.float32(-0.1))]


def test_an_empty_table_keeps_its_columns(tmp_path):
    path = tmp_path / "table.parquet"
    write_table(path, [], Attempt)
    assert read_table(path, Attempt) == []
    assert pq.read_schema(path) == tables.schema(Attempt)
    assert pq.read_schema(path).field("completion_ids").type == pa.list_(pa.int32())


def test_datasets_opens_a_table(tmp_path):
    import datasets

    path, none = tmp_path / "table.parquet", tmp_path / "none.parquet"
    parts = PartFolder(tmp_path / "parts", 2)
    parts.write(0, {"attempts": ([], Attempt)}, {})
    parts.write(1, {"attempts": (RECORDS[Attempt], Attempt)}, {})
    parts.merge("attempts", Attempt, path)
    data = datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))
    assert data.column_names == [f.name for f in dataclasses.fields(Attempt)]
    assert [Attempt(**row) for row in data] == RECORDS[Attempt]
    write_table(none, [], Attempt)  # `from_parquet` itself refuses every table without rows
    assert datasets.Dataset(pq.read_table(none)).features == data.features


def test_a_wrong_column_is_named_with_its_file(tmp_path):
    path = tmp_path / "scores.parquet"
    whole = {
        "attempt_id": ["a"],
        "grm_logprobs": [[0.0]],
        "old_logprobs": [[0.0]],
        "tokenizer": ["t"],
    }

    def write(columns, **types):
        fields = [types.get(n) or tables.schema(Score).field(n).type for n in columns]
        arrays = [pa.array(v, type=t) for v, t in zip(columns.values(), fields, strict=True)]
        pq.write_table(pa.table(arrays, names=list(columns)), path)

    write({k: whole[k] for k in reversed(whole)})
    assert len(read_table(path, Score)) == 1
    write({k: v for k, v in whole.items() if k != "old_logprobs"})
    with pytest.raises(TableError, match=r"scores\.parquet.*'old_logprobs'"):
        read_table(path, Score)
    write(whole | {"extra": ["x"]}, extra=pa.string())
    with pytest.raises(TableError, match=r"scores\.parquet.*'extra'"):
        read_table(path, Score)
    write(whole, grm_logprobs=pa.list_(pa.float64()))
    with pytest.raises(TableError, match=r"'grm_logprobs'.*list<element: double>"):
        read_table(path, Score)
    write(whole | {"grm_logprobs": [[0.0, 1.0]]})
    with pytest.raises(TableError, match=r"scores\.parquet, row 0: "):
        read_table(path, Score)


def test_a_torn_or_missing_file_is_named(tmp_path):
    path = tmp_path / "scores.parquet"
    with pytest.raises(FileNotFoundError, match=r"scores\.parquet"):
        read_table(path, Score)
    write_table(path, RECORDS[Score], Score)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TableError, match=r"scores\.parquet"):
        read_table(path, Score)


def test_a_changed_bit_of_a_page_is_seen(tmp_path):
    """A table that was written has checksums; of every bit in a page of it one change is tried."""
    path = tmp_path / "table.parquet"
    rows = [attempt(i, text=f"some text {i}") for i in range(20)]
    write_table(path, rows, Attempt)
    whole, page = path.read_bytes(), pq.read_metadata(path).row_group(0).column(5)
    start = page.data_page_offset
    seen = 0
    for at in range(start, start + page.total_compressed_size, 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        try:
            found = read_table(path, Attempt)
        except TableError:
            seen += 1
        else:
            assert found == rows  # a bit of the page's header that says nothing
    assert seen > 20


@pytest.mark.parametrize("kept", ['{"digests": {}}', "[]", '{"counts": {"a": "b"}, "digests": {}}'])
def test_a_part_without_its_counts_is_made_again(tmp_path, kept):
    made = PartFolder(tmp_path / "parts", 1)
    made.write(0, {"scores": (RECORDS[Score], Score)}, {"n": 1})
    (made.part(0) / "part.json").write_text(kept)
    assert made.missing() == [0]


def test_a_failed_write_leaves_the_old_table(tmp_path, monkeypatch):
    path = tmp_path / "t.parquet"
    write_table(path, [Problem("old", "q", "1")], Problem)

    def full(_):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "sync", full)
        with pytest.raises(OSError, match="no space"):
            write_table(path, [Problem("new", "q", "1")], Problem)
    assert [p.id for p in read_table(path, Problem)] == ["old"]
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]


def write_part(parts, i):
    rows = [attempt(10 * i + k) for k in range(i)]
    parts.write(i, {"attempts": (rows, Attempt)}, {"right": i, "wrong": 1})


def test_parts_in_any_order_give_the_same_bytes(tmp_path):
    merged = []
    for name, order in [("a", [0, 1, 2, 3]), ("b", [3, 1, 0, 2])]:
        parts = PartFolder(tmp_path / name, 4)
        assert parts.missing() == [0, 1, 2, 3]
        for i in order:
            write_part(parts, i)
        assert parts.missing() == []
        assert parts.counts() == {"right": 6, "wrong": 4}
        assert parts.merge("attempts", Attempt, tmp_path / f"{name}.parquet") == 6
        merged.append((tmp_path / f"{name}.parquet").read_bytes())
    assert merged[0] == merged[1]
    ids = [a.id for a in read_table(tmp_path / "a.parquet", Attempt)]
    assert ids == ["p10/0", "p20/0", "p21/0", "p30/0", "p31/0", "p32/0"]


@pytest.mark.parametrize("at", ["write_table", "atomic_write_json", "rename"])
def test_a_part_that_was_cut_off_is_missing(tmp_path, monkeypatch, at):
    parts = PartFolder(tmp_path / "parts", 2)
    write_part(parts, 0)

    class Kill(BaseException):
        pass

    def kill(*_):
        raise Kill

    with monkeypatch.context() as patch:
        patch.setattr(os if at == "rename" else parts_module, at, kill)
        with pytest.raises(Kill):
            write_part(parts, 1)
    assert [p.name for p in parts.folder.iterdir()] == ["part-000000"]
    assert parts.missing() == [1]
    with pytest.raises(TableError, match="part-000001"):
        parts.merge("attempts", Attempt, tmp_path / "out.parquet")
    assert not list(tmp_path.glob("*out*"))
    write_part(parts, 1)
    assert parts.merge("attempts", Attempt, tmp_path / "out.parquet") == 1


def test_what_a_killed_process_left_is_removed(tmp_path):
    parts = PartFolder(tmp_path / "parts", 2)
    write_part(parts, 0)
    (parts.folder / ".tmp-part-000001-17").mkdir()
    (parts.folder / ".tmp-part-000001-17" / "attempts.parquet").write_text("half")
    assert parts.missing() == [1]
    assert [p.name for p in parts.folder.iterdir()] == ["part-000000"]


def test_a_damaged_part_is_never_merged_and_made_again(tmp_path):
    parts = PartFolder(tmp_path / "parts", 2)
    write_part(parts, 0)
    write_part(parts, 1)
    write_table(parts.part(1) / "attempts.parquet", [attempt(99)], Attempt)  # whole, but another
    with pytest.raises(TableError, match=r"part-000001/attempts\.parquet"):
        parts.merge("attempts", Attempt, tmp_path / "out.parquet")
    assert parts.missing() == [1]


def test_a_part_is_written_once_and_within_the_work(tmp_path):
    parts = PartFolder(tmp_path / "parts", 2)
    write_part(parts, 1)
    parts.write(1, {"attempts": ([], Attempt)}, {"right": 50})
    assert parts.counts() == {"right": 1, "wrong": 1}
    with pytest.raises(IndexError, match="part 2 of 2"):
        write_part(parts, 2)
    with pytest.raises(TableError, match=r"part-000001.* 1 parts"):
        PartFolder(tmp_path / "parts", 1).missing()


def test_no_parts_give_an_empty_table(tmp_path):
    parts = PartFolder(tmp_path / "parts", 0)
    assert parts.missing() == []
    assert parts.merge("attempts", Attempt, tmp_path / "out.parquet") == 0
    assert read_table(tmp_path / "out.parquet", Attempt) == []


# --- tables that are not held whole ---


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r.__name__)
def test_records_come_one_at_a_time_as_they_come_at_once(record, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROWS_AT_ONCE", 2)
    path = tmp_path / "table.parquet"
    write_table(path, RECORDS[record], record)
    assert list(iter_table(path, record)) == RECORDS[record]
    names = [f.name for f in dataclasses.fields(record)][:2]
    found = list(iter_columns(path, record, names))
    assert found == [tuple(getattr(r, n) for n in names) for r in RECORDS[record]]


def test_a_refused_row_is_named_by_its_place_in_the_whole_table(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROWS_AT_ONCE", 2)
    path = tmp_path / "table.parquet"
    write_table(path, [attempt(i) for i in range(5)], Attempt)
    verdicts = pa.array(["right"] * 3 + ["odd", "right"])
    table = pq.read_table(path)
    place = table.column_names.index("verdict")
    pq.write_table(table.set_column(place, "verdict", verdicts), path)
    with pytest.raises(TableError, match="row 3: attempt 'p3/0': verdict 'odd'"):
        list(iter_table(path, Attempt))
    with pytest.raises(TableError, match="'attempt_id'"):
        next(iter_table(path, Score))


IDS = st.lists(st.integers(0, 1), min_size=1, max_size=2)
PARTS = st.lists(st.lists(st.tuples(st.sampled_from("ab"), IDS), max_size=5), max_size=4)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(PARTS)
def test_of_equal_rows_in_all_tables_the_first_stays(parts):
    rows = [(number, *row) for number, row in enumerate(r for part in parts for r in part)]
    starts = itertools.accumulate(map(len, parts), initial=0)
    cut = [rows[a:b] for a, b in itertools.pairwise(starts)]
    columns = pa.schema([("n", pa.int64()), ("p", pa.string()), ("ids", pa.list_(pa.int32()))])

    def made():
        for part in cut:
            yield pa.table([pa.array(c) for c in zip(*part, strict=True)] or [[]] * 3, columns)

    repeats = {}
    found = [t.column("n").to_pylist() for t in without_repeats(made, ["p", "ids"], repeats)]
    first = {(p, tuple(ids)): number for number, p, ids in reversed(rows)}
    assert [n for numbers in found for n in numbers] == sorted(first.values())
    assert len(found) == len(parts)
    drawn = Counter((p, tuple(ids)) for _, p, ids in rows)
    kept = [(p, tuple(ids)) for n, p, ids in rows if n in first.values()]
    assert repeats == {at: drawn[key] for at, key in enumerate(kept) if drawn[key] > 1}
