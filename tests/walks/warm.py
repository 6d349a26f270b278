"""A process that has imported everything already, and forks for each command: 6 s less per command.

In, one line of JSON per command: `argv` (the program first), `env`, `cwd`, `log`. Out, one line of
JSON: exit code and processor seconds, those of the imports included. A command runs in a process
of its own, as `__main__`, with its own environment and folder. It differs from a start by hand in
two things: its imports are done, and all commands have the same hash seed.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

PATIENCE = 300.0


def become(argv: list[str], env: dict[str, str], cwd: str, log: str) -> None:
    """Turn this process into the command. Ends by SystemExit or by returning, as a program does."""
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    written = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(written, 1)
    os.dup2(written, 2)

    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = argv
    sys.path[0] = str(Path(argv[0]).parent)
    runpy.run_path(argv[0], run_name="__main__")


def wait(child: int) -> tuple[int, float]:
    """Exit code and processor seconds of a child; one that takes too long is killed."""
    deadline = time.monotonic() + PATIENCE
    while True:
        ended, status, used = os.wait4(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
            deadline = float("inf")
        time.sleep(0.01)


def main() -> None:
    import rlmec.stages.run  # noqa: F401  everything that a command imports

    # A fork copies the calling thread only. (jemalloc's own, which Arrow starts, is made for this.)
    assert threading.active_count() == 1, threading.enumerate()

    imports = sum(os.times()[:2])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    for line in sys.stdin:
        asked: dict[str, Any] = json.loads(line)
        child = os.fork()
        if child == 0:
            answers.close()
            become(**asked)
            return
        code, seconds = wait(child)
        print(json.dumps([code, imports + seconds]), file=answers)


if __name__ == "__main__":
    main()
