"""What a person reads of a run: lines, progress bars and Markdown tables."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

LINE_SECONDS = 20.0


def say(text: str) -> None:
    """One line to the terminal, above a bar if there is one."""
    print(text, flush=True)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of text cells, one line per row, each ending in a line break.

    A vertical bar within a cell is escaped.
    """
    lines = [head, ["---"] * len(head), *rows]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines
    )


class Bar:
    """`total` units of work named `name`; `update(done, text)` shows them, `close` ends it."""

    def __init__(self, name: str, total: int, unit: str, *, wanted: bool, done: int = 0) -> None:
        self.name, self.total, self.unit = name, total, unit
        self._done = done
        self._last = time.monotonic()
        self._display: Any = None
        if wanted and sys.stdout.isatty():
            self._display = _display(unit)
            self._display.start()
            self._task = self._display.add_task(name, total=total, completed=done, text="")

    def update(self, done: int, text: str = "") -> None:
        if self._display is not None:
            self._display.update(self._task, completed=done, text=text)
            return
        now = time.monotonic()
        if now - self._last >= LINE_SECONDS:
            self._last = now
            say(f"  {self.name}: {done}/{self.total} {self.unit}" + (f", {text}" if text else ""))

    def advance(self, count: int) -> None:
        """Shows `count` more units as done."""
        self._done += count
        self.update(self._done)

    def close(self) -> None:
        if self._display is not None:
            self._display.stop()
            self._display = None


def _display(unit: str) -> Any:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description:8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
