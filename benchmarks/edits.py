"""Edit scripts of all accepted corrections, from table to table: python -m benchmarks.edits A C OUT

In: a table of attempts and one of their corrections, in the same order. Out: a Parquet file with a
row an accepted correction: which tokens of the attempt go, which of the correction are new. It is
what `SolutionPairDataModule` computes of every pair, without holding any.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rlmec.method.alignment import edit_script
from rlmec.records import Attempt, Correction
from rlmec.store.tables import iter_table, schema

ROWS = 4096


@dataclass(frozen=True)
class Edits:
    """Places of the tokens that a minimal script removes from the attempt, and of those of the
    correction that it puts in."""

    attempt_id: str
    removed: list[int]
    edited: list[int]


def edits(attempts: Iterator[Attempt], corrections: Iterator[Correction]) -> Iterator[Edits]:
    """One for each accepted correction; ValueError where its attempt does not come in its turn."""
    for correction in corrections:
        attempt = next((a for a in attempts if a.id == correction.attempt_id), None)
        if attempt is None:
            raise ValueError(f"attempt {correction.attempt_id!r} is not there, or before its turn")
        if correction.accepted:
            script = edit_script(attempt.completion_ids, correction.completion_ids)
            places = [mask.nonzero()[0].tolist() for mask in (script.removed, script.edited)]
            yield Edits(attempt.id, *places)


def write(attempts: Path, corrections: Path, out: Path) -> int:
    """Writes the scripts of two tables; returns their number."""
    found = edits(iter_table(attempts, Attempt), iter_table(corrections, Correction))
    rows, columns = 0, schema(Edits)
    with pq.ParquetWriter(out, columns, compression="zstd") as writer:
        while some := [vars(made) for made in islice(found, ROWS)]:
            writer.write_table(pa.Table.from_pylist(some, schema=columns))
            rows += len(some)
    return rows


if __name__ == "__main__":
    print(write(*map(Path, sys.argv[1:4])))
