"""The commands `stage=status` and `stage=prune`: show a store of artifacts, and remove from it.

In: the settings, and a function that lists the addresses which the settings name. That function
imports the stages, so it is called only after the store has been read. Out: a table on a terminal,
plain lines elsewhere; with `prune.dry_run=false` a smaller store.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlmec.runtime.display import say
from rlmec.runtime.ranks import launched_outside
from rlmec.settings.binding import ConfigurationError
from rlmec.settings.schema import RunSettings, as_plain
from rlmec.store.inventory import (
    Entry,
    accuracies,
    dependents,
    fingerprints_in,
    list_entries,
    what_differs,
)
from rlmec.store.prune import DAY, reasons_to_keep, removal_order, remove

STATUS = "status"
PRUNE = "prune"
PLAN = "plan"
"""`stage=plan` makes nothing: it says what the run would need."""
MOST_SETTINGS = 6
"""Settings that one line of differences shows."""
LONGEST_VALUE = 40
COLUMNS = ("stage", "fingerprint", "state", "size", "made", "used", "made from", "needed by")


@dataclass(frozen=True)
class Named:
    """An artifact of the chain that a configuration describes: its title and its address."""

    title: str
    stage: str
    fingerprint: str


Names = Callable[[RunSettings], list[Named]]
"""Lists the artifacts that a configuration describes; OSError or ValueError if it cannot."""


def run_store_command(settings: RunSettings, names: Callable[[], Names]) -> None:
    """Run `settings.stage`, which is `status` or `prune`.

    Raises ConfigurationError if several processes were launched, or if prune cannot list what the
    configuration names.
    """
    if launched_outside():
        raise ConfigurationError(
            f"stage={settings.stage} runs in one process: start it without torchrun or SLURM"
        )
    if settings.stage == STATUS:
        status(settings, names)
    else:
        prune(settings, names)


def status(settings: RunSettings, names: Callable[[], Names]) -> None:
    """Show the store, what tells its artifacts apart, and the chain of this configuration."""
    root = Path(settings.paths.artifacts)
    entries = list_entries(root)
    if entries:
        show(entries, time.time())
    say(f"{root}: {summed(entries)}")
    show_differences(entries)

    try:
        chain = names()(settings)
    except (OSError, ValueError) as error:
        say(f"cannot list what this configuration names: {error}")
        return

    # An address may have a work folder and a folder put aside; the artifact itself counts first.
    states: dict[tuple[str, str], str] = {}
    for entry in entries:
        address = (entry.stage, entry.fingerprint)
        if address not in states or entry.state in ("whole", "damaged"):
            states[address] = entry.state
    say("this configuration names:")
    width = max(len(named.title) for named in chain)
    for named in chain:
        state = states.get((named.stage, named.fingerprint), "not made yet")
        say(f"  {named.title:{width}}  {named.fingerprint}  {state}")


def prune(settings: RunSettings, names: Callable[[], Names]) -> None:
    """Remove what nothing needs; with `prune.dry_run` only say what would be removed."""
    root = Path(settings.paths.artifacts)
    dry_run = settings.prune.dry_run
    try:
        chain = names()(settings)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"stage=prune must know what this configuration names, and cannot list it: {error}"
        ) from error

    # The store is read after the addresses are known, which may take a while.
    entries = list_entries(root)
    now = time.time()
    named = {(n.stage, n.fingerprint) for n in chain}
    mentioned = fingerprints_in([json.dumps(as_plain(settings), default=str)])
    kept = reasons_to_keep(entries, named, mentioned, settings.prune, now)

    gone: list[Entry] = []
    for entry in removal_order([e for e in entries if e.path not in kept]):
        stays = "" if dry_run else remove(root, entry)
        if stays:
            say(f"kept after all, {stays}: {_line(entry, now)}")
            continue
        say(f"{'would remove' if dry_run else 'removed'}: {_line(entry, now)}")
        gone.append(entry)

    for why, count in Counter(map(_kind_of_reason, kept.values())).most_common():
        say(f"kept because {why}: {count}")
    if dry_run:
        say(f"would remove {summed(gone)} of {summed(entries)}: set prune.dry_run=false to do it")
    else:
        say(f"removed {summed(gone)} of {summed(entries)} from {root}")


def _kind_of_reason(reason: str) -> str:
    """The reason without what is particular to one entry, in words that follow "because"."""
    if reason.endswith("was made from it"):
        return "something that is kept was made from it"
    return f"it was {reason}" if reason.startswith("used") else reason


def _line(entry: Entry, now: float) -> str:
    shown = f"{entry.title}, {entry.state}, {size_of(entry.size)}, used {age_of(now - entry.used)}"
    return f"{shown} ({entry.note})" if entry.note else shown


# --- the table of a store ---


def summed(entries: Sequence[Entry]) -> str:
    """The number of entries and their size."""
    count = f"{len(entries)} folder{'' if len(entries) == 1 else 's'}"
    return f"{count} ({size_of(sum(e.size for e in entries))})"


def show(entries: Sequence[Entry], now: float) -> None:
    """Print the entries as a table on a terminal, and as aligned lines elsewhere."""
    below = dependents(entries)
    stages = {e.fingerprint: e.stage for e in entries}
    rows = [_cells(e, below.get(e.fingerprint, []), stages, now) for e in entries]
    if sys.stdout.isatty():
        _table(rows)
        return

    widths = [max(len(row[i]) for row in [COLUMNS, *rows]) for i in range(len(COLUMNS))]
    for row in [COLUMNS, *rows]:
        say("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())


def show_differences(entries: Sequence[Entry]) -> None:
    """Print a line per artifact of a stage that has several: what distinguishes it, its accuracy.

    The accuracy is that of its evaluations, or else that of the validation of its fit.
    """
    differing = what_differs(entries)
    judged = accuracies(entries)
    if differing:
        say("artifacts of one stage differ in:")
    for entry in entries:
        if entry.path not in differing:
            continue
        settings = differing[entry.path].items()
        found = [_setting(key, value) for key, value in settings if value != ""]
        if len(found) > MOST_SETTINGS:
            found[MOST_SETTINGS:] = [f"and {len(found) - MOST_SETTINGS} more"]

        scores = {f"{task} accuracy": v for task, v in judged.get(entry.fingerprint, {}).items()}
        validated = entry.manifest.get("metrics", {}).get("dev/accuracy")
        if not scores and isinstance(validated, float):
            scores = {"dev accuracy": validated}
        found += [f"{name} {value:.4f}" for name, value in scores.items()]
        say(f"  {entry.stage}/{entry.fingerprint[:8]}  {'  '.join(found)}".rstrip())


def _setting(key: str, value: object) -> str:
    """A setting in a few words; a `_target_` by the name of its function."""
    if key.endswith("._target_"):
        return f"{key.removesuffix('._target_')}={str(value).rpartition('.')[2]}"
    if key.startswith("parents."):
        return f"{key.removeprefix('parents.')}/{str(value)[:8]}"
    shown = value if isinstance(value, str) else json.dumps(value)
    return f"{key}={shown[:LONGEST_VALUE]}"


def _table(rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold")
    for name in COLUMNS:
        table.add_column(name, justify="right" if name == "size" else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # Text: rich must not read markup in a text of a manifest
    Console().print(table)


def _cells(
    entry: Entry, below: Sequence[Entry], stages: dict[str, str], now: float
) -> tuple[str, ...]:
    state = f"{entry.state}, in use" if entry.held and entry.state == "whole" else entry.state
    parents = sorted((stages[link], link[:8]) for link in entry.links)
    if 0 < len(parents) <= 3:
        made_from = ", ".join("/".join(parent) for parent in parents)
    else:
        made_from = _counted(Counter(stage for stage, _ in parents))
    return (
        entry.stage,
        entry.fingerprint,
        f"{state} ({entry.note})" if entry.note else state,
        size_of(entry.size),
        age_of(now - entry.made),
        age_of(now - entry.used),
        made_from,
        _counted(Counter(e.stage for e in below)),
    )


def _counted(stages: Counter[str]) -> str:
    return ", ".join(f"{count} {stage}" for stage, count in sorted(stages.items())) or "-"


def size_of(count: float) -> str:
    """A number of bytes in the largest unit of which there is at least one."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"


def age_of(seconds: float) -> str:
    """An age in its largest unit, such as "3 d ago"."""
    for unit, length in (("d", DAY), ("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(seconds, 0.0):.0f} s ago"
