"""The content of a store of artifacts: states, sizes, ages, and what was made from what.

In: the folder of a store. Out: one `Entry` per artifact and per work folder, and what distinguishes
the artifacts of one stage. Nothing is changed,
and no model library is imported. One artifact was made from another if its manifest, or the
settings of its adapter, contain the fingerprint of the other: as a parent, or in the path of the
model that it started from.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from rlmec.store.artifacts import MANIFEST, ArtifactError, ArtifactStore
from rlmec.store.begun import flat
from rlmec.store.locks import FINGERPRINT, is_locked, signed, use_file

State = Literal["whole", "under way", "left over", "damaged", "going"]
ASIDE = ".gone-"
"""The prefix of a folder that `stage=prune` has renamed and not deleted yet."""
_FOLDER = re.compile(r"(?P<kind>\.work-|\.gone-)?(?P<fp>[0-9a-f]{20})(?:-\d+)?")
_ACCURACY = re.compile(r"eval/([^/]+)/accuracy")
_STEP = re.compile(r"step-(\d+)\.ckpt")


@dataclass(frozen=True)
class Entry:
    """One folder of the store.

    `size` is in bytes. `made` and `used` are seconds since the epoch; for a folder that is not
    whole, both are the time of its last change. `links` are the fingerprints of what it was made
    from. `held` is True while a running job uses it. The `manifest` is that of a whole artifact.
    """

    stage: str
    fingerprint: str
    path: Path
    state: State
    size: int
    made: float
    used: float
    held: bool
    links: frozenset[str] = frozenset()
    note: str = ""
    manifest: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def title(self) -> str:
        return f"{self.stage}/{self.fingerprint}"


def list_entries(root: Path) -> list[Entry]:
    """All entries of the store at `root`, grouped by stage and sorted by time.

    The stage of the oldest folder comes first, which is the order in which a chain is made. Folders
    whose names are not those of artifacts are ignored, and so is a folder that is removed during
    the call.
    """
    entries = list(_entries(ArtifactStore(root)))

    # A link counts only if it leads to an artifact: any text of a manifest may look like one.
    known = {e.fingerprint for e in entries if e.state in ("whole", "damaged")}
    linked = [replace(e, links=(e.links & known) - {e.fingerprint}) for e in entries]

    oldest: dict[str, float] = {}
    for entry in linked:
        oldest[entry.stage] = min(entry.made, oldest.get(entry.stage, entry.made))
    return sorted(linked, key=lambda e: (oldest[e.stage], e.stage, e.made, e.fingerprint))


def dependents(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """For each fingerprint, the entries that were made from it."""
    out: dict[str, list[Entry]] = {}
    for entry in entries:
        for link in entry.links:
            out.setdefault(link, []).append(entry)
    return out


def fingerprints_in(texts: Iterable[str]) -> frozenset[str]:
    """Everything in the texts that looks like a fingerprint."""
    return frozenset(found for text in texts for found in FINGERPRINT.findall(text))


def what_differs(entries: Sequence[Entry]) -> dict[Path, dict[str, Any]]:
    """In what each whole artifact differs from the others of its stage, by its path.

    These are its variant and its settings by dotted key, or its parents if only these differ. A
    stage with one whole artifact is left out. A setting that an artifact does not have counts only
    if the artifact has the same `_target_` as the others.
    """
    stages: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.state == "whole":
            stages.setdefault(entry.stage, []).append(entry)

    out: dict[Path, dict[str, Any]] = {}
    for group in stages.values():
        if len(group) == 1:
            continue
        named = ("variant", "settings")
        records = [flat({name: e.manifest.get(name, {}) for name in named}) for e in group]
        if not _differing_keys(records):
            records = [flat({"parents": e.manifest.get("parents", {})}) for e in group]
        keys = _differing_keys(records)
        for entry, record in zip(group, records, strict=True):
            out[entry.path] = {
                key.removeprefix("settings."): record[key] for key in keys if key in record
            }
    return out


def accuracies(entries: Sequence[Entry]) -> dict[str, dict[str, float]]:
    """The accuracy of each evaluated artifact by task, by the artifact's fingerprint."""
    out: dict[str, dict[str, float]] = {}
    for entry in entries:
        metrics = entry.manifest.get("metrics", {})
        found = {
            match[1]: value
            for name, value in metrics.items()
            if (match := _ACCURACY.fullmatch(name)) and isinstance(value, float)
        }
        if found:
            for parent in entry.links:
                out.setdefault(parent, {}).update(found)
    return out


def _differing_keys(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys under which the records differ, in their order."""
    keys = dict.fromkeys(key for record in records for key in record)
    changed_targets = {
        key.removesuffix("_target_")
        for key in keys
        if key.endswith("._target_") and len({str(r.get(key)) for r in records}) > 1
    }

    found = []
    for key in keys:
        values = [record[key] for record in records if key in record]
        lacks = len(values) < len(records)
        # Another function has other arguments: its name says that already.
        excused = not key.endswith("._target_") and any(key.startswith(n) for n in changed_targets)
        if (lacks and not excused) or any(value != values[0] for value in values):
            found.append(key)
    return found


def measure(folder: Path) -> tuple[int, float]:
    """The bytes of all files below a folder, and the time of the last change below it."""
    size = 0
    changed = folder.stat().st_mtime
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            # A job may go on working in the folder during this walk.
            with contextlib.suppress(FileNotFoundError):
                stat = os.lstat(Path(parent, name))
                size += stat.st_size if name in files else 0
                changed = max(changed, stat.st_mtime)
    return size, changed


def last_use(folder: Path, use: Path | None) -> float:
    """When a whole artifact was last used: when it was made, or marked in its use file later."""
    made = (folder / MANIFEST).stat().st_mtime
    return max(made, use.stat().st_mtime) if use and use.exists() else made


def _entries(store: ArtifactStore) -> Iterator[Entry]:
    for stage in _folders(store.root):
        for folder in _folders(stage):
            match = _FOLDER.fullmatch(folder.name)
            if match is None:
                continue
            # FileNotFoundError: the folder was renamed or removed in the meantime
            with contextlib.suppress(FileNotFoundError):
                yield _entry(store, stage.name, match["fp"], folder, match["kind"] or "")


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return [entry for entry in path.iterdir() if entry.is_dir() and not entry.is_symlink()]


def _entry(store: ArtifactStore, stage: str, fp: str, folder: Path, kind: str) -> Entry:
    size, changed = measure(folder)
    use = use_file(store.root, stage, fp)
    held = is_locked(use)

    if kind == ASIDE:
        return Entry(stage, fp, folder, "going", size, changed, changed, held=False)

    # The use mark alone tells whether a job makes it: a job marks an artifact before it makes it.
    if kind:
        state: State = "under way" if held else "left over"
        notes = [_progress(folder), _maker(use) if held else ""]
        note = " ".join(filter(None, notes))
        return Entry(stage, fp, folder, state, size, changed, changed, held, note=note)

    try:
        artifact = store.find(stage, fp)
    except ArtifactError as error:
        if not folder.is_dir():
            raise FileNotFoundError(folder) from error
        note = str(error).partition(" cannot be read ")[2].partition(";")[0] or "another's manifest"
        return Entry(stage, fp, folder, "damaged", size, changed, changed, held, note=note)

    if artifact is None:
        raise FileNotFoundError(folder)
    made = (folder / MANIFEST).stat().st_mtime
    used = last_use(folder, use)
    links = _links(folder)
    return Entry(
        stage, fp, folder, "whole", size, made, used, held, links, manifest=artifact.manifest
    )


def _links(folder: Path) -> frozenset[str]:
    texts = [folder / MANIFEST, folder / "model" / "adapter_config.json"]
    return fingerprints_in(path.read_text(encoding="utf-8") for path in texts if path.is_file())


def _progress(work: Path) -> str:
    """How far the work in a work folder is: its last saved step, or its number of parts."""
    names = [_STEP.fullmatch(path.name) for path in work.glob("checkpoints/*")]
    steps = [int(match[1]) for match in names if match]
    parts = sum(1 for path in work.rglob("part-*") if path.is_dir())

    found = []
    if steps:
        found.append(f"step {max(steps)}")
    if parts:
        found.append(f"{parts} parts")
    return ", ".join(found)


def _maker(use: Path) -> str:
    who = signed(use)
    return f"by process {who['process']} on {who.get('host')}" if "process" in who else ""
