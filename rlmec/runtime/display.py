"""What a run shows and logs: lines, tables, progress bars.

In: texts, counts, Markdown. Out: the terminal, or plain lines where there is none, and meanwhile
the log file of the job.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

LINE_SECONDS = 20.0
"""Seconds between two lines of progress where there is no terminal."""

SPEED_SECONDS = 600.0
"""A bar estimates the time that is left from its speed over so many seconds."""

_LOG = logging.getLogger("rlmec.run")
_LOG.setLevel(logging.INFO)
_LOG.propagate = False


# --- lines ---


def say(text: str) -> None:
    """Print one line and log it.

    On a terminal it appears above a progress bar, and a line that is too long for it is broken
    between words.
    """
    shown = fitting(text, shutil.get_terminal_size().columns) if sys.stdout.isatty() else text
    print(shown, flush=True)
    log(text)


def fitting(text: str, columns: int) -> str:
    """The text with its long lines broken between words; what follows is indented by two more."""
    lines = []
    for line in text.splitlines():
        if len(line) <= columns:
            lines.append(line)
            continue
        indent = " " * (len(line) - len(line.lstrip()) + 2)
        lines += textwrap.wrap(
            line,
            max(columns, 2 * len(indent)),
            subsequent_indent=indent,
            break_long_words=False,  # a path can be copied
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def say_error(text: str) -> None:
    """Print to standard error, and log."""
    print(text, file=sys.stderr, flush=True)
    log(text)


def log(text: str) -> None:
    """Write to the log file only, each line of the text with the time."""
    for line in text.splitlines():
        _LOG.info("%s", line)


@contextlib.contextmanager
def logged(path: Path, sender: str = "") -> Iterator[None]:
    """Append what is said meanwhile to a file, which the first line creates.

    `sender` names this process where several write to one file.
    """
    handler = _LogFile(path, encoding="utf-8", delay=True)
    start = "%(asctime)s " + (f"[{sender}] " if sender else "")
    handler.setFormatter(logging.Formatter(start + "%(message)s", "%Y-%m-%d %H:%M:%S"))
    _LOG.addHandler(handler)
    try:
        yield
    finally:
        _LOG.removeHandler(handler)
        handler.close()


class _LogFile(logging.FileHandler):
    """A file of lines. A file that cannot be written, as on a full disk, ends no run."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        pass


def duration(seconds: float) -> str:
    """A time in one or two units, such as "4.2 s" or "3 min 05 s"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


# --- edits ---

STYLES = {"deleted": "red strike", "inserted": "green"}
MARKS = {"deleted": ("[-", "-]"), "inserted": ("{+", "+}")}


def say_edits(pieces: Iterable[tuple[str, str]]) -> None:
    """Print a text with its edits, indented: pieces that are "kept", "deleted" or "inserted".

    On a terminal they are coloured, unless NO_COLOR is set; elsewhere and in the log they are
    marked, as in `3 + 4 = [-8-]{+7+}`.
    """
    shown = [(kind, _printable(text)) for kind, text in pieces]
    marked = ((MARKS.get(kind, ("", "")), text) for kind, text in shown)
    plain = "    " + "".join(f"{a}{text}{b}" for (a, b), text in marked).replace("\n", "\n    ")
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        say(plain)
        return

    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    text = Text.assemble(*((text, STYLES.get(kind, "")) for kind, text in shown))
    Console(highlight=False).print(Padding(text, (0, 0, 0, 4)))
    log(plain)


def _printable(text: str) -> str:
    """The text without what a terminal would obey: a model may write anything."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


# --- tables ---


def say_markdown(text: str) -> None:
    """Print Markdown, on a terminal with its tables drawn. The log has it as it is."""
    if not sys.stdout.isatty():
        say(text)
        return

    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(text))
    log(text)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of text cells, one line per row, each ending in a line break.

    A vertical bar within a cell is escaped.
    """
    lines = [head, ["---"] * len(head), *rows]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines
    )


# --- progress ---


class Bar:
    """The progress of `total` units of the work `name`, of which `done` are done at the start.

    On a terminal it is a bar if `wanted`; otherwise a line is printed every LINE_SECONDS. A unit
    can take minutes: `within` shows how far the current one is, and moves the bar by its share of
    the `at_once` units that are in work together (0: what `within` counts is no part of a unit).
    """

    _open: ClassVar[list[Bar]] = []

    def __init__(
        self, name: str, total: int, unit: str, *, wanted: bool, done: int = 0, at_once: int = 0
    ) -> None:
        self.name = name
        self.total = total
        self.unit = unit
        self.at_once = at_once
        self._done = done
        self._begun = 0.0  # units, of those in work
        self._range = (0.0, 1.0)  # the share of a unit that `within` counts now
        self._text = ""
        self._start = (time.monotonic(), done)
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
        self._begun = 0.0
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

    def _within(self, share: float, text: str) -> None:
        low, high = self._range
        units = min(self.at_once, self.total - self._done)
        self._begun = max(self._begun, units * (low + share * (high - low)))
        self._show(", ".join(filter(None, [text, self._text])))

    def _show(self, text: str) -> None:
        if self._display is not None:
            done = self._done + self._begun
            self._display.update(self._task, completed=done, text=text)
            return
        now = time.monotonic()
        if now - self._last >= LINE_SECONDS:
            self._last = now
            count = f"{self.name}: {self._done}/{self.total} {self.unit}"
            say("  " + ", ".join(filter(None, [count, text, self._left(now)])))

    def _left(self, now: float) -> str:
        """The time that is left at the speed so far; empty before there is one."""
        began, first = self._start
        done = self._done + self._begun
        if done <= first or done >= self.total:
            return ""
        return f"{duration((now - began) / (done - first) * (self.total - done))} left"


def within(done: int, total: int, what: str, share: float | None = None) -> None:
    """Show on the open bar how far its current unit is, such as "212/512 completions".

    `share` of the work is done (default: done / total). Nothing is shown where no bar is open. Long
    loops below a stage call this.
    """
    if Bar._open:
        share = done / max(total, 1) if share is None else share
        Bar._open[-1]._within(share, f"{done}/{total} {what}")


@contextlib.contextmanager
def stretch(start: float, end: float) -> Iterator[None]:
    """Around one of several kinds of work on a unit: `within` moves the open bar from the share
    `start` of the unit to the share `end`."""
    bars = Bar._open[-1:]
    for bar in bars:
        bar._range = (start, end)
    try:
        yield
    finally:
        for bar in bars:
            bar._range = (0.0, 1.0)


def _display(unit: str) -> Any:
    """A bar in one line, whatever the width: the text gives way first."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    def column(text: str, **how: Any) -> TextColumn:
        place = Column(no_wrap=True, overflow="ellipsis", **how)
        return TextColumn(text, markup=False, table_column=place)

    return Progress(
        column("{task.description}", max_width=28),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        column(unit),
        TimeRemainingColumn(),
        column("{task.fields[text]}", ratio=1),
        expand=True,
        speed_estimate_period=SPEED_SECONDS,
        transient=True,
    )
