"""Peers timed in rotation: A B C, A B C, ... so that a busy machine meets all of them alike.

In: a job and its peers. Out: one `Row` per peer, with the CPU and wall seconds of every run. CPU
seconds are those of all threads of this process. With one thread they are comparable as ratios
even while other programs use the machine.
"""

from __future__ import annotations

import functools
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from benchmarks.measurement import wait
from benchmarks.peers.base import Peer, Work

RUN = "run"
FAILED = "failed: "


class Job(Protocol):
    """The same work for all peers of a table: `training`, `sampling` or `rewriting`."""

    kind: str
    case: str
    network: Any
    device: torch.device

    def timed(self, work: Work) -> Any:
        """Do a peer's work once, with what belongs to it for every peer, and return its result."""
        ...

    def useful(self, peer: Peer, result: Any) -> int:
        """Return the useful tokens of one run."""
        ...

    def reference(self, work: Work) -> Any:
        """Do the work once and return the result in the form that `error` compares with."""
        ...

    def error(self, work: Work, reference: Any) -> tuple[float | None, float | None]:
        """Do the work once and return its difference to the reference, and the limit.

        The difference is None if there is nothing to compare, the limit if there is none.
        """
        ...


@dataclass
class Row:
    """One peer's figures. `state` is RUN, "not installed: PACKAGE", or FAILED with the error.

    `calls` counts the forward passes of the layers in one run, `layers` their columns (rows times
    padded tokens); None where the peer has layers of its own.
    """

    peer: Peer
    state: str = RUN
    layers: int | None = None
    calls: int | None = None
    head: int | None = None
    tokens: list[int] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    error: float | None = None
    error_limit: float | None = None

    @property
    def is_equal(self) -> bool:
        """Whether the result is that of the peer it must equal; NaN is not."""
        if self.error is None or self.error_limit is None:
            return True
        return self.error <= self.error_limit

    def rates(self, clock: str) -> list[float]:
        """Return useful tokens per second of each run; `clock` is "cpu" or "wall"."""
        seconds = getattr(self, clock)
        return [n / max(s, 1e-9) for n, s in zip(self.tokens, seconds, strict=True)]

    def ratios(self, ours: Row, per_token: bool) -> list[float]:
        """Return CPU time over ours in the same round: of a run, or of a useful token."""
        rounds = zip(self.cpu, ours.cpu, self.tokens, ours.tokens, strict=True)
        return [
            (mine / max(n, 1)) / (theirs / max(m, 1)) if per_token else mine / theirs
            for mine, theirs, n, m in rounds
        ]


def measure(
    job: Job,
    peers: Sequence[Peer],
    repeats: int,
    say: Callable[[str], None] = lambda text: None,
) -> list[Row]:
    """Prepare all peers, run each once to check its result, then time those that run, in rotation.

    The error of a peer that needs other packages becomes the state of its row.
    """
    rows = [Row(peer) for peer in peers]
    started = _Started(job)
    try:
        for row in rows:
            _guarded(started.prepare, row)
        for row in rows:
            if row.state == RUN:
                _guarded(started.check, row)
            say(f"  {row.peer.name}: {row.state}")
        started.references.clear()

        for number in range(repeats):
            gc.collect()
            for row in rows:
                if row.state == RUN:
                    _time(job, row, started.works[row.peer.name])
            say(f"  round {number + 1} of {repeats}")
    finally:
        for work in started.works.values():
            work.close()
    return rows


class _Started:
    """The works of a job's peers by name, and the results that others are compared with."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.works: dict[str, Work] = {}
        self.references: dict[str, Any] = {}

    def prepare(self, row: Row) -> None:
        missing = row.peer.missing()
        if missing:
            row.state = f"not installed: {', '.join(missing)}"
            return
        work = row.peer.prepare(self.job)
        row.head = work.head
        self.works[row.peer.name] = work

    def check(self, row: Row) -> None:
        """Run a peer for the first time, and compare its result if there is something to."""
        other = row.peer.equals
        if other in self.works:
            work = self.works[row.peer.name]
            row.error, row.error_limit = self.job.error(work, self._reference(other))
        else:
            self._reference(row.peer.name)

    def _reference(self, name: str) -> Any:
        if name not in self.references:
            self.references[name] = self.job.reference(self.works[name])
        return self.references[name]


def _guarded(step: Callable[[Row], None], row: Row) -> None:
    """Do a step of a row; what fails in a foreign library must not cost the rows of all others."""
    try:
        step(row)
    except Exception as error:
        if not row.peer.needs:
            raise
        lines = str(error).strip().splitlines() or [""]
        row.state = f"{FAILED}{type(error).__name__}: {lines[0]}"


def _time(job: Job, row: Row, work: Work) -> None:
    """Add the figures of one run to the row; no garbage is collected meanwhile."""
    gc.disable()
    try:
        with counted_columns(job.network) as columns:
            wait(job.device)
            cpu = time.process_time()
            wall = time.perf_counter()
            result = job.timed(work)
            wait(job.device)
            row.wall.append(time.perf_counter() - wall)
            row.cpu.append(time.process_time() - cpu)
    finally:
        gc.enable()
    row.layers = sum(columns) or None
    row.calls = len(columns) or None
    row.tokens.append(job.useful(row.peer, result))


@contextmanager
def counted_columns(network: Any) -> Iterator[list[int]]:
    """Collect the sizes of all inputs of the layers, also in copies of the network.

    Peers have copies of their own, so the class is changed meanwhile and not this one network.
    """
    kind = type(network.get_decoder())
    forward = kind.forward
    found: list[int] = []

    @functools.wraps(forward)
    def counted(self: Any, *arguments: Any, **named: Any) -> Any:
        ids = named.get("input_ids", arguments[0] if arguments else None)
        found.append(0 if ids is None else ids.numel())
        return forward(self, *arguments, **named)

    kind.forward = counted
    try:
        yield found
    finally:
        kind.forward = forward
