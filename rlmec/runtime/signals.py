"""Signals that ask a run to stop, and how the work learns about them.

In: SIGTERM (from a scheduler or `kill`), SIGUSR1 (a scheduler's warning) and Ctrl-C. Out:
`RunStopped`, which `check` raises where the work asks: at optimizer steps, between parts, and
between decoding steps. It ends the program with 128 plus the number of the signal: 143, 138 or 130.
Nothing is raised anywhere else. Before the work begins, and at the second Ctrl-C, the process ends
at once.

Python runs a handler only between two of its own instructions. A library that waits in C++ can
therefore hold a signal back for minutes; `ends_at_once` is for such a wait.
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
    """The end of a run by the signal `number`; `where` says what was stopped."""

    def __init__(self, number: int, where: str = "") -> None:
        super().__init__(128 + number)
        self.number = number
        self.where = where

    def __reduce__(self) -> Any:
        return RunStopped, (self.number, self.where)

    def __str__(self) -> str:
        return f"stopped by {NAMES[self.number]}" + (f": {self.where}" if self.where else "")


class _State:
    """Which signals this process has received, and what it does with them."""

    number: int | None = None  # the first signal
    interrupts = 0  # how often Ctrl-C was pressed
    working = False  # whether the work calls `check`
    children: tuple[int, ...] = ()  # processes to which signals are passed on


_state = _State()


def listen() -> None:
    """Handle the signals that nobody else handles.

    Signals that a launcher such as submitit has taken, and signals that are ignored (as Ctrl-C is
    for a shell's background job), are left alone.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in NAMES:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _received)


def requested() -> int | None:
    """The number of the first signal that asked this process to stop, or None."""
    return _state.number


def check(where: str = "") -> None:
    """Raise RunStopped if a signal has asked this process to stop."""
    if _state.number is not None:
        raise RunStopped(_state.number, where)


@contextlib.contextmanager
def working() -> Iterator[None]:
    """Around work that calls `check`: a signal is only noted, and the next `check` raises it.

    Raises RunStopped at once if a signal was noted before, as in the previous job of a sweep.
    """
    check()
    _state.working = True
    try:
        yield
    finally:
        _state.working = False


@contextlib.contextmanager
def ends_at_once() -> Iterator[None]:
    """Around a wait within a library, such as the one for other ranks: a signal ends the process.

    A thread reads the signals, so the library must release Python's global lock while it waits.
    Does nothing outside the main thread, and nothing for signals that `listen` left alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    reading, writing = os.pipe()
    os.set_blocking(writing, False)  # as set_wakeup_fd demands
    before = signal.set_wakeup_fd(writing)
    reader = threading.Thread(target=_end_at_signal, args=(reading,), name="signals", daemon=True)
    reader.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)  # the reader sees the end of the pipe
        reader.join()
        os.close(reading)


def _end_at_signal(reading: int) -> None:
    """End the process at the first byte of a pipe that is the number of a signal to listen to."""
    while numbers := os.read(reading, 1):
        number = numbers[0]
        if number in NAMES and signal.getsignal(number) is _received:
            _end(number)


def pass_on(children: Sequence[int]) -> None:
    """Pass every signal on to these processes from now on, as SIGTERM.

    A Ctrl-C on a terminal reaches them anyway, and must not count as two there.
    """
    _state.children = tuple(children)


def rank() -> str:
    """The rank of this process, by the environment that its launcher has set."""
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        if name in os.environ:
            return os.environ[name]
    return "0"


def is_first_rank() -> bool:
    """Whether this process is rank 0."""
    return rank() == "0"


def _received(number: int, frame: FrameType | None) -> None:
    is_first = _state.number is None
    if is_first:
        _state.number = number
    if number == signal.SIGINT:
        _state.interrupts += 1

    if not _state.working or _state.interrupts > 1:
        _end(number)
    _stop_children()
    if is_first:
        hint = " (press it again to end at once)" if number == signal.SIGINT else ""
        _write(f"{NAMES[number]}: stopping at the next step or part{hint}\n")


def _end(number: int) -> None:
    """End this process at once, and ask its children to stop."""
    _stop_children()
    _write(f"{NAMES[number]}: ended at once\n")
    os._exit(128 + number)


def _stop_children() -> None:
    for child in _state.children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)


def _write(text: str) -> None:
    """Write to the standard error of rank 0.

    Python's buffers are avoided, because the signal may have interrupted a write to them.
    """
    if is_first_rank():
        with contextlib.suppress(OSError):
            os.write(2, text.encode())
