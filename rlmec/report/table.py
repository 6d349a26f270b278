"""The closing table as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Line:
    """One judged model: accuracy with its 95 % interval, what its training took, and the exact
    McNemar p-values against the start and against the policy on the same problems."""

    name: str
    accuracy: float
    low: float
    high: float
    problems: int
    updates: int | None
    seconds: float | None
    p_value: float | None
    p_value_policy: float | None = None
    flexible: float | None = None


def markdown(
    lines: list[Line],
    credit: dict[str, Any],
    notes: list[str],
    others: Mapping[str, Sequence[Line]] | None = None,
) -> str:
    """A Markdown table of the lines (the start first, the policy last), then one for each of the
    `others`, tasks judged beside that of training, then credit quality and notes."""
    out = [*_table(lines), f"\n{lines[0].problems} unseen problems."]
    for task, judged in (others or {}).items():
        out += [f"\nOn {task}, {judged[0].problems} problems:\n", *_table(judged)]
    if credit:
        out.append("\n| credit of wrong attempts outside the GRM's training | |\n|---|---|")
        for name, value in credit.items():
            shown = f"{value:.3f}" if isinstance(value, float) else str(value)
            out.append(f"| {name} | {shown} |")
    return "\n".join([*out, *(f"\n{note}" for note in notes)]) + "\n"


def _table(lines: Sequence[Line]) -> list[str]:
    last = lines[-1].name
    head = ["model", "accuracy", "95 % interval", "against start", "p", f"p against {last}"]
    head += ["updates", "seconds"]
    rows = [head, ["---"] * len(head), *(_cells(line, lines[0]) for line in lines)]
    return [f"| {' | '.join(row)} |" for row in rows]


def _cells(line: Line, start: Line) -> list[str]:
    return [
        line.name,
        f"{100 * line.accuracy:.1f} %",
        f"{100 * line.low:.1f} to {100 * line.high:.1f}",
        "" if line is start else f"{100 * (line.accuracy - start.accuracy):+.1f}",
        "" if line.p_value is None else f"{line.p_value:.2g}",
        "" if line.p_value_policy is None else f"{line.p_value_policy:.2g}",
        "" if line.updates is None else str(line.updates),
        "" if line.seconds is None else f"{line.seconds:.0f}",
    ]
