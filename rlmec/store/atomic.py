"""Files and folders that appear whole or not at all, even after a crash or a power cut.

Everything in the project that writes a result goes through `atomic_file` or `atomic_folder`. Both
write under a temporary name next to the target, flush to disk, rename, and then flush the list of
names of the parent folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

TEMPORARY = ".tmp"
"""The suffix of a temporary file. A process that is killed leaves such a file behind."""
_TEMPORARY_FILE = re.compile(r"\..*\.[0-9a-f]{8}" + re.escape(TEMPORARY))
_TEMPORARY_FOLDER = re.compile(r"\.(?:tmp|old)-.*-\d+")


@contextlib.contextmanager
def errors_named(path: Path) -> Iterator[None]:
    """Add `path` to an error of the operating system that names no file, such as a full disk's."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path; the file written there becomes `path` when the block ends.

    The block must create the file and close it. If the block raises an exception, the file at
    `path` stays as it was and the temporary file is removed.
    """
    # A file name may have at most 255 bytes, so a long name is cut.
    temporary = path.with_name(f".{path.name[:60]}.{uuid.uuid4().hex[:8]}{TEMPORARY}")
    try:
        with errors_named(path):
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


@contextlib.contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a new, empty folder, which becomes `path` when the block ends.

    The block must flush what it writes to disk (`sync_below`, or writers that flush themselves). If
    the block raises an exception, the folder at `path` stays as it was and the new one is removed.
    If `path` already exists, it stays and the new folder is dropped; with `replace`, the new folder
    takes its place.
    """
    new = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    old = path.with_name(f".old-{path.name}-{os.getpid()}")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        yield new
        # A folder that is not empty cannot be replaced by one rename.
        if replace and path.exists():
            os.rename(path, old)
        if not path.exists():
            rename_folder(new, path)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def rename_folder(source: Path, target: Path) -> None:
    """Rename a folder within its parent folder, and flush the rename to disk."""
    os.rename(source, target)
    sync(target.parent)


def remove_below(folder: Path, names: Sequence[str]) -> None:
    """Remove the named subfolders of `folder`; names that do not exist are ignored."""
    for name in names:
        shutil.rmtree(folder / name, ignore_errors=True)


def remove_temporary(folder: Path) -> None:
    """Remove what killed processes have left below `folder`: temporary files and folders.

    No other process may be writing below `folder`.
    """
    for path in sorted(folder.rglob(".*")):
        if _TEMPORARY_FILE.fullmatch(path.name):
            path.unlink(missing_ok=True)
        elif _TEMPORARY_FOLDER.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_below(folder: Path, skip: Sequence[str] = ()) -> None:
    """Flush everything below `folder` to disk, except its direct subfolders named in `skip`."""
    for parent, folders, files in os.walk(folder):
        if Path(parent) == folder:
            folders[:] = [name for name in folders if name not in skip]
        for name in files:
            sync(Path(parent, name))
        sync(Path(parent))


def atomic_write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 through `atomic_file`."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(text.encode())


def atomic_write_json(path: Path, value: Any) -> None:
    """Write plain values as JSON through `atomic_file`.

    Raises TypeError for anything else, before the file is touched.
    """
    atomic_write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
