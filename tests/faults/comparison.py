"""What a finished stage left, against an uninterrupted run's: bytes, figures, rows trained on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

VOLATILE = {"created", "seconds", "peak_memory_gib", "environment"}
CURVE = "curve.jsonl"
"""Figures for pictures, with speeds; a resume may miss a line (`callbacks.TrainingCurve`)."""
BASE = "base_model.json"
"""The record of an adapter's base model: its digest, and where it lies from here."""


def finished(store: Path, stage: str) -> list[Path]:
    """Final folders of a stage."""
    return sorted(p for p in (store / "artifacts" / stage).glob("*") if not p.name.startswith("."))


def content(folder: Path) -> dict[str, Any]:
    """Digests of an artifact's files by path, and its manifest without times."""
    found: dict[str, Any] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest = json.loads((folder / "manifest.json").read_text())
    found["manifest.json"] = {k: v for k, v in manifest.items() if k not in VOLATILE}
    found["manifest.json"]["files"].pop(CURVE, None)
    found.pop(CURVE, None)

    # The stores compared lie at different depths, so the way to an adapter's base model differs.
    for name in [name for name in found if name.endswith(BASE)]:
        found[name] = json.loads((folder / name).read_text())["digest"]
        found["manifest.json"]["files"].pop(name)
    return found


def differences(store: Path, reference: Path, stage: str) -> list[str]:
    """Names of what differs between a stage's artifacts in two stores, and of what was left."""
    mine = {p.name: content(p) for p in finished(store, stage)}
    theirs = {p.name: content(p) for p in finished(reference, stage)}
    out = [f"artifacts {sorted(set(mine) ^ set(theirs))}"] if set(mine) != set(theirs) else []
    for name in set(mine) & set(theirs):
        one, other = mine[name], theirs[name]
        out += [f for f in sorted(set(one) | set(other)) if one.get(f) != other.get(f)]
    left = (store / "artifacts").rglob(".work-*")
    return out + [f"left over: {path.name}" for path in left]


def trace(path: Path) -> list[list[int]]:
    """The micro-batches that a process began: optimizer step, number, digest of the tokens."""
    if not path.is_file():
        return []
    lines = path.read_text().splitlines()
    return [json.loads(line) for line in lines]


def joined(runs: list[list[list[int]]]) -> tuple[list[list[int]], int]:
    """The micro-batches that count, of several runs each of which takes the place of what the ones
    before did from its start on; and how many a run skipped."""
    counted: list[list[int]] = []
    skipped = 0
    for run in (run for run in runs if run):
        start = run[0][1]
        skipped += max(0, start - len(counted))
        counted = counted[:start] + run
    return counted, skipped
