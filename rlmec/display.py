"""Progress of long work: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

LINE_SECONDS = 20.0


def say(text: str) -> None:
    """One line to the terminal, above a bar if there is one."""
    print(text, flush=True)


class Bar:
    """`total` units of work named `name`; `update(done, text)` shows them, `close` ends it."""

    def __init__(self, name: str, total: int, unit: str, *, wanted: bool, done: int = 0) -> None:
        self.name, self.total, self.unit = name, total, unit
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
