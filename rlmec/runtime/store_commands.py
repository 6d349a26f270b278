"""The doors `status` and `prune`: what lies in the store of artifacts, and what can go from it.

In: the settings, and what tells the addresses that they name (which needs the stages, and is asked
only when the store has been read). Out: a table on a terminal, plain lines elsewhere; with
`prune.dry_run=false` a smaller store.
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
    dependents,
    fingerprints_in,
    list_entries,
)
from rlmec.store.prune import (
    DAY,
    reasons_to_keep,
    removal_order,
    remove,
)

STATUS, PRUNE = "status", "prune"
COLUMNS = ("stage", "fingerprint", "state", "size", "made", "used", "made from", "needed by")


@dataclass(frozen=True)
class Named:
    """An artifact of the chain that a configuration describes: its title and its address."""

    title: str
    stage: str
    fingerprint: str


Names = Callable[[RunSettings], list[Named]]


def keep(settings: RunSettings, names: Callable[[], Names]) -> None:
    """Opens the door `settings.stage`; `names` gives what tells the configuration's addresses, and
    is called late, as it imports the stages.

    Raises ConfigurationError where several processes were launched, and where prune cannot learn
    what the configuration names.
    """
    if launched_outside():
        raise ConfigurationError(f"stage={settings.stage} is for one process alone")
    (status if settings.stage == STATUS else prune)(settings, names)


def status(settings: RunSettings, names: Callable[[], Names]) -> None:
    """Shows the store, then the chain of this configuration with what is made of it."""
    root = Path(settings.paths.artifacts)
    entries, now = list_entries(root), time.time()
    if entries:
        show(entries, now)
    say(f"{root}: {summed(entries)}")
    try:
        chain = names()(settings)
    except (OSError, ValueError) as error:
        say(f"what this configuration names cannot be told: {error}")
        return
    states: dict[tuple[str, str], str] = {}
    for entry in entries:
        states.setdefault((entry.stage, entry.fingerprint), entry.state)
        if entry.state in ("whole", "damaged"):
            states[entry.stage, entry.fingerprint] = entry.state
    say("this configuration names:")
    width = max(len(named.title) for named in chain)
    for named in chain:
        state = states.get((named.stage, named.fingerprint), "not made yet")
        say(f"  {named.title:{width}}  {named.fingerprint}  {state}")


def prune(settings: RunSettings, names: Callable[[], Names]) -> None:
    """Removes what nothing needs, or says what would go."""
    root, dry = Path(settings.paths.artifacts), settings.prune.dry_run
    try:
        chain = names()(settings)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"stage=prune has to know what this configuration names: {error}"
        ) from error
    # looked up after the addresses, so that what was made meanwhile is seen
    entries, now = list_entries(root), time.time()
    named = {(n.stage, n.fingerprint) for n in chain}
    texts = [json.dumps(as_plain(settings), default=str)]
    kept = reasons_to_keep(entries, named, fingerprints_in(texts), settings.prune, now)
    going = removal_order([e for e in entries if e.path not in kept])
    gone: list[Entry] = []
    for entry in going:
        left = "" if dry else remove(root, entry)
        what = f"stays after all: {left}" if left else "would go" if dry else "removed"
        say(f"{what}: {_line(entry, now)}")
        gone += [] if left else [entry]
    for why, count in Counter(map(_kind_of_reason, kept.values())).most_common():
        say(f"kept, as {why}: {count}")
    if dry:
        say(f"{summed(gone)} of {summed(entries)} would go; prune.dry_run=false removes them")
    else:
        say(f"{summed(gone)} of {summed(entries)} removed from {root}")


def _kind_of_reason(reason: str) -> str:
    return "a kept one was made from it" if reason.endswith("was made from it") else reason


def _line(entry: Entry, now: float) -> str:
    shown = f"{entry.title}, {entry.state}, {size_of(entry.size)}, used {age_of(now - entry.used)}"
    return f"{shown} ({entry.note})" if entry.note else shown


def summed(entries: Sequence[Entry]) -> str:
    count = f"{len(entries)} folder{'' if len(entries) == 1 else 's'}"
    return f"{count} ({size_of(sum(e.size for e in entries))})"


def show(entries: Sequence[Entry], now: float) -> None:
    """The entries as a table on a terminal, as aligned lines elsewhere."""
    below, stages = dependents(entries), {e.fingerprint: e.stage for e in entries}
    rows = [_cells(e, below.get(e.fingerprint, []), stages, now) for e in entries]
    if sys.stdout.isatty():
        _table(rows)
        return
    widths = [max(len(row[i]) for row in [COLUMNS, *rows]) for i in range(len(COLUMNS))]
    for row in [COLUMNS, *rows]:
        say("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())


def _table(rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold")
    for name in COLUMNS:
        table.add_column(name, justify="right" if name == "size" else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # Text: what a manifest says is no markup
    Console().print(table)


def _cells(
    entry: Entry, below: Sequence[Entry], stages: dict[str, str], now: float
) -> tuple[str, ...]:
    state = f"{entry.state}, in use" if entry.held and entry.state == "whole" else entry.state
    above = sorted((stages[link], link[:8]) for link in entry.links)
    few = ", ".join("/".join(link) for link in above) if len(above) <= 3 else ""
    return (
        entry.stage,
        entry.fingerprint,
        f"{state} ({entry.note})" if entry.note else state,
        size_of(entry.size),
        age_of(now - entry.made),
        age_of(now - entry.used),
        few or _counted(Counter(stage for stage, _ in above)),
        _counted(Counter(e.stage for e in below)),
    )


def _counted(stages: Counter[str]) -> str:
    return ", ".join(f"{count} {stage}" for stage, count in sorted(stages.items())) or "-"


def size_of(count: float) -> str:
    """Bytes in the largest unit in which there is at least one."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while count >= 1024 and len(units) > 1:
        count /= 1024
        del units[0]
    return f"{count:.0f} B" if units[0] == "B" else f"{count:.1f} {units[0]}"


def age_of(seconds: float) -> str:
    """A duration in its largest unit, as "3 d ago"."""
    for unit, length in (("d", DAY), ("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(seconds, 0.0):.0f} s ago"
