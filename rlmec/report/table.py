"""The closing table as text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Line:
    """One judged model: accuracy with its 95 % interval, what its training took, and the exact
    McNemar p-value against the start on the same problems."""

    name: str
    accuracy: float
    low: float
    high: float
    problems: int
    updates: int | None
    seconds: float | None
    p_value: float | None


def markdown(lines: list[Line], credit: dict[str, Any], notes: list[str]) -> str:
    """A Markdown table of the lines, then credit quality and notes."""
    out = ["| model | accuracy | 95 % interval | against start | p | updates | seconds |"]
    out.append("|---|---|---|---|---|---|---|")
    start = lines[0].accuracy
    for line in lines:
        gain = "" if line is lines[0] else f"{100 * (line.accuracy - start):+.1f}"
        p = "" if line.p_value is None else f"{line.p_value:.2g}"
        updates = "" if line.updates is None else str(line.updates)
        seconds = "" if line.seconds is None else f"{line.seconds:.0f}"
        out.append(
            f"| {line.name} | {100 * line.accuracy:.1f} % | {100 * line.low:.1f} to "
            f"{100 * line.high:.1f} | {gain} | {p} | {updates} | {seconds} |"
        )
    out.append(f"\n{lines[0].problems} unseen problems.")
    if credit:
        out.append("\n| credit of wrong attempts outside the GRM's training | |\n|---|---|")
        for name, value in credit.items():
            shown = f"{value:.3f}" if isinstance(value, float) else str(value)
            out.append(f"| {name} | {shown} |")
    return "\n".join([*out, *(f"\n{note}" for note in notes)]) + "\n"
