"""Tables of records as Parquet files, and long work cut into parts that are each written whole.

In: lists of records (`records.py`) or, for a part, several tables and its counts. Out: files whose
columns have the record's own Arrow types, also when there is no row, and that `datasets` opens;
records again on reading. A part is a folder that appears by one rename, so work that was killed
goes on at the first missing part.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rlmec import records
from rlmec.artifacts import atomic_write_json, file_digest, sync

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


class PartFolder:
    """`count` numbered parts in `folder`, each with its tables, counts and digests.

    A part is there or it is not: it is written under a temporary name and renamed when it is on
    disk. Several ranks may write different parts at once; `missing` is for one rank, before they
    do.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count

    def part(self, index: int) -> Path:
        return self.folder / f"part-{index:06d}"

    def missing(self) -> list[int]:
        """Indices still to be made, in order. Left-over temporary parts, and parts whose files are
        not those that were written, are swept away first."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for entry in self.folder.iterdir():
            numbered = re.fullmatch(r"part-(\d{6})", entry.name)
            if numbered is None or self._damage(entry):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            elif int(numbered[1]) >= self.count:
                raise TableError(f"{entry} is beyond the {self.count} parts of this work")
        return [index for index in range(self.count) if not self.part(index).is_dir()]

    def made(self) -> int:
        """How many parts are there."""
        return sum(self.part(index).is_dir() for index in range(self.count))

    def write(
        self,
        index: int,
        tables: Mapping[str, tuple[Sequence[Any], type]],
        counts: Mapping[str, int],
    ) -> None:
        """Writes a part whole: `tables` by name, each with its records and their type. A part that
        is already there stays; an index outside the work is an IndexError."""
        if not 0 <= index < self.count:
            raise IndexError(f"part {index} of {self.count}")
        temporary = self.folder / f".tmp-{index:06d}-{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name, (rows, record_type) in tables.items():
            write_table(temporary / f"{name}.parquet", rows, record_type)
        digests = {name: file_digest(temporary / f"{name}.parquet") for name in tables}
        atomic_write_json(temporary / "part.json", {"counts": dict(counts), "digests": digests})
        if self.part(index).is_dir():
            shutil.rmtree(temporary)
            return
        os.rename(temporary, self.part(index))
        sync(self.folder)

    def merge(
        self, name: str, record_type: type, out_path: Path, unique: Sequence[str] = ()
    ) -> int:
        """One table from table `name` of every part in the order of their indices, holding one part
        in memory at a time; returns its rows. Of rows that are equal in all of the columns `unique`
        (texts and lists) the first one stays; for these 16 bytes a row are held. A missing or
        damaged part is a TableError naming it."""

        def tables() -> Iterator[pa.Table]:
            for index in range(self.count):
                if not self.part(index).is_dir():
                    raise TableError(f"{self.part(index)} is not made yet")
                if damage := self._damage(self.part(index)):
                    raise TableError(damage)
                yield _read_arrow(self.part(index) / f"{name}.parquet", record_type)

        found = tables() if not unique else _without_repeats(tables, unique)
        return _write_whole(out_path, found, schema(record_type))

    def counts(self) -> dict[str, int]:
        """The counts of all finished parts, added up by name."""
        total: Counter[str] = Counter()
        for index in range(self.count):
            if self.part(index).is_dir():
                total.update(json.loads((self.part(index) / "part.json").read_text())["counts"])
        return dict(total)

    def _damage(self, part: Path) -> str:
        try:
            written = json.loads((part / "part.json").read_text())
            digests = written["digests"]
            if not all(isinstance(count, int) for count in written["counts"].values()):
                return f"{part / 'part.json'} holds counts that are no numbers"
            for name, digest in digests.items():
                if file_digest(part / f"{name}.parquet") != digest:
                    return f"{part / name}.parquet is not the file that was written"
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            return f"{part} is damaged: {type(error).__name__}: {error}"
        return ""


def _without_repeats(
    tables: Callable[[], Iterator[pa.Table]], columns: Sequence[str]
) -> Iterator[pa.Table]:
    """The tables, gone through twice, without the rows whose `columns` stood in an earlier row."""
    digests = bytearray()
    for table in tables():
        for digest in _digests(table, columns):
            digests += digest
    pairs = np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)  # [rows, 2]
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))  # stable: of equal ones the first row leads
    repeats = np.zeros(len(pairs), dtype=bool)  # [rows]
    repeats[order[1:]] = (pairs[order[1:]] == pairs[order[:-1]]).all(axis=1)
    start = 0
    for table in tables():
        some = repeats[start : start + table.num_rows]
        start += table.num_rows
        yield table.filter(pa.array(~some)) if some.any() else table


def _digests(table: pa.Table, columns: Sequence[str]) -> Iterator[bytes]:
    """16 bytes that stand for the `columns` of each row."""
    for row in zip(*(table.column(name).to_pylist() for name in columns), strict=True):
        yield hashlib.blake2b(repr(row).encode("utf-8", "surrogatepass"), digest_size=16).digest()
