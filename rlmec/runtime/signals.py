"""Signals that ask a run to stop, and how the work learns of it.

In: SIGTERM (a scheduler, `kill`), SIGUSR1 (a scheduler's warning) and Ctrl-C. Out: `RunStopped`,
raised where the work asks by `check`: at optimizer steps, between parts and decoding steps. It ends
the program with 128 + the number of the signal: 143, 138 or 130. Nothing is raised in the middle of
anything else; before the work begins, and at the second Ctrl-C, the process ends at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

NAMES = {
    int(signal.SIGTERM): "SIGTERM",
    int(signal.SIGUSR1): "SIGUSR1",
    int(signal.SIGINT): "Ctrl-C",
}


class RunStopped(SystemExit):
    """The end of a run by a signal, whose number is `number`; `where` says what was stopped."""

    def __init__(self, number: int, where: str = "") -> None:
        super().__init__(128 + number)
        self.number, self.where = number, where

    def __reduce__(self) -> Any:
        return RunStopped, (self.number, self.where)

    def __str__(self) -> str:
        return f"stopped by {NAMES[self.number]}" + (f": {self.where}" if self.where else "")


class _Asked:
    """What this process was asked, and whether it is at work and will look."""

    number: int | None = None
    interrupts = 0
    working = False
    children: tuple[int, ...] = ()


_asked = _Asked()


def listen() -> None:
    """Takes over the signals that nobody else handles: not those that a launcher such as submitit
    has taken, nor those that are ignored (as Ctrl-C is in a shell's background)."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in NAMES:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _received)


def requested() -> int | None:
    """The number of the first signal that asked this process to stop."""
    return _asked.number


def check(where: str = "") -> None:
    """Raises RunStopped where a signal has asked for it."""
    if _asked.number is not None:
        raise RunStopped(_asked.number, where)


@contextlib.contextmanager
def working() -> Iterator[None]:
    """Around work that calls `check`: a signal is noted, and looked at there. Raises RunStopped
    at once where one was noted before, as by the job of a sweep that was then just done."""
    check()
    _asked.working = True
    try:
        yield
    finally:
        _asked.working = False


def pass_on(children: Sequence[int]) -> None:
    """From now on every signal goes on to these processes too, as SIGTERM: a terminal's Ctrl-C
    reaches them by itself, and must not count twice there."""
    _asked.children = tuple(children)


def _received(number: int, frame: FrameType | None) -> None:
    first = _asked.number is None
    _asked.number = number if first else _asked.number
    _asked.interrupts += number == signal.SIGINT
    for child in _asked.children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)
    if not _asked.working or _asked.interrupts > 1:
        _write(f"{NAMES[number]}: ended at once\n")
        os._exit(128 + number)
    if first:
        again = " (once more ends it at once)" if number == signal.SIGINT else ""
        _write(f"{NAMES[number]}: stopping at the next step or part{again}\n")


def _write(text: str) -> None:
    """To the standard error, past Python's buffers, which a handler may have interrupted."""
    if not is_first_rank():
        return
    with contextlib.suppress(OSError):
        os.write(2, text.encode())


def is_first_rank() -> bool:
    """Whether this process is rank 0 by what its launcher has put into the environment."""
    found = [os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID")]
    return next((n for n in found if n is not None), "0") == "0"
