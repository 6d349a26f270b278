"""What a run shows: lines, progress bars and Markdown tables."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

LINE_SECONDS = 20.0
"""Seconds between two lines of progress where there is no terminal."""


def say(text: str) -> None:
    """Print one line; on a terminal it appears above a progress bar."""
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
    """The progress of `total` units of the work `name`, of which `done` are done at the start.

    On a terminal it is a bar if `wanted`; otherwise a line is printed every LINE_SECONDS. A unit
    can take minutes: `within` shows how far the current one is.
    """

    _open: ClassVar[list[Bar]] = []

    def __init__(self, name: str, total: int, unit: str, *, wanted: bool, done: int = 0) -> None:
        self.name = name
        self.total = total
        self.unit = unit
        self._done = done
        self._text = ""
        self._last = time.monotonic()
        self._display: Any = None
        if wanted and sys.stdout.isatty():
            self._display = _display(unit)
            self._display.start()
            self._task = self._display.add_task(name, total=total, completed=done, text="")
        self._open.append(self)

    def update(self, done: int, text: str = "") -> None:
        """Show that `done` units are done, with a text next to the count."""
        self._done = done
        self._text = text
        self._show(text)

    def advance(self, count: int) -> None:
        """Show that `count` more units are done."""
        self.update(self._done + count)

    def close(self) -> None:
        """Remove the bar from the terminal; may be called twice."""
        if self in self._open:
            self._open.remove(self)
        if self._display is not None:
            self._display.stop()
            self._display = None

    def _show(self, text: str) -> None:
        if self._display is not None:
            self._display.update(self._task, completed=self._done, text=text)
            return
        now = time.monotonic()
        if now - self._last >= LINE_SECONDS:
            self._last = now
            count = f"{self._done}/{self.total} {self.unit}"
            say(f"  {self.name}: {count}" + (f", {text}" if text else ""))


def within(done: int, total: int, what: str) -> None:
    """Show on the open bar how far its current unit is, such as "212/512 completions".

    Nothing is shown where no bar is open. Long loops below a stage call this.
    """
    if Bar._open:
        bar = Bar._open[-1]
        bar._show(", ".join(filter(None, [bar._text, f"{done}/{total} {what}"])))


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
