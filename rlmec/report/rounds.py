"""The table of an online run: a line a round, what it sampled, corrected and trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class RoundLine:
    """One round. Shares of 1: of right attempts among those sampled at its start (train problems),
    of penalties that the trusted corrections confirm, of dev and of test problems solved at its
    end; None where that was not measured. `corrected` counts accepted corrections."""

    round: int
    attempts: int
    sampled_accuracy: float | None
    corrected: int
    credit_precision: float | None
    updates: int
    dev_accuracy: float | None
    accuracy: float | None


HEAD = ("round", "attempts", "right", "corrected", "credit precision", "updates", "dev", "accuracy")


def rounds_table(lines: Sequence[RoundLine]) -> str:
    """A Markdown table; what was not measured is left empty."""
    rows = [HEAD, ["---"] * len(HEAD), *map(_cells, lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cells(line: RoundLine) -> list[str]:
    return [
        str(line.round),
        str(line.attempts),
        _percent(line.sampled_accuracy),
        str(line.corrected),
        "" if line.credit_precision is None else f"{line.credit_precision:.3f}",
        str(line.updates),
        _percent(line.dev_accuracy),
        _percent(line.accuracy),
    ]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"
