"""The tables of peers as Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.peers.base import OURS
from benchmarks.peers.operators import as_table
from benchmarks.peers.rotation import RUN, Row
from rlmec.runtime.display import markdown_table

HEAD = ("peer", "computes", "layers", "head", "calls", "tokens per CPU s", "tokens per s")
HEAD += ("CPU time, ours = 1", "difference")


@dataclass(frozen=True)
class Table:
    """The rows of one job. Times are per run for training, per useful token otherwise."""

    kind: str
    case: str
    rows: list[Row]
    operators: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def ours(self) -> Row:
        return next(row for row in self.rows if row.peer.name == OURS)

    def ratios(self, row: Row) -> list[float]:
        """Return a row's CPU time over ours, one value per round."""
        return row.ratios(self.ours, per_token=self.kind != "training")


def cells(row: Row, table: Table) -> list[str]:
    """Return the cells of a row; one that did not run has its state in the last one."""
    if row.state != RUN:
        return [row.peer.name, row.peer.about, *[""] * 6, row.state]
    return [
        row.peer.name,
        row.peer.about,
        _count(row.layers),
        _count(row.head),
        _count(row.calls),
        spread(row.rates("cpu"), ".0f"),
        spread(row.rates("wall"), ".0f"),
        spread(table.ratios(row), ".2f"),
        "" if row.error is None else f"{row.error:.0e}{'' if row.is_equal else ' WRONG'}",
    ]


def spread(values: Sequence[float], form: str) -> str:
    """Return the median and, for more than one value, the range in brackets."""
    if not values:
        return ""
    shown = f"{median(values):{form}}"
    if len(values) == 1:
        return shown
    return f"{shown} ({min(values):{form}} to {max(values):{form}})"


def as_markdown(tables: Sequence[Table], about: dict[str, Any]) -> str:
    """Return all tables below a line that names the network and the machine.

    Columns that are empty in all rows of a table are left out.
    """
    kind = about["gpu"] or about["processor"]
    out = [
        f"{about['name']}, {about['precision']}, seed {about['seed']}, {about['repeats']} rounds; "
        f"{kind}, {about['threads']} of {about['cores']} threads, load {about['load']}, torch "
        f"{about['torch']}, transformers {about['transformers']}; pairs: "
        f"{about['pairs']['source']}\n"
    ]
    for table in tables:
        out.append(f"### {table.kind}: {table.case}\n")
        lines = [cells(row, table) for row in table.rows]
        kept = [i for i in range(len(HEAD)) if any(line[i] for line in lines)]
        out.append(
            markdown_table([HEAD[i] for i in kept], [[line[i] for i in kept] for line in lines])
        )
        if table.operators:
            out.append(as_table(table.operators))
    return "\n".join(out)


def as_json(tables: Sequence[Table], about: dict[str, Any]) -> str:
    """Return `about` and the figures of every run of every row."""
    lines = []
    for table in tables:
        for row in table.rows:
            figures = {k: v for k, v in vars(row).items() if k != "peer"}
            given = {"kind": table.kind, "case": table.case, "peer": row.peer.name}
            given |= {"about": row.peer.about, "loss": row.peer.loss, "equals": row.peer.equals}
            has_run = row.state == RUN and table.ours.state == RUN
            ratios = table.ratios(row) if has_run else []
            times = table.operators.get(row.peer.name, {})
            verdict = {"ratios": ratios, "is_equal": row.is_equal, "operators": times}
            lines.append(given | figures | verdict)
    return json.dumps(about | {"results": lines}, indent=1) + "\n"


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
