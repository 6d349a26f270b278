"""Use marks: which artifacts running jobs use, so that `stage=prune` does not remove them.

In: the address of an artifact. Out: a file `.use-<fingerprint>` next to the artifact. Every job
that reads or makes the artifact holds a shared lock on this file until the job ends. The
modification time of the file is the time of the last use.

The whole rule: an artifact may be removed only while the remover holds the lock of its use file
alone. The locks are those of the operating system (`flock`). They end with their process, however
the process ends. Use files stay when an artifact is removed, as a new file could not stop a job
that waits for the lock of the old one.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import json
import os
import re
import socket
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock

from rlmec.store.atomic import errors_named

FINGERPRINT = re.compile(r"(?<![0-9a-f])[0-9a-f]{20}(?![0-9a-f])")

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
"""What a file system without locks answers."""


class LockError(OSError):
    """A file cannot be locked, because its file system has no locks."""


@contextlib.contextmanager
def locks_needed(path: Path) -> Iterator[None]:
    """Around the locking of a file: raises LockError, with advice, if its file system has no locks.

    Files whose mere existence is a lock are no way out: after a kill on another machine, nothing
    could tell that they are left over.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise LockError(
            f"{path} cannot be locked ({error.strerror}): its file system has no locks, so that "
            "jobs could spoil each other's work. Put paths.artifacts and paths.outputs on a disk "
            "of this machine, or on a file system that is mounted with locks (flock)"
        ) from error


def file_lock(path: Path) -> BaseFileLock:
    """The lock of a file for one process at a time, not acquired yet.

    It ends with its process. Acquire it within `locks_needed`.
    """
    return FileLock(path, fallback_to_soft=False)


def use_file(root: Path, stage: str, fp: str) -> Path:
    """The use file of an artifact in the store at `root`."""
    return root / stage / f".use-{fp}"


class Uses:
    """What one job uses in the store at `root`, until this object or the process is gone."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._held: dict[tuple[str, str], int] = {}
        weakref.finalize(self, _close, self._held)

    def hold(self, stage: str, fp: str) -> None:
        """Mark an artifact as in use from now on; waits while it is being removed.

        In a store that this process cannot write to, nothing is marked.
        """
        if (stage, fp) in self._held:
            return
        path = use_file(self.root, stage, fp)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._held[stage, fp] = _locked(path, fcntl.LOCK_SH)
            os.utime(path)

    def hold_mentioned(self, text: str) -> None:
        """Mark every artifact of the store whose fingerprint is in a text.

        Settings name artifacts in this way when a path leads into the store.
        """
        for fp in dict.fromkeys(FINGERPRINT.findall(text)):
            for folder in self.root.glob(f"*/{fp}"):
                self.hold(folder.parent.name, fp)

    def sign(self, stage: str, fp: str) -> None:
        """Write into the use file of a held artifact that this process is making it."""
        handle = self._held.get((stage, fp))
        if handle is None:
            return
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        who = {"process": os.getpid(), "host": socket.gethostname(), "since": now}
        with errors_named(use_file(self.root, stage, fp)):
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(who).encode(), 0)


def signed(path: Path) -> dict[str, Any]:
    """The process that last signed a use file (process, host, since); empty if unknown."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock on a file; False if there is no file."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        with locks_needed(path):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


@contextlib.contextmanager
def lock_alone(path: Path) -> Iterator[bool]:
    """Lock a file for this process alone during the block; yields False if another process has it.

    The file is created if there is none.
    """
    try:
        handle = _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        os.close(handle)


def _locked(path: Path, kind: int) -> int:
    """An open handle of a file, with a lock on it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with locks_needed(path):
            fcntl.flock(handle, kind)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _close(held: dict[tuple[str, str], int]) -> None:
    while held:
        os.close(held.popitem()[1])
