"""Tables of records as Parquet files.

In: lists of records (`records.py`). Out: files whose columns have the Arrow types of the record's
fields, also without any rows, and that `datasets` opens. On reading: records again, all at once,
one after the other, or by their numbers (`TableRecords`). Every reader names the file, and the
column or row, that it refuses.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, compress, islice, pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rlmec import records
from rlmec.on_demand import OnDemand
from rlmec.store.atomic import atomic_file

R = TypeVar("R")
ROWS_AT_ONCE = 1024
ROWS_WRITTEN = 4096
"""Records of one row group of a table that is written from a stream."""
BLOCK = 128
"""Rows of a row group that `TableRecords` turns into records at once."""
KEPT_BLOCKS = 16
KEPT_GROUPS = 4
"""Blocks of records, and row groups in Arrow's form, that `TableRecords` keeps."""
_TYPES = {
    "string": pa.string(),
    "bool": pa.bool_(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "list<int32>": pa.list_(pa.int32()),
    "list<float32>": pa.list_(pa.float32()),
    "list<string>": pa.list_(pa.string()),
}
_DAMAGED = (pa.ArrowException, OSError)


class TableError(ValueError):
    """A table that does not hold what it should; the message names the file."""


def schema(record_type: type) -> pa.Schema:
    """The Arrow schema of a table of `record_type`, in the order of its fields."""
    return pa.schema([(name, _TYPES[kind]) for name, kind in records.columns(record_type).items()])


def write_table(path: Path, rows: Sequence[Any], record_type: type) -> None:
    """Write records to a Parquet file through `atomic_file`.

    A table without rows keeps its columns.
    """
    write_arrow(path, [_arrow(rows, record_type)], schema(record_type))


def write_records(path: Path, records: Iterable[Any], record_type: type) -> int:
    """`write_table` of a stream of records, a few thousand at a time; returns their number."""
    source = iter(records)
    groups = iter(lambda: list(islice(source, ROWS_WRITTEN)), [])
    tables = (_arrow(some, record_type) for some in groups)
    return write_arrow(path, tables, schema(record_type))


def _arrow(rows: Sequence[Any], record_type: type) -> pa.Table:
    columns = schema(record_type)
    arrays = [pa.array([getattr(r, f.name) for r in rows], type=f.type) for f in columns]
    return pa.table(arrays, schema=columns)


def write_arrow(path: Path, tables: Iterable[pa.Table], columns: pa.Schema) -> int:
    """Write Arrow tables one after the other to one Parquet file; returns the number of rows."""
    rows = 0
    with (
        atomic_file(path) as temporary,
        pq.ParquetWriter(
            temporary, columns, compression="zstd", write_page_checksum=True
        ) as writer,
    ):
        for table in tables:
            if table.num_rows:  # `datasets` cannot open a file with an empty row group
                writer.write_table(table)
                rows += table.num_rows
    return rows


def read_table(path: Path, record_type: type[R]) -> list[R]:
    """The records of a file; nulls are None.

    Raises TableError that names the file and the column if the file is damaged, if a column is
    missing or unknown, or if it has another type; and one that names the file and the row if the
    record type refuses a row.
    """
    with _opened(path, record_type) as file:
        return _records(file.read(), record_type, path, 0)


def read_arrow(path: Path, record_type: type) -> pa.Table:
    """The columns of a file as an Arrow table, in the order of the record's fields."""
    with _opened(path, record_type) as file:
        return file.read().select(schema(record_type).names)


def iter_table(path: Path, record_type: type[R]) -> Iterator[R]:
    """The records of a file as `read_table` gives them, with about a thousand in memory."""
    with _opened(path, record_type) as file:
        first = 0
        for batch in file.iter_batches(ROWS_AT_ONCE):
            yield from _records(pa.Table.from_batches([batch]), record_type, path, first)
            first += batch.num_rows


def iter_columns(path: Path, record_type: type, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Some columns of a table of `record_type`, one tuple per row."""
    with _opened(path, record_type) as file:
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=list(names)):
            yield from zip(*(batch.column(name).to_pylist() for name in names), strict=True)


def count_rows(path: Path) -> int:
    """The number of rows of a file, without reading them. Raises TableError if it is damaged."""
    if not path.is_file():
        raise FileNotFoundError(f"no table {path}")
    try:
        return pq.read_metadata(path).num_rows
    except (*_DAMAGED, UnicodeDecodeError) as error:
        raise TableError(f"{path} is not a whole Parquet file: {error}") from error


class TableRecords(OnDemand[R]):
    """The records of one or several tables, read from the files when they are asked for.

    The records of several tables follow one another. `only` chooses some of them by their numbers,
    which must rise. Only the row groups and records that were read last are in memory: asking for
    records in an order far from that of the tables takes milliseconds per record. Raises TableError
    as `read_table` does, for the content of a row when it is read.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        record_type: type[R],
        only: Sequence[int] | np.ndarray | None = None,
    ) -> None:
        self.paths = list(paths)
        self.record_type = record_type
        self._groups: list[tuple[Path, int, int]] = []  # path, number of the group, its first row
        self._starts = [0]  # the first record of each row group, and the number of all
        for path in self.paths:
            first = 0
            for group, rows in enumerate(_group_sizes(path, record_type)):
                self._groups.append((path, group, first))
                self._starts.append(self._starts[-1] + rows)
                first += rows

        self._only = None if only is None else np.asarray(only, dtype=np.int64)  # [records]
        if self._only is not None and (np.diff(self._only) <= 0).any():
            raise ValueError("the numbers of the chosen records must rise")
        self._files: dict[Path, pq.ParquetFile] = {}
        self._read_groups: OrderedDict[int, pa.Table] = OrderedDict()
        self._read_blocks: OrderedDict[tuple[int, int], list[R]] = OrderedDict()

    def chosen(self, only: Sequence[int] | np.ndarray) -> TableRecords[R]:
        """Some of these records, by their rising numbers among them."""
        numbers = np.asarray(only, dtype=np.int64)  # [chosen]
        if self._only is not None:
            numbers = self._only[numbers]
        return TableRecords(self.paths, self.record_type, numbers)

    def columns(self, *names: str) -> Iterator[tuple[Any, ...]]:
        """Some fields of every record, one tuple per record, without reading the others."""
        rows = chain.from_iterable(
            iter_columns(path, self.record_type, names) for path in self.paths
        )
        if self._only is None:
            return rows
        wanted = np.zeros(self._starts[-1], dtype=bool)  # [records of the tables]
        wanted[self._only] = True
        return compress(rows, wanted)

    def __len__(self) -> int:
        return self._starts[-1] if self._only is None else len(self._only)

    def item(self, number: int) -> R:
        if self._only is not None:
            number = int(self._only[number])
        group = bisect_right(self._starts, number) - 1
        block, place = divmod(number - self._starts[group], BLOCK)
        return self._block(group, block)[place]

    def _block(self, group: int, block: int) -> list[R]:
        def read() -> list[R]:
            path, _, first = self._groups[group]
            rows = _recent(self._read_groups, group, KEPT_GROUPS, lambda: self._group(group))
            some = rows.slice(block * BLOCK, BLOCK)
            return _records(some, self.record_type, path, first + block * BLOCK)

        return _recent(self._read_blocks, (group, block), KEPT_BLOCKS, read)

    def _group(self, group: int) -> pa.Table:
        path, number, _ = self._groups[group]
        with _named_damage(path):
            if path not in self._files:
                self._files[path] = pq.ParquetFile(path, page_checksum_verification=True)
            return self._files[path].read_row_group(number).combine_chunks()


def _recent(kept: OrderedDict[Any, Any], key: Any, most: int, make: Callable[[], Any]) -> Any:
    """The value of a key, made if it is not among the `most` that were asked for last."""
    if key not in kept:
        kept[key] = make()
        if len(kept) > most:
            kept.popitem(last=False)
    kept.move_to_end(key)
    return kept[key]


def _group_sizes(path: Path, record_type: type) -> list[int]:
    """The numbers of rows of a file's row groups."""
    with _opened(path, record_type) as file:
        found = file.metadata
        return [found.row_group(group).num_rows for group in range(found.num_row_groups)]


def _records(rows: pa.Table, record_type: type[R], path: Path, first: int) -> list[R]:
    """The rows of a table as records; `first` is the number of the first one in its file."""
    columns = [_values(rows.column(name)) for name in schema(record_type).names]
    made: list[R] = []
    for row in zip(*columns, strict=True):
        try:
            made.append(record_type(*row))
        except (ValueError, TypeError) as error:  # TypeError: a null in a field that has none
            raise TableError(f"{path}, row {first + len(made)}: {error}") from error
    return made


def _values(column: pa.ChunkedArray) -> list[Any]:
    """The values of a column as `to_pylist` gives them.

    Arrow makes an object of every number in a list. Cutting the lists from one list of all numbers
    takes a tenth of the time.
    """
    array = column.combine_chunks()
    if not pa.types.is_list(array.type) or array.null_count or not len(array):
        return array.to_pylist()
    offsets = array.offsets.to_numpy()  # [rows + 1]
    numbers = array.values.slice(offsets[0], offsets[-1] - offsets[0])
    if numbers.null_count or not pa.types.is_primitive(numbers.type):
        return array.to_pylist()
    flat = numbers.to_numpy().tolist()
    return [flat[start:stop] for start, stop in pairwise((offsets - offsets[0]).tolist())]


@contextlib.contextmanager
def _opened(path: Path, record_type: type) -> Iterator[pq.ParquetFile]:
    """An open Parquet file that has exactly the columns of `record_type`, in any order."""
    if not path.is_file():
        raise FileNotFoundError(f"no table {path}")
    with _named_damage(path):
        _check_columns(path, record_type)
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file


@contextlib.contextmanager
def _named_damage(path: Path) -> Iterator[None]:
    """Turns what a damaged file raises into a TableError that names it."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise TableError(f"{path} holds a text that is not UTF-8: {error.reason}") from error
    except _DAMAGED as error:
        raise TableError(f"{path} is not a whole Parquet file: {error}") from error


def _check_columns(path: Path, record_type: type) -> None:
    found = pq.read_schema(path)
    wanted = schema(record_type)
    for name in [*wanted.names, *found.names]:
        if name not in found.names:
            raise TableError(f"{path} has no column {name!r} of {record_type.__name__}")
        if name not in wanted.names:
            raise TableError(f"{path}: column {name!r} is not one of {record_type.__name__}")
        wanted_type = wanted.field(name).type
        found_type = found.field(name).type
        if found_type != wanted_type:
            raise TableError(f"{path}: column {name!r} is {found_type}, not {wanted_type}")
