"""Tables of records as Parquet files.

In: lists of records (`records.py`). Out: files whose columns have the Arrow types of the record's
fields, also without any rows, and that `datasets` opens. On reading: records again. Every reader
names the file, and the column or row, that it refuses.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from rlmec import records
from rlmec.store.atomic import atomic_file

R = TypeVar("R")
ROWS_AT_ONCE = 1024
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
    columns = schema(record_type)
    arrays = [pa.array([getattr(r, f.name) for r in rows], type=f.type) for f in columns]
    write_arrow(path, [pa.table(arrays, schema=columns)], columns)


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
        rows = file.read().to_pylist()
    return [_record(record_type, row, path, number) for number, row in enumerate(rows)]


def read_arrow(path: Path, record_type: type) -> pa.Table:
    """The columns of a file as an Arrow table, in the order of the record's fields."""
    with _opened(path, record_type) as file:
        return file.read().select(schema(record_type).names)


def iter_table(path: Path, record_type: type[R]) -> Iterator[R]:
    """The records of a file as `read_table` gives them, with about a thousand in memory."""
    with _opened(path, record_type) as file:
        numbers = count()
        for batch in file.iter_batches(ROWS_AT_ONCE):
            for row in batch.to_pylist():
                yield _record(record_type, row, path, next(numbers))


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


def _record(record_type: type[R], row: dict[str, Any], path: Path, number: int) -> R:
    try:
        return record_type(**row)
    except (ValueError, TypeError) as error:  # TypeError: a null in a field that has none
        raise TableError(f"{path}, row {number}: {error}") from error


@contextlib.contextmanager
def _opened(path: Path, record_type: type) -> Iterator[pq.ParquetFile]:
    """An open Parquet file that has exactly the columns of `record_type`, in any order."""
    if not path.is_file():
        raise FileNotFoundError(f"no table {path}")
    try:
        _check_columns(path, record_type)
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
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
