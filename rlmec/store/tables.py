"""Tables of records as Parquet files, and long work cut into parts that are each written whole.

In: lists of records (`records.py`) or, for a part, several tables and its counts. Out: files whose
columns have the record's own Arrow types, also when there is no row, and that `datasets` opens;
records again on reading. A part is a folder that appears by one rename, so work that was killed
goes on at the first missing part.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from rlmec import records
from rlmec.store.atomic import sync

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
    """Writes records to a Parquet file that is never seen half written; without rows the columns
    remain."""
    wanted = schema(record_type)
    arrays = [pa.array([getattr(r, f.name) for r in rows], type=f.type) for f in wanted]
    _write_whole(path, [pa.table(arrays, schema=wanted)], wanted)


def _write_whole(path: Path, tables: Any, wanted: pa.Schema) -> int:
    temporary, rows = path.with_name(f".{path.name}.{os.getpid()}.tmp"), 0
    try:
        with pq.ParquetWriter(
            temporary, wanted, compression="zstd", write_page_checksum=True
        ) as writer:
            for table in tables:
                if table.num_rows:  # an empty row group is one that `datasets` cannot open
                    writer.write_table(table)
                    rows += table.num_rows
        sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)
    return rows


def read_table(path: Path, record_type: type[R]) -> list[R]:
    """The records of a file, None for nulls. A damaged file, a column too many, too few or of
    another type is a TableError naming file and column; a row that the record refuses one naming
    file and row."""
    with _opened(path, record_type) as file:
        rows = file.read().to_pylist()
    return [_record(record_type, row, path, number) for number, row in enumerate(rows)]


def iter_table(path: Path, record_type: type[R]) -> Iterator[R]:
    """The records of a file as `read_table` gives them, a thousand in memory at a time."""
    with _opened(path, record_type) as file:
        numbers = count()
        for batch in file.iter_batches(ROWS_AT_ONCE):
            for row in batch.to_pylist():
                yield _record(record_type, row, path, next(numbers))


def iter_columns(path: Path, record_type: type, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Some columns of a table of `record_type`, row by row."""
    with _opened(path, record_type) as file:
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=list(names)):
            yield from zip(*(batch.column(name).to_pylist() for name in names), strict=True)


def _record(record_type: type[R], row: dict[str, Any], path: Path, number: int) -> R:
    try:
        return record_type(**row)
    except (ValueError, TypeError) as error:  # TypeError: a null where there is none
        raise TableError(f"{path}, row {number}: {error}") from error


def _read_arrow(path: Path, record_type: type) -> pa.Table:
    with _opened(path, record_type) as file:
        return file.read().select(schema(record_type).names)


@contextlib.contextmanager
def _opened(path: Path, record_type: type) -> Iterator[pq.ParquetFile]:
    """A Parquet file with the columns of `record_type`; what is not right is a TableError."""
    if not path.is_file():
        raise FileNotFoundError(f"no table {path}")
    try:
        found, wanted = pq.read_schema(path), schema(record_type)
        for name in [*wanted.names, *found.names]:
            if name not in found.names:
                raise TableError(f"{path} has no column {name!r} of {record_type.__name__}")
            if name not in wanted.names:
                raise TableError(f"{path}: column {name!r} is not one of {record_type.__name__}")
            if (kind := wanted.field(name).type) != (other := found.field(name).type):
                raise TableError(f"{path}: column {name!r} is {other}, not {kind}")
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except UnicodeDecodeError as error:
        raise TableError(f"{path} holds a text that is not UTF-8: {error.reason}") from error
    except _DAMAGED as error:
        raise TableError(f"{path} is not a whole Parquet file: {error}") from error


def count_rows(path: Path) -> int:
    """The number of rows of a file, without reading them; TableError for a damaged one."""
    if not path.is_file():
        raise FileNotFoundError(f"no table {path}")
    try:
        return pq.read_metadata(path).num_rows
    except (*_DAMAGED, UnicodeDecodeError) as error:
        raise TableError(f"{path} is not a whole Parquet file: {error}") from error
