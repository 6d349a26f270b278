"""Which entries of a store may be removed, and their removal.

In: the entries of a store (`inventory`) and the addresses that the present configuration names.
Out: for each entry that is kept the reason, and the removal of the others. A folder that is
half removed can never be taken for a whole one: it is renamed while its use file is locked, and
deleted only then. The next call deletes what a killed call has renamed.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from rlmec.settings.schema import PruneSettings
from rlmec.store.atomic import rename_folder
from rlmec.store.inventory import ASIDE, Entry, dependents, last_use, measure
from rlmec.store.locks import lock_alone, use_file

SAFETY = 3600.0
"""Seconds after its last use in which nothing is removed, whatever the settings say."""
DAY = 86400.0


def reasons_to_keep(
    entries: Sequence[Entry],
    named: Collection[tuple[str, str]],
    mentioned: Collection[str],
    settings: PruneSettings,
    now: float,
) -> dict[Path, str]:
    """Why each entry is kept, by its path. An entry that may be removed is not in the result.

    An entry is kept if a running job uses it; if the configuration names it (`named`: stages with
    fingerprints; `mentioned`: fingerprints in its paths); if it was used within `keep_days` (a work
    folder: changed within `work_days`); or if something that is kept was made from it.
    """
    kept: dict[Path, str] = {}
    by_fingerprint: dict[str, list[Entry]] = {}
    for entry in entries:
        by_fingerprint.setdefault(entry.fingerprint, []).append(entry)
        reason = _own_reason(entry, named, mentioned, settings, now)
        if reason:
            kept[entry.path] = reason

    # What is kept keeps its parents, and these keep theirs.
    todo = [e for e in entries if e.path in kept]
    while todo:
        child = todo.pop()
        for link in child.links:
            for parent in by_fingerprint.get(link, ()):
                if parent.path not in kept and parent.state != "going":
                    kept[parent.path] = f"{child.stage}/{child.fingerprint[:8]} was made from it"
                    todo.append(parent)
    return kept


def _own_reason(
    entry: Entry,
    named: Collection[tuple[str, str]],
    mentioned: Collection[str],
    settings: PruneSettings,
    now: float,
) -> str:
    """Why an entry is kept, apart from what was made from it; empty if there is no reason."""
    if entry.state == "going":
        return ""
    if entry.held:
        return "a running job uses it"
    if now - entry.used < SAFETY:
        return "used within the hour"
    if entry.state == "damaged":
        return ""
    if (entry.stage, entry.fingerprint) in named or entry.fingerprint in mentioned:
        return "this configuration names it"

    days = settings.keep_days if entry.state == "whole" else settings.work_days
    return f"used within {days:g} days" if now - entry.used < days * DAY else ""


def removal_order(entries: Sequence[Entry]) -> list[Entry]:
    """The entries in an order in which each comes before what it was made from.

    Among entries without such a relation, the newest comes first. Links in a circle, which only
    damaged manifests can have, are broken at the newest entry.
    """
    below = dependents(entries)
    todo = sorted(entries, key=lambda e: -e.made)
    order: list[Entry] = []
    gone: set[Path] = set()
    while todo:
        free = [e for e in todo if all(d.path in gone for d in below.get(e.fingerprint, ()))]
        step = free or todo[:1]
        order += step
        gone |= {e.path for e in step}
        todo = [e for e in todo if e.path not in gone]
    return order


def remove(root: Path, entry: Entry) -> str:
    """Remove an entry, and return "".

    If a job has used the entry since it was listed, the entry stays, and the reason is returned.
    """
    if entry.state == "going":
        shutil.rmtree(entry.path, ignore_errors=True)
        return ""

    aside = root / entry.stage / f"{ASIDE}{entry.fingerprint}-{time.time_ns()}"
    use = use_file(root, entry.stage, entry.fingerprint)
    marked = use.exists()  # before the lock, which creates the file
    try:
        with lock_alone(use) as is_alone:
            if not is_alone:
                return "a running job uses it"
            if _last_use(entry, use if marked else None) > entry.used:
                return "it was used meanwhile"
            rename_folder(entry.path, aside)
    except FileNotFoundError:
        return "it is gone already"

    # The lock is free again: a job that waited for it sees that the artifact is gone.
    shutil.rmtree(aside)
    return ""


def _last_use(entry: Entry, use: Path | None) -> float:
    """When an entry was last used (a folder that is not whole: last changed), as of now."""
    if entry.state == "whole":
        return last_use(entry.path, use)
    return measure(entry.path)[1]
