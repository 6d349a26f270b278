"""Fingerprints of settings and digests of files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
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
    """20 hex digits that change with anything that can change the artifact, whatever the order of
    keys.

    `settings` are plain values already cast to their types (1 and 1.0 are different), `parents`
    fingerprints, `inputs` digests of files and directories or commits of hub names, `sources`
    digests of code and templates.
    """
    parts = [stage, version, dict(settings), dict(parents), dict(inputs), dict(sources)]
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:20]


_DIGESTS: dict[tuple[str, int, int], str] = {}


def file_digest(path: Path | str) -> str:
    """sha256 of a file's content; read once per (path, size, time of change) in a process."""
    path = Path(path).resolve()
    stat = path.stat()
    key = (str(path), stat.st_size, stat.st_mtime_ns)
    if key not in _DIGESTS:
        with path.open("rb") as handle:
            _DIGESTS[key] = hashlib.file_digest(handle, "sha256").hexdigest()
    return _DIGESTS[key]


def directory_digest(path: Path | str) -> str:
    """sha256 over the names below a directory and the contents of the files; hidden names are left
    out."""
    root = Path(path)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a directory")
    names = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    shown = [n for n in names if not any(part.startswith(".") for part in n.split("/"))]
    lines = "".join(f"{name}\0{file_digest(root / name)}\n" for name in shown)
    return hashlib.sha256(lines.encode()).hexdigest()
