"""Long work cut into parts that are each written whole."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rlmec.store.atomic import atomic_write_json, sync
from rlmec.store.fingerprint import file_digest
from rlmec.store.tables import TableError, _read_arrow, _write_whole, schema, write_table


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
