"""A command with what it used: seconds, processor time, and memory of all its processes together.

In: a command line. Out: its exit code and figures. Memory is the most that the process and its
descendants have ever had resident, added up over those that run at once, looked at ten times a
second: at least what all had together at any one time. Pages that several share count for each.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Used:
    """`code` is the exit code, negative where a signal ended the command; `memory` in bytes."""

    code: int
    seconds: float
    cpu_seconds: float
    memory: int


def watched(
    command: Sequence[str],
    log: Path,
    *,
    kill_when: Callable[[], bool] | None = None,
    environment: dict[str, str] | None = None,
) -> Used:
    """Runs a command to its end, its output appended to `log`; it is killed (-9) as soon as
    `kill_when` holds."""
    began, peak = time.monotonic(), 0
    with log.open("a", encoding="utf-8") as out:
        process = subprocess.Popen(
            list(command), stdout=out, stderr=subprocess.STDOUT, env=environment
        )
    while True:
        ended, status, used = os.wait4(process.pid, os.WNOHANG)
        if ended:
            break
        peak = max(peak, sum(map(resident, tree(process.pid))))
        if kill_when is not None and kill_when():
            os.kill(process.pid, signal.SIGKILL)  # Popen.kill would wait for it, too, and reap it
        time.sleep(LOOK_SECONDS if kill_when is None else 0.005)
    process.returncode = os.waitstatus_to_exitcode(status)
    cpu = used.ru_utime + used.ru_stime
    return Used(process.returncode, time.monotonic() - began, cpu, peak)


def environment() -> dict[str, str]:
    """This process's, in which a command finds this checkout first and asks no hub."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for each in found:
        for thread in _listed(Path(f"/proc/{each}/task")):
            found += map(int, _read(thread / "children").split())
    return found


def resident(pid: int) -> int:
    """The most bytes that a process had in memory since its program began; 0 for one that has
    ended. (The kernel's `ru_maxrss` begins with what the program that started it had.)"""
    lines = _read(Path(f"/proc/{pid}/status")).splitlines()
    found = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return found[0] * 1024 if found else 0


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # it has ended
        return []


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has ended
        return ""
