"""What lies in a store of artifacts: their state, size, age, and what was made from what.

In: the store's folder, read as it is, without importing a model library. Out: one `Entry` for each
artifact and each work folder. Nothing is changed: locks are tried and let go at once. Two artifacts
are linked where the manifest of one (or the settings of its adapter) names the fingerprint of the
other: as a parent, or in the path of a model that it started from.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rlmec.store.artifacts import MANIFEST, ArtifactError, ArtifactStore
from rlmec.store.locks import (
    FINGERPRINT,
    is_locked,
    signed,
    use_file,
)

State = Literal["whole", "under way", "left over", "damaged", "going"]
ASIDE = ".gone-"
"""How a folder is named that `prune` has put aside and not yet deleted."""
_FOLDER = re.compile(r"(?P<kind>\.work-|\.gone-)?(?P<fp>[0-9a-f]{20})(?:-\d+)?")
_STEP = re.compile(r"step-(\d+)\.ckpt")
ORDER = ("warmup", "sample", "teach", "grm", "score", "policy", "evaluate", "report")


@dataclass(frozen=True)
class Entry:
    """A folder of the store. `size` in bytes; `made` and `used` in seconds since the epoch (of
    what is not whole: the time of its last change); `links` are fingerprints of what it was made
    from; `held` is True where a running job has it in its hands."""

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

    @property
    def title(self) -> str:
        return f"{self.stage}/{self.fingerprint}"


def look(root: Path) -> list[Entry]:
    """All entries below `root`, by stage in the order of the chain, then by time. Folders that are
    not named like artifacts are passed over; a folder that goes away meanwhile is left out."""
    found = list(_entries(ArtifactStore(root)))
    known = {e.fingerprint for e in found if e.state in ("whole", "damaged")}
    kept = [_linked(e, known) for e in found]
    return sorted(kept, key=lambda e: (_place(e.stage), e.stage, e.made, e.fingerprint))


def _place(stage: str) -> int:
    return ORDER.index(stage) if stage in ORDER else len(ORDER)


def _linked(entry: Entry, known: set[str]) -> Entry:
    return replace(entry, links=(entry.links & known) - {entry.fingerprint})


def _entries(store: ArtifactStore) -> Iterator[Entry]:
    for stage in _folders(store.root):
        for folder in _folders(stage):
            if match := _FOLDER.fullmatch(folder.name):
                try:
                    yield _entry(store, stage.name, match["fp"], folder, match["kind"] or "")
                except FileNotFoundError:
                    continue  # renamed or removed while we looked


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return [entry for entry in path.iterdir() if entry.is_dir() and not entry.is_symlink()]


def _entry(store: ArtifactStore, stage: str, fp: str, folder: Path, kind: str) -> Entry:
    size, changed = measured(folder)
    use = use_file(store.root, stage, fp)
    held, making = is_locked(use), is_locked(store.root / stage / f".lock-{fp}")
    if kind == ".gone-":
        return Entry(stage, fp, folder, "going", size, changed, changed, False)
    if kind:
        state: State = "under way" if making else "left over"
        note = " ".join(filter(None, (_progress(folder), _by_whom(use) if making else "")))
        return Entry(stage, fp, folder, state, size, changed, changed, held or making, note=note)
    try:
        store.find(stage, fp)
    except ArtifactError as error:
        if not folder.is_dir():
            raise FileNotFoundError(folder) from error
        note = str(error).partition(" cannot be read ")[2].partition(";")[0] or "another's manifest"
        return Entry(stage, fp, folder, "damaged", size, changed, changed, held, note=note)
    made = (folder / MANIFEST).stat().st_mtime
    used = max(made, use.stat().st_mtime) if use.exists() else made
    return Entry(stage, fp, folder, "whole", size, made, used, held, _links(folder))


def measured(folder: Path) -> tuple[int, float]:
    """Bytes of the files below a folder, and when anything in it was last changed."""
    size, changed = 0, folder.stat().st_mtime
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            with contextlib.suppress(FileNotFoundError):  # of work that goes on while we look
                stat = os.lstat(Path(parent, name))
                size += stat.st_size if name in files else 0
                changed = max(changed, stat.st_mtime)
    return size, changed


def _links(folder: Path) -> frozenset[str]:
    texts = [folder / MANIFEST, folder / "model" / "adapter_config.json"]
    return mentioned(path.read_text(encoding="utf-8") for path in texts if path.is_file())


def mentioned(texts: Iterable[str]) -> frozenset[str]:
    """What looks like a fingerprint in the texts."""
    return frozenset(found for text in texts for found in FINGERPRINT.findall(text))


def _progress(work: Path) -> str:
    steps = [int(m[1]) for p in work.glob("checkpoints/*") if (m := _STEP.fullmatch(p.name))]
    parts = sum(1 for p in work.rglob("part-*") if p.is_dir())
    found = [f"step {max(steps)}"] if steps else []
    return ", ".join([*found, f"{parts} parts"] if parts else found)


def _by_whom(use: Path) -> str:
    who = signed(use)
    return f"by process {who['process']} on {who.get('host')}" if "process" in who else ""


def dependents(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """For each fingerprint the entries that were made from it."""
    out: dict[str, list[Entry]] = {}
    for entry in entries:
        for link in entry.links:
            out.setdefault(link, []).append(entry)
    return out
