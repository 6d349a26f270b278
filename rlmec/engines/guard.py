"""A small program that ends the children of a process that was killed.

In: the id of a process, and a standard input whose other end only that process holds. While the
process lives, the guard notes its descendants. At the end of the input the process is gone, and the
guard kills those that are left. vLLM's processes would otherwise outlive a kill -9 and keep their
memory, so that the same command could not go on.

`guarded` starts the guard as a process of its own. It needs psutil, which vLLM brings.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
from collections.abc import Iterator

SECONDS = 0.5
"""Between two looks at the descendants."""


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Lets the children that this process has or starts meanwhile end with it, even by kill -9."""
    command = [sys.executable, __file__, str(os.getpid())]
    # A session of its own: an interrupt from the keyboard is not meant for the guard.
    guard = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert guard.stdout is not None
    guard.stdout.readline()  # it watches from now on
    try:
        yield
    finally:
        guard.kill()
        guard.communicate()


def watch(pid: int) -> None:
    import psutil

    known: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        print("ready", flush=True)
        while not select.select([sys.stdin], [], [], SECONDS)[0]:
            # A process that has just died has no children left: the list before counts then.
            known = process.children(recursive=True) or known

    for child in known:
        if child.pid != os.getpid():
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


if __name__ == "__main__":
    watch(int(sys.argv[1]))
