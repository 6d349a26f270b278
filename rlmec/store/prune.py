"""What can go from a store, and its removal.

In: the entries of a store (`inventory`), the addresses that the present configuration names. Out:
for each entry why it is kept, or that it goes; and the removal, after which nothing half removed
can pass for whole: a folder is renamed aside under the locks of its makers and users, and only then
deleted. What a kill leaves aside is deleted by the next call.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from rlmec.settings.schema import PruneSettings
from rlmec.store.atomic import sync
from rlmec.store.inventory import (
    ASIDE,
    Entry,
    dependents,
    measured,
)
from rlmec.store.locks import alone, use_file

SAFETY = 3600.0
"""Seconds for which nothing is removed after its last use, whatever the settings say."""
DAY = 86400.0


def reasons(
    entries: Sequence[Entry],
    named: Collection[tuple[str, str]],
    mentioned: Collection[str],
    settings: PruneSettings,
    now: float,
) -> dict[Path, str]:
    """Why each entry is kept, by its path; what can go has no reason.

    Kept is what a running job holds, what the configuration names (`named`: stages with
    fingerprints; `mentioned`: fingerprints in its paths), what was used within `keep_days`
    (work folders: changed within `work_days`), and whatever something kept was made from.
    """
    kept = {
        e.path: why for e in entries if (why := _own_reason(e, named, mentioned, settings, now))
    }
    by_fp: dict[str, list[Entry]] = {}
    for entry in entries:
        by_fp.setdefault(entry.fingerprint, []).append(entry)
    todo = [e for e in entries if e.path in kept]
    while todo:
        child = todo.pop()
        for link in child.links:
            for parent in by_fp.get(link, ()):
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
    """Why an entry is kept for itself; empty where it is not."""
    if entry.state == "going":
        return ""
    if entry.held:
        return "a running job has it in hand"
    if now - entry.used < SAFETY:
        return "used within the hour"
    if entry.state == "damaged":
        return ""
    if (entry.stage, entry.fingerprint) in named or entry.fingerprint in mentioned:
        return "this configuration names it"
    days = settings.keep_days if entry.state == "whole" else settings.work_days
    return f"used within {days:g} days" if now - entry.used < days * DAY else ""


def removal_order(entries: Sequence[Entry]) -> list[Entry]:
    """Entries in an order in which each goes before what it was made from, wherever links are no
    circle; the newest first otherwise."""
    below, todo = dependents(entries), sorted(entries, key=lambda e: -e.made)
    out: list[Entry] = []
    gone: set[Path] = set()
    while todo:
        free = [e for e in todo if all(d.path in gone for d in below.get(e.fingerprint, ()))]
        out += (step := free or todo[:1])
        gone |= {e.path for e in step}
        todo = [e for e in todo if e.path not in gone]
    return out


def remove(root: Path, entry: Entry) -> str:
    """Removes an entry; returns why it was left where a job has taken it up meanwhile, else ""."""
    if entry.state == "going":
        shutil.rmtree(entry.path, ignore_errors=True)
        return ""
    stage = root / entry.stage
    aside = stage / f"{ASIDE}{entry.fingerprint}-{time.time_ns()}"
    lock = FileLock(stage / f".lock-{entry.fingerprint}")
    use = use_file(root, entry.stage, entry.fingerprint)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return "a job is making it"
    try:
        last = _last_use(entry, use)
        with alone(use) as nobody:
            if not nobody:
                return "a job has it in hand"
            if last > entry.used:
                return "it was used meanwhile"
            os.rename(entry.path, aside)
            sync(stage)
            use.unlink(missing_ok=True)
    except FileNotFoundError:
        return "it is gone already"
    finally:
        lock.release()
    shutil.rmtree(aside)
    return ""


def _last_use(entry: Entry, use: Path) -> float:
    """When the entry was last used, as of now."""
    if entry.state != "whole":
        return measured(entry.path)[1]
    return max(entry.made, use.stat().st_mtime) if use.exists() else entry.made
