"""Which artifacts running jobs have in their hands, so that nobody takes them away.

In: addresses of a store. Out: for each a file `.use-<fingerprint>` beside the artifact, on which
every job that reads or makes it has a shared lock as long as its process lives, and whose time of
change is that of the last use. Removing takes the lock for itself alone, and leaves what others
hold. The locks are the kernel's (`flock`): they end with their process, however that ends.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import re
import socket
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FINGERPRINT = re.compile(r"(?<![0-9a-f])[0-9a-f]{20}(?![0-9a-f])")


def use_file(root: Path, stage: str, fp: str) -> Path:
    return root / stage / f".use-{fp}"


class Uses:
    """What one job holds in the store below `root`, until this object or the process is gone."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._held: dict[tuple[str, str], int] = {}
        weakref.finalize(self, _close, self._held)

    def hold(self, stage: str, fp: str) -> None:
        """Marks an artifact as in use from now on. Where the store cannot be written to, nothing
        is marked, and nothing can be removed from it either."""
        if (stage, fp) in self._held:
            return
        path = use_file(self.root, stage, fp)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._held[stage, fp] = _locked(path, fcntl.LOCK_SH)
            os.utime(path)

    def hold_mentioned(self, text: str) -> None:
        """Holds every artifact of the store whose fingerprint stands in a text, as in the path of
        a model that settings name."""
        for fp in dict.fromkeys(FINGERPRINT.findall(text)):
            for folder in self.root.glob(f"*/{fp}"):
                self.hold(folder.parent.name, fp)

    def sign(self, stage: str, fp: str) -> None:
        """Says in the file of a held artifact that this process is making it."""
        if (handle := self._held.get((stage, fp))) is not None:
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            who = {"process": os.getpid(), "host": socket.gethostname(), "since": now}
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(who).encode(), 0)


def _locked(path: Path, kind: int) -> int:
    """A handle of the file at `path` with a lock on it; one that was removed while we waited is
    no use to anybody and is opened anew."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, kind)
            if os.fstat(handle).st_nlink:
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _close(held: dict[tuple[str, str], int]) -> None:
    while held:
        os.close(held.popitem()[1])


@contextlib.contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Whether nobody else has a lock on the file, which is then locked for the block; the file is
    made where there is none."""
    try:
        handle = _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        os.close(handle)


def is_locked(path: Path) -> bool:
    """Whether a process has a lock on the file; False where there is no file."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def signed(path: Path) -> dict[str, Any]:
    """Who said last that he was making the artifact (process, host, since); empty where unknown."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
