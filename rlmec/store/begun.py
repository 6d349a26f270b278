"""With what unfinished work was begun, and in what other work of the same stage differs.

In: a record of everything that counts in an address. Out: the record in a file of the work folder,
for the manifest; and lines that say why work under another address is not continued or reused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlmec.store.artifacts import MANIFEST, ArtifactStore
from rlmec.store.atomic import atomic_write_json
from rlmec.store.locks import is_locked, use_file

Record = dict[str, Any]

RECORD = "begun.json"
"""The file of a work folder that holds the record."""

COUNTED = ("version", "settings", "parents", "inputs", "sources")
"""The entries of a record that count in an address."""

MOST_DIFFERENCES = 5
"""Work that differs in more values belongs to another configuration; nothing is said about it."""

ABSENT = "absent"
"""What a difference shows for a value that one of two records does not have."""

_NEWEST = 20
_LONGEST_VALUES = 80


def begun_with(work: Path, record: Record) -> Record:
    """The record of a work folder. For new work that is `record`, which is written."""
    if not read_record(work):
        atomic_write_json(work / RECORD, record)
    return read_record(work)


def read_record(work: Path) -> Record:
    """The record that a work folder was begun with; empty if there is none."""
    return _read(work / RECORD)


def other_work(store: ArtifactStore, stage: str, fp: str, record: Record) -> list[str]:
    """Lines about work of the same stage under other addresses, for a stage that begins now.

    One line names the unfinished work with the fewest differences, if no job is making it. One line
    names a finished artifact that has the same settings and parents, so that only what the user did
    not ask for differs: code, versions, or the content of files.
    """
    lines = []
    unfinished = [
        (differences(found, record), folder)
        for folder, found in _unfinished(store, stage)
        if folder != store.work(stage, fp)
    ]
    different, folder = min(unfinished, key=lambda pair: len(pair[0]), default=([], Path()))
    if 0 < len(different) <= MOST_DIFFERENCES:
        lines.append(f"unfinished work is left alone: {folder} differs in {'; '.join(different)}")

    for folder, found in _finished(store, stage):
        if all(found.get(name) == record[name] for name in ("settings", "parents")):
            different = differences(found, record)
            lines.append(f"{folder} is not reused: it differs in {'; '.join(different)}")
            break
    return lines


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One text per counted value that differs between two records: its dotted key, and both values
    if they are short."""
    before = flat({name: old.get(name) for name in COUNTED})
    after = flat({name: new.get(name) for name in COUNTED})
    found = []
    for key in sorted(before | after):
        one = before.get(key, ABSENT)
        other = after.get(key, ABSENT)
        if one == other:
            continue
        values = f": {one} -> {other}"
        found.append(f"{key}{values}" if len(values) <= _LONGEST_VALUES else key)
    return found


def flat(node: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """The leaves of a nested mapping by dotted key."""
    out: dict[str, Any] = {}
    for name, value in node.items():
        key = f"{above}{name}"
        if isinstance(value, Mapping) and value:
            out |= flat(value, f"{key}.")
        else:
            out[key] = value
    return out


def _unfinished(store: ArtifactStore, stage: str) -> Iterator[tuple[Path, Record]]:
    """Work folders that no job is making, with their records."""
    for folder in sorted((store.root / stage).glob(".work-*")):
        found = read_record(folder)
        fp = folder.name.removeprefix(".work-")
        if found and not is_locked(use_file(store.root, stage, fp)):
            yield folder, found


def _finished(store: ArtifactStore, stage: str) -> Iterator[tuple[Path, Record]]:
    """The newest artifacts with the records in their manifests."""
    manifests = (store.root / stage).glob(f"[!.]*/{MANIFEST}")
    for path in sorted(manifests, key=lambda path: path.stat().st_mtime)[: -_NEWEST - 1 : -1]:
        found = _read(path)
        if "sources" in found:
            yield path.parent, found


def _read(path: Path) -> Record:
    """The object in a JSON file; empty if the file does not exist or is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
