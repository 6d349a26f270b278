"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def remove_below(folder: Path, names: Sequence[str]) -> None:
    """Removes subfolders that are there."""
    for name in names:
        shutil.rmtree(folder / name, ignore_errors=True)


def sync(path: Path) -> None:
    """Flushes a file or a folder's list of names to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_below(folder: Path, skip: Sequence[str] = ()) -> None:
    for parent, folders, files in os.walk(folder):
        if Path(parent) == folder:
            folders[:] = [name for name in folders if name not in skip]
        for name in files:
            sync(Path(parent, name))
        sync(Path(parent))


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Writes a file that is either the old one or the whole new one, also after a crash or a power
    cut."""
    handle, temporary = tempfile.mkstemp(
        prefix=f".{path.name[:60]}.", suffix=".tmp", dir=path.parent
    )
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            os.fchmod(out.fileno(), 0o644)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync(path.parent)


def atomic_write_text(path: Path, text: str) -> None:
    """As `atomic_write_bytes`, in UTF-8."""
    atomic_write_bytes(path, text.encode())


def atomic_write_json(path: Path, value: Any) -> None:
    """As `atomic_write_bytes`, for plain values; anything else is a TypeError before the file is
    touched."""
    atomic_write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
