"""The verifier: compares mathematical answers in child processes that cannot hang or bring us down.

In: gold answers and answers as LaTeX; out: verdicts. Children are started when first needed and
kept; each has an alarm inside (`time_limit` seconds of processor time, after which the comparison
is given up), a limit that the kernel keeps (at twice that and half a second), a limit outside (by
the clock, for one that does no work), and a limit of address space. Their ends are told apart:
"timeout", "memory", "crash"; none of them is "wrong". Works from any thread and any process: a
forked process leaves its parent's children alone and starts its own. They end with their parent, as
their input ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

from rlmec.records import Verdict

Pair = tuple[str, str | None]
"""A gold answer and an answer; None asks whether the gold answer can be read."""

SCRIPT = Path(__file__).with_name("math_verifier_child.py")
START_LIMIT = 300.0
"""Seconds that a child may take to start."""
PATIENCE = 60.0
"""Seconds by the clock for each second of processor time, on a machine with much else to do."""
LONGEST = 2000
"""Characters of an answer that are looked at: a longer one equals no gold answer."""
MOST_VERDICTS = 100_000
KEPT_VARIABLES = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "TMPDIR")


class Verifier:
    """Judges by math-verify. `time_limit` in seconds of processor time for one comparison,
    `memory_limit` in GiB for one child, `processes` the most children (two at most by default).

    Verdicts are kept, up to 100,000. Raises RuntimeError where a child cannot start at all, as
    without math-verify.
    """

    def __init__(
        self, time_limit: float = 0.5, memory_limit: float = 1.0, processes: int | None = None
    ) -> None:
        if time_limit <= 0 or memory_limit <= 0 or (processes is not None and processes < 1):
            raise ValueError(
                f"time_limit {time_limit}, memory_limit {memory_limit} and processes {processes} "
                "must be above 0"
            )
        self.time_limit, self.memory_limit = time_limit, memory_limit
        self.processes = processes or min(2, os.cpu_count() or 1)
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._children: list[_Child] = []
        self._known: dict[Pair, str] = {}
        self._end = weakref.finalize(self, _end_all, self._children)
        _LIVE.add(self)

    def check(self, gold: str, answer: str) -> Verdict:
        """Verdict on one answer."""
        return self.check_many([(gold, answer)])[0]

    def check_many(self, pairs: Iterable[tuple[str, str]]) -> list[Verdict]:
        """Verdicts on (gold answer, answer) in their order; all children work at once."""
        return [cast(Verdict, word) for word in self._words(list(pairs))]

    def readable(self, golds: Iterable[str]) -> list[bool]:
        """Whether each gold answer can be read within the limits."""
        return [word == "readable" for word in self._words([(gold, None) for gold in golds])]

    def close(self) -> None:
        """Ends the children; a later call starts new ones."""
        with self._lock:
            _end_all(self._children)

    def __getstate__(self) -> dict[str, object]:
        return {k: self.__dict__[k] for k in ("time_limit", "memory_limit", "processes")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._begin()

    def _words(self, pairs: Sequence[Pair]) -> list[str]:
        with self._lock:
            missing = {p: None for p in pairs if p not in self._known and not _too_long(p)}
            found = self._ask(list(missing)) if missing else {}
            words = [self._known.get(p) or found.get(p) or _too_long(p) for p in pairs]
            if len(self._known) + len(found) > MOST_VERDICTS:
                self._known.clear()
            self._known |= found
        return words

    def _ask(self, pairs: Sequence[Pair]) -> dict[Pair, str]:
        todo, found, tried = deque(pairs), {}, set()
        busy: dict[_Child, Pair] = {}
        try:
            while todo or busy:
                while todo and len(busy) < self.processes:
                    child, pair = self._free(busy), todo.popleft()
                    busy[child] = pair
                    child.send(pair)
                for child in _wait(busy):
                    pair, word = busy.pop(child), child.word
                    if child.ended:
                        self._children.remove(child)
                    if word == "crash" and pair not in tried:  # it may have been the child's fault
                        tried.add(pair)
                        todo.append(pair)
                    else:
                        found[pair] = word
        finally:
            for child in busy:  # an exception: their replies are nobody's
                child.end()
                self._children.remove(child)
        return found

    def _free(self, busy: dict[_Child, Pair]) -> _Child:
        """A child without work, a new one if need be."""
        for child in [c for c in self._children if c not in busy]:
            if child.process.poll() is None:
                return child
            child.end()
            self._children.remove(child)
        child = _Child(self.time_limit, int(self.memory_limit * 2**30))
        self._children.append(child)
        return child


class _Child:
    """One child process; `word` is its last reply, or how it ended."""

    def __init__(self, seconds: float, memory: int) -> None:
        self.ready = self.ended = False
        self.word = ""
        hard = 2 * seconds + 0.5
        self.patience = PATIENCE * hard
        numbers = [str(seconds), str(hard), str(memory)]
        kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(SCRIPT), *numbers],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=kept | {"SYMPY_GROUND_TYPES": "python", "PYTHONUTF8": "1"},
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.input, self.output = self.process.stdin, self.process.stdout
        self.deadline = time.monotonic() + START_LIMIT

    def send(self, pair: Pair) -> None:
        self.word = ""
        if self.ready:
            self.deadline = time.monotonic() + self.patience
        with contextlib.suppress(BrokenPipeError):  # it has ended: seen when its reply is read
            self.input.write((json.dumps(pair) + "\n").encode())

    def look(self, readable: bool) -> bool:
        """Whether there is a reply, or will be none."""
        if readable:
            text = os.read(self.output.fileno(), 4096).decode()
            if not text:
                self._read_end()
            for line in text.split():
                if line == "ready":
                    self.ready = True
                    self.deadline = time.monotonic() + self.patience
                elif line == "error:":
                    raise RuntimeError(
                        f"the verifier cannot start: {text.strip()}; "
                        "pip install 'math-verify[antlr4_9_3]'"
                    )
                else:
                    self.word = line
        elif time.monotonic() > self.deadline:
            self._started_at_all("takes too long")
            self.word = "timeout"
            self.end()
        return bool(self.word)

    def _read_end(self) -> None:
        code = self.process.wait()
        self._started_at_all(f"ended with code {code}")
        self.word = "timeout" if code == -signal.SIGVTALRM else "crash"
        self.end()

    def _started_at_all(self, problem: str) -> None:
        if not self.ready:
            self.end()
            raise RuntimeError(f"the verifier cannot start: its process {problem}")

    def end(self) -> None:
        """Kills the process if it still runs."""
        self.ended = True
        self.input.close()
        self.process.kill()
        self.process.wait()
        self.output.close()

    def abandon(self) -> None:
        """Lets go of a process that belongs to the process we were forked from."""
        self.input.close()
        self.output.close()
        self.process.returncode = 0  # not ours to wait for


def _wait(busy: dict[_Child, Pair]) -> list[_Child]:
    """The children with a reply or without a hope of one, once there are some."""
    while True:
        poll = select.poll()
        for child in busy:
            poll.register(child.output.fileno(), select.POLLIN | select.POLLHUP)
        seconds = min(child.deadline for child in busy) - time.monotonic()
        readable = {fd for fd, _ in poll.poll(max(0.0, seconds) * 1000 + 1)}
        done = [child for child in busy if child.look(child.output.fileno() in readable)]
        if done:
            return done


def _too_long(pair: Pair) -> str:
    """The word for what is not looked at, or an empty one."""
    gold, answer = pair
    if len(gold) > LONGEST:
        return "unparsable"
    return "wrong" if answer is not None and len(answer) > LONGEST else ""


def _end_all(children: list[_Child]) -> None:
    while children:
        children.pop().end()


def _after_fork() -> None:
    for verifier in list(_LIVE):
        for child in verifier._children:
            child.abandon()
        verifier._children.clear()
        verifier._lock = threading.Lock()


_LIVE: weakref.WeakSet[Verifier] = weakref.WeakSet()
os.register_at_fork(after_in_child=_after_fork)
