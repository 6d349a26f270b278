"""Long work cut into numbered parts, each of which is written whole.

In: for each part several tables and its counts. Out: one folder per part, and at the end one table
from all parts. A part appears by one rename, so that work that was killed continues with the first
part that is missing.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rlmec.store.atomic import atomic_folder, atomic_write_json
from rlmec.store.fingerprint import file_digest
from rlmec.store.tables import TableError, read_arrow, schema, write_arrow, write_table


class PartFolder:
    """`count` numbered parts in `folder`, each with its tables, counts and digests.

    A part either exists whole or does not exist. Several ranks may write different parts at the
    same time. Only one rank may call `missing`, before the ranks begin to write.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.count = count

    def part(self, index: int) -> Path:
        """The folder of a part."""
        return self.folder / f"part-{index:06d}"

    def missing(self) -> list[int]:
        """The indices of the parts that do not exist yet, in order.

        Temporary folders of a killed process, and parts whose files have changed since they were
        written, are removed first. Raises TableError if there is a part with a higher index.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for entry in self.folder.iterdir():
            numbered = re.fullmatch(r"part-(\d{6})", entry.name)
            if numbered is None or self._damage(entry):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            elif int(numbered[1]) >= self.count:
                raise TableError(f"{entry} is beyond the {self.count} parts of this work")
        return [index for index in range(self.count) if not self.part(index).is_dir()]

    def made(self) -> int:
        """The number of parts that exist."""
        return sum(self.part(index).is_dir() for index in range(self.count))

    def write(
        self,
        index: int,
        tables: Mapping[str, tuple[Sequence[Any], type]],
        counts: Mapping[str, int],
    ) -> None:
        """Write a part: `tables` by name, each with its records and their type.

        A part that already exists stays. Raises IndexError if the index is outside the work.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"part {index} of {self.count}")
        with atomic_folder(self.part(index)) as folder:
            for name, (rows, record_type) in tables.items():
                write_table(folder / f"{name}.parquet", rows, record_type)
            digests = {name: file_digest(folder / f"{name}.parquet") for name in tables}
            atomic_write_json(folder / "part.json", {"counts": dict(counts), "digests": digests})

    def merge(
        self,
        name: str,
        record_type: type,
        out_path: Path,
        unique: Sequence[str] = (),
        repeats: dict[int, int] | None = None,
    ) -> int:
        """Write one table from the table `name` of every part, in the order of their indices.

        Returns the number of rows. Only one part is in memory at a time. Of rows that are equal in
        all columns of `unique` (texts and lists), the first one stays; this holds 16 bytes per row
        in memory. `repeats` is filled with the number of each row that stands for several (counted
        from 0 in the written table) and how many these are. Raises TableError that names a part if
        it is missing or damaged.
        """

        def tables() -> Iterator[pa.Table]:
            for index in range(self.count):
                if not self.part(index).is_dir():
                    raise TableError(f"{self.part(index)} is not made yet")
                if damage := self._damage(self.part(index)):
                    raise TableError(damage)
                yield read_arrow(self.part(index) / f"{name}.parquet", record_type)

        merged = without_repeats(tables, unique, repeats) if unique else tables()
        return write_arrow(out_path, merged, schema(record_type))

    def counts(self) -> dict[str, int]:
        """The counts of all finished parts, summed by name."""
        total: Counter[str] = Counter()
        for index in range(self.count):
            if self.part(index).is_dir():
                total.update(json.loads((self.part(index) / "part.json").read_text())["counts"])
        return dict(total)

    def _damage(self, part: Path) -> str:
        """What is wrong with a part; empty if it is as it was written."""
        try:
            written = json.loads((part / "part.json").read_text())
            digests = written["digests"]
            if not all(isinstance(count, int) for count in written["counts"].values()):
                return f"{part / 'part.json'} holds counts that are not numbers"
            for name, digest in digests.items():
                if file_digest(part / f"{name}.parquet") != digest:
                    return f"{part / name}.parquet is not the file that was written"
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            return f"{part} is damaged: {type(error).__name__}: {error}"
        return ""


def without_repeats(
    tables: Callable[[], Iterator[pa.Table]],
    columns: Sequence[str],
    repeats: dict[int, int] | None = None,
) -> Iterator[pa.Table]:
    """The tables without the rows whose `columns` are equal to those of an earlier row.

    `repeats` gets the number of each row that stays for several, among those that stay, and how
    many it stands for.

    `tables` is called twice: the first pass keeps only a digest of each row, so that the whole
    table is never in memory.
    """
    digests = bytearray()
    for table in tables():
        for digest in _digests(table, columns):
            digests += digest

    # Sorting puts equal digests next to each other. The sort is stable: the first row comes first.
    pairs = np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)  # [rows, 2]
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    again = np.zeros(len(pairs), dtype=bool)  # [rows]
    again[order[1:]] = (pairs[order[1:]] == pairs[order[:-1]]).all(axis=1)
    if repeats is not None:
        firsts = np.flatnonzero(~again[order])  # where a group begins in the order of digests
        sizes = np.diff(firsts, append=len(order))  # [groups]
        place = np.cumsum(~again) - 1  # [rows] the number of each row among those that stay
        some = sizes > 1
        rows = place[order[firsts[some]]]
        repeats.update(sorted(zip(rows.tolist(), sizes[some].tolist(), strict=True)))

    start = 0
    for table in tables():
        some = again[start : start + table.num_rows]
        start += table.num_rows
        yield table.filter(pa.array(~some)) if some.any() else table


def _digests(table: pa.Table, columns: Sequence[str]) -> Iterator[bytes]:
    """A digest of 16 bytes of the `columns` of each row."""
    for row in zip(*(table.column(name).to_pylist() for name in columns), strict=True):
        yield hashlib.blake2b(repr(row).encode("utf-8", "surrogatepass"), digest_size=16).digest()
