"""Fingerprints of artifacts, and the digests of files and directories that go into them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any


def fingerprint(
    stage: str,
    version: int | str,
    settings: Mapping[str, Any],
    parents: Mapping[str, str],
    inputs: Mapping[str, str],
    sources: Mapping[str, str],
) -> str:
    """The address of an artifact: 20 hexadecimal digits.

    The fingerprint changes with everything that can change the content of the artifact. It does not
    depend on the order of keys.

    - `settings`: plain values, already cast to their types (1 and 1.0 are different).
    - `parents`: the fingerprints of the artifacts that the stage reads.
    - `inputs`: digests of files and directories, or commits of hub names.
    - `sources`: digests of code and templates.

    Raises TypeError if a value is not plain.
    """
    parts = [stage, version, dict(settings), dict(parents), dict(inputs), dict(sources)]
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:20]


_DIGESTS: dict[tuple[str, int, int], str] = {}


def file_digest(path: Path | str) -> str:
    """The sha256 of a file's content.

    A process reads a file only once, as long as its size and its modification time stay the same.
    """
    path = Path(path).resolve()
    stat = path.stat()
    key = (str(path), stat.st_size, stat.st_mtime_ns)
    if key not in _DIGESTS:
        with path.open("rb") as handle:
            _DIGESTS[key] = hashlib.file_digest(handle, "sha256").hexdigest()
    return _DIGESTS[key]


def directory_digest(path: Path | str, without: Collection[str] = ()) -> str:
    """The sha256 of the names and contents of all files below a directory.

    Hidden files and folders do not count, nor do the relative paths in `without`. Raises
    FileNotFoundError if there is no such directory.
    """
    root = Path(path)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a directory")
    names = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    shown = [
        name
        for name in names
        if name not in without and not any(part.startswith(".") for part in name.split("/"))
    ]
    lines = "".join(f"{name}\0{file_digest(root / name)}\n" for name in shown)
    return hashlib.sha256(lines.encode()).hexdigest()
