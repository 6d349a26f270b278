"""Runs targets on spoiled inputs and tells what came of each.

In: targets, a seed, a number of inputs. Out: counts by target and the failures. Input i of a target
hangs on (seed, target, i) alone, so that one can be repeated by itself.
"""

from __future__ import annotations

import contextlib
import random
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

LIMIT = 5.0
"""Seconds of processor time that one input may take; the slowest, a configuration that
is nested to the limit of recursion, needs two."""
PATIENCE = 1000.0
"""Seconds by the clock for each second of processor time, on a machine with much else to do."""
LONGEST_MESSAGE = 1500
CLEAR = (ValueError, FileNotFoundError, RuntimeError)  # RuntimeError: ArtifactError
UNCLEAR = (UnicodeError, RecursionError, NotImplementedError)


class Hang(BaseException):
    """An input that took longer than it may."""


class Changed(AssertionError):
    """What was read is not what was written, or the reader wrote to it."""


class Refused(Exception):
    """Raised by a target for an input that its reader refused with a clear error."""


@dataclass(frozen=True)
class Target:
    """`run` gives one spoiled input to a reader, in an empty folder; it returns where the input was
    accepted, raises `Refused` where it was refused well, and anything else where not. Of all inputs
    `share` of every 1000 are this target's."""

    name: str
    share: int
    run: Callable[[random.Random, Path], None]


@dataclass
class Found:
    """What came of a target's inputs."""

    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    failures: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)


@contextlib.contextmanager
def refusing(*names: str, kinds: tuple[type[Exception], ...] = CLEAR) -> Iterator[None]:
    """Around a reader: turns a clear error into `Refused`. It is of one of `kinds`, not longer than
    a screen, can be printed, and has each of `names` (the file, the key) in it."""
    try:
        yield
    except kinds as error:
        text = str(error)
        if isinstance(error, UNCLEAR) or type(error).__name__ == "JSONDecodeError":
            raise
        if missing := [name for name in names if name not in text]:
            raise AssertionError(f"the message does not name {missing}: {text[:300]}") from error
        if len(text) > LONGEST_MESSAGE:
            raise AssertionError(f"a message of {len(text)} characters") from error
        try:
            text.encode()
        except UnicodeEncodeError as unprintable:
            raise AssertionError(f"a message that cannot be printed: {text!a}") from unprintable
        raise Refused(text) from error


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises Hang in the block once it has used so much processor time."""

    def stop(*_: object) -> None:
        raise Hang(f"more than {seconds:g} s")

    timers = {signal.SIGPROF: signal.ITIMER_PROF, signal.SIGALRM: signal.ITIMER_REAL}
    before = {number: signal.signal(number, stop) for number in timers}
    signal.setitimer(signal.ITIMER_PROF, seconds, 0.5)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE * seconds)  # for one that waits without working
    try:
        yield
    finally:
        for number, timer in timers.items():
            signal.setitimer(timer, 0.0)
            signal.signal(number, before[number])


def one(target: Target, seed: int, number: int, folder: Path, found: Found) -> None:
    """Runs one input and counts it."""
    rng = random.Random(f"{seed}/{target.name}/{number}")
    began = time.process_time()
    try:
        with limited(LIMIT):
            target.run(rng, folder)
        found.accepted += 1
    except Refused:
        found.refused += 1
    except (Exception, Hang) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        kind = f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"
        found.kinds[kind] += 1
        if found.kinds[kind] <= 3:
            again = f"--target {target.name} --only {number} --seed {seed}"
            found.failures.append(f"{kind}: {str(error)[:300]!a}\n    {again}")
    took = time.process_time() - began
    found.seconds += took
    found.slowest = max(found.slowest, took)


def run(
    targets: Sequence[Target],
    inputs: int,
    seed: int,
    folder: Path,
    done: Callable[[str, Found], object] = lambda name, found: None,
) -> dict[str, Found]:
    """All targets in turn, each with its share of `inputs` (one at least); `done` hears of each."""
    whole = sum(target.share for target in targets)
    out = {}
    for target in targets:
        found = out[target.name] = Found()
        place = folder / target.name
        place.mkdir()
        for number in range(max(1, round(inputs * target.share / whole))):
            one(target, seed, number, place, found)
        done(target.name, found)
    return out


def table(found: dict[str, Found]) -> str:
    """A line for each target and one for all."""
    names = ("target", "inputs", "accepted", "refused", "failures", "seconds", "slowest")
    lines = [names]
    for name, f in found.items():
        bad = sum(f.kinds.values())
        counts = (f.accepted + f.refused + bad, f.accepted, f.refused, bad)
        lines.append((name, *map(str, counts), f"{f.seconds:.1f}", f"{f.slowest:.2f}"))
    sums = [sum(int(line[i]) for line in lines[1:]) for i in range(1, 5)]
    seconds = sum(f.seconds for f in found.values())
    slowest = max(f.slowest for f in found.values())
    lines.append(("all", *map(str, sums), f"{seconds:.1f}", f"{slowest:.2f}"))
    widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
    shown = []
    for name, *cells in lines:
        right = [c.rjust(w) for c, w in zip(cells, widths[1:], strict=True)]
        shown.append("  ".join([name.ljust(widths[0]), *right]))
    return "\n".join(shown)
