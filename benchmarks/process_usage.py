"""The seconds, processor time, and memory of a command with all its processes.

In: a command line. Out: its exit code and these figures. Ten times per second, the peak resident
memory of the process and of each running descendant is read and summed; the memory of the command
is the largest sum. It is an upper bound on what all of them held at one time, and a page that
several processes share counts for each of them.
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
    """What a command used; `memory` is in bytes, `code` negative if a signal ended the command."""

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
    """Run a command to its end, with its output appended to `log`.

    If `kill_when` is given, the command is killed (-9) as soon as it returns True.
    """
    began = time.monotonic()
    peak = 0
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
            # Popen.kill could reap the process, and wait4 would then lose its usage.
            os.kill(process.pid, signal.SIGKILL)
        time.sleep(LOOK_SECONDS if kill_when is None else 0.005)

    process.returncode = os.waitstatus_to_exitcode(status)
    cpu = used.ru_utime + used.ru_stime
    return Used(process.returncode, time.monotonic() - began, cpu, peak)


def environment() -> dict[str, str]:
    """Return this process's environment, in which commands import this checkout and use no hub."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}


def tree(pid: int) -> list[int]:
    """Return the ids of a process and its descendants."""
    found = [pid]
    for each in found:
        for thread in _listed(Path(f"/proc/{each}/task")):
            found += map(int, _read(thread / "children").split())
    return found


def resident(pid: int) -> int:
    """Return a process's peak resident bytes; 0 for a process that has ended.

    The kernel's `ru_maxrss` is not used, because it begins with the memory of the parent process.
    """
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
