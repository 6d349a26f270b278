"""Edit scripts of all accepted corrections, from table to table: python -m benchmarks.edits A C OUT

In: a table of attempts and a table of their corrections, in the same order. Out: a Parquet file
with one row per accepted correction: which tokens of the attempt are removed, and which tokens of
the correction are new. `SolutionPairDataModule` computes the same for every pair; this program does
it without holding the pairs in memory.
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
    """Positions of the tokens that a minimal script removes from the attempt, and of the tokens
    that it adds to the correction."""

    attempt_id: str
    removed: list[int]
    edited: list[int]


def edits(attempts: Iterator[Attempt], corrections: Iterator[Correction]) -> Iterator[Edits]:
    """Yield one edit script per accepted correction.

    Raises ValueError if the attempt of a correction is missing or out of order.
    """
    for correction in corrections:
        attempt = next((a for a in attempts if a.id == correction.attempt_id), None)
        if attempt is None:
            raise ValueError(
                f"attempt {correction.attempt_id!r} is missing or out of order: both tables must "
                f"be of the same run"
            )
        if correction.accepted:
            script = edit_script(attempt.completion_ids, correction.completion_ids)
            places = [mask.nonzero()[0].tolist() for mask in (script.removed, script.edited)]
            yield Edits(attempt.id, *places)


def write(attempts: Path, corrections: Path, out: Path) -> int:
    """Write the edit scripts of two tables and return their number."""
    found = edits(iter_table(attempts, Attempt), iter_table(corrections, Correction))
    rows = 0
    columns = schema(Edits)
    with pq.ParquetWriter(out, columns, compression="zstd") as writer:
        while some := [vars(made) for made in islice(found, ROWS)]:
            writer.write_table(pa.Table.from_pylist(some, schema=columns))
            rows += len(some)
    return rows


if __name__ == "__main__":
    print(write(*map(Path, sys.argv[1:4])))
