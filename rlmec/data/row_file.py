"""Training rows in a temporary file, for data whose rows do not fit into memory.

In: rows, one after the other. Out: a sequence that reads a row when it is asked for. In memory are
20 bytes per row: where it is in the file, and the numbers that a step plan needs.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

import numpy as np

from rlmec.data.row import CREDIT, Row, Segment, integers_digest
from rlmec.on_demand import OnDemand

BUFFER = 1 << 20
"""Bytes that are collected before they are written."""

ROW_BYTES = 256
"""Most bytes of a written row besides its ids and scored tokens: sizes, counts, a tree of up to
three segments, and a name of up to 190 bytes."""


def most_bytes(ids: int, scored: int) -> int:
    """The most bytes that a row with so many ids and scored tokens takes in the file."""
    return ROW_BYTES + 4 * ids + 20 * scored


class RowFile(OnDemand[Row]):
    """Rows in a file without a name, which vanishes with the last `RowFile` that reads it.

    It lies in `folder`, which is made if it is missing; by default in the system's place for
    temporary files. Processes that are forked or spawned may read rows. Raises OSError that names
    the folder and the bytes if a row cannot be written, as on a disk that is full.
    """

    def __init__(self, rows: Iterable[Row] = (), folder: Path | None = None) -> None:
        self._bytes = _ByteStrings(folder)
        self._lengths = array("i")  # ids of each row
        self._longest = array("i")  # tokens of the longest sequence of each row
        self._tokens = array("i")  # what each row counts for in a step
        self._only: np.ndarray | None = None  # the chosen rows, by their numbers in the file
        for row in rows:
            self.append(row)

    def append(self, row: Row) -> None:
        """Writes a row behind the others."""
        self._lengths.append(len(row.input_ids))
        self._longest.append(row.longest)
        self._tokens.append(row.tokens)
        self._bytes.append(_written(row))

    def chosen(self, numbers: Sequence[int] | np.ndarray) -> RowFile:
        """Some of these rows in the given order, read from the same file."""
        some = object.__new__(RowFile)
        vars(some).update(vars(self))
        some._only = self._of_all(np.arange(len(self._bytes)))[np.asarray(numbers, dtype=np.int32)]
        return some

    @property
    def lengths(self) -> np.ndarray:
        """Number of ids of each row, [rows]."""
        return self._of_all(np.asarray(self._lengths))

    @property
    def longest(self) -> np.ndarray:
        """Number of tokens of the longest sequence of each row, [rows]."""
        return self._of_all(np.asarray(self._longest))

    @property
    def tokens(self) -> np.ndarray:
        """What each row counts for when rows are cut into steps, [rows]."""
        return self._of_all(np.asarray(self._tokens))

    @property
    def digest(self) -> str:
        """`row.rows_digest` of these rows."""
        return integers_digest(self._integers())

    def __len__(self) -> int:
        return len(self._bytes) if self._only is None else len(self._only)

    def item(self, number: int) -> Row:
        return _row(self._bytes[number if self._only is None else int(self._only[number])])

    def _integers(self) -> Iterator[np.ndarray]:
        """`row.row_integers` of each row."""
        for number in range(len(self._bytes)) if self._only is None else self._only.tolist():
            written = self._bytes[number]
            yield np.frombuffer(written, np.int32, _integers_of(written)).astype(np.int64)

    def _of_all(self, values: np.ndarray) -> np.ndarray:
        return values if self._only is None else values[self._only]


def _written(row: Row) -> bytes:
    """A row as bytes: int32 numbers (sizes, ids, scored tokens, segments, counts), float32 credit,
    and its name."""
    sizes = len(row.input_ids), len(row.sources), len(row.segments)
    counts = row.tokens, row.attempt_tokens, row.whole
    arrays = [vars(row)[name].astype(np.int32) for name in ("input_ids", "sources", "targets")]
    tree = array("i", [number for segment in row.segments for number in segment])
    credit = [vars(row)[name] for name in CREDIT]
    return b"".join(
        [array("i", sizes), *arrays, tree, array("i", counts), *credit, row.id.encode()]
    )


def _row(written: bytes) -> Row:
    """The row that was written."""
    ids, scored, segments = np.frombuffer(written, np.int32, 3).tolist()
    numbers = np.frombuffer(written, np.int32, _integers_of(written) + 3).astype(np.int64)
    cuts = np.cumsum([3, ids, scored, scored, 3 * segments]).tolist()
    _, input_ids, sources, targets, tree, (tokens, attempt_tokens, whole) = np.split(numbers, cuts)
    credit = np.frombuffer(written, np.float32, 3 * scored, 4 * len(numbers)).reshape(3, -1).copy()
    return Row.derived(
        id=written[4 * (len(numbers) + 3 * scored) :].decode(),
        input_ids=input_ids,
        sources=sources,
        targets=targets,
        segments=tuple(Segment(*segment) for segment in tree.reshape(-1, 3).tolist()),
        tokens=int(tokens),
        attempt_tokens=int(attempt_tokens),
        whole=bool(whole),
        **dict(zip(CREDIT, credit, strict=True)),
    )


def _integers_of(written: bytes) -> int:
    """How many numbers `row.row_integers` has for a written row."""
    ids, scored, segments = np.frombuffer(written, np.int32, 3).tolist()
    return 3 + ids + 2 * scored + 3 * segments


class _ByteStrings:
    """Strings of bytes in a file without a name, with 8 bytes of memory for each."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder or Path(tempfile.gettempdir())
        self._ends = array("q", [0])
        self._waiting = bytearray()  # what is not written yet
        self._folder.mkdir(parents=True, exist_ok=True)
        # Python's own buffer would try again to write when it is closed on a full disk.
        self._hold(tempfile.TemporaryFile(buffering=0, dir=self._folder))  # noqa: SIM115

    def _hold(self, file: Any) -> None:
        self._file = file
        weakref.finalize(self, file.close)

    def append(self, value: bytes) -> None:
        self._waiting += value
        self._ends.append(self._ends[-1] + len(value))
        if len(self._waiting) >= BUFFER:
            self._write()

    def _write(self) -> None:
        """Writes what waits."""
        with self._named_errors():
            while self._waiting:
                del self._waiting[: self._file.write(self._waiting)]

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Adds the folder and the number of bytes to an error of the operating system."""
        try:
            yield
        except OSError as error:
            written = self._ends[-1] - len(self._waiting)
            raise OSError(
                error.errno,
                f"{error.strerror}: {written:,} bytes of training rows are written, and the next "
                f"{len(self._waiting):,} are not; make room, or name another paths.artifacts",
                str(self._folder),
            ) from error

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, at: int) -> bytes:
        if self._waiting:
            self._write()
        start = self._ends[at]
        # Processes that were forked share the position of the file, so none may depend on it.
        return os.pread(self._file.fileno(), self._ends[at + 1] - start, start)

    def __getstate__(self) -> dict[str, Any]:
        self._write()
        return {"folder": self._folder, "ends": self._ends, "file": DupFd(self._file.fileno())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._folder = state["folder"]
        self._ends = state["ends"]
        self._waiting = bytearray()
        self._hold(os.fdopen(state["file"].detach(), "rb"))
