"""Problems from files: rows with their place, splits by a hash of the question, no duplicates.

In: one file (JSON lines or a JSON list) or one file a split; out: problems of a split. Where no dev
split is given it is cut from train. A question's place hangs on its own text alone, so rows may be
added or reordered without moving others. Every refusal names the file, the row and what was
expected.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from rlmec.answers import numbers
from rlmec.answers.options import HEADING
from rlmec.records import Problem
from rlmec.tasks.base import SPLITS

WHOLE = "whole"
"""The name of a table that is to be cut into splits, beside the names of the splits."""


@dataclass(frozen=True)
class Row:
    """One row of a file: `number` counts from 1, in lines of JSON lines, in elements of a list."""

    file: str
    number: int
    values: dict[str, Any]

    @property
    def where(self) -> str:
        """File, row number and, where the row has one, its id."""
        known = next((self.values[k] for k in ("id", "ID", "problem_id") if k in self.values), None)
        shown = "" if known is None else f" (id {shortened(known)})"
        return f"{self.file}, row {self.number}{shown}"

    @property
    def names(self) -> str:
        """The fields that the row has, for a message."""
        return shortened(", ".join(self.values)) or "no fields"

    def text(self, field: str) -> str:
        """The field as text; finite numbers are written out. ValueError where it is missing or
        neither, and for a text with half a character, which no table could hold."""
        name = shortened(field)
        if field not in self.values:
            raise ValueError(
                f"{self.where}: no field {name!r}; expected a row with {name!r}, found {self.names}"
            )
        value = self.values[field]
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError(
                f"{self.where}: field {name!r} is a {type(value).__name__}; "
                "expected a text or a number"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{self.where}: field {name!r} is {value}; expected a finite number")
        return str(value) if not isinstance(value, str) else whole_text(value, self.where, field)

    def texts(self, field: str) -> tuple[str, ...]:
        """The field as a list of texts, numbers written out; ValueError where it is not one."""
        values = self.values.get(field)
        if not isinstance(values, list | tuple) or not values:
            found = shortened(values)
            raise ValueError(f"{self.where}: field {field!r} is no list of texts: {found}")
        return tuple(Row(self.file, self.number, {field: v}).text(field) for v in values)


def shortened(value: Any) -> str:
    """A value as it is shown in a message: its beginning, in one line that can be printed."""
    text = value if isinstance(value, str) else repr(value)
    text = text if len(text) <= 200 else f"{text[:200]}..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def whole_text(text: str, where: str, field: str) -> str:
    """`text` if it is one that can be written; ValueError with its place for one with a lone
    surrogate (a JSON escape such as \\ud83d without its other half)."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where}: field {shortened(field)!r} has half a character (a lone surrogate) at "
            f"{error.start}; expected a text"
        ) from error
    return text


Table = Callable[[], list[Row]]
Build = Callable[[Row], Problem | str]
"""Makes a row's problem, or says why the row has to be left out."""


def existing_file(path: str) -> str:
    """`path` if it is a file; FileNotFoundError otherwise."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path!r}; expected JSON lines or a JSON list of rows")
    return path


def read_rows(path: str) -> list[Row]:
    """The rows of a file, as `iter_rows` gives them, all at once."""
    return list(iter_rows(path))


def iter_rows(path: str) -> Iterator[Row]:
    """The rows of a file of JSON lines or of one JSON list, blank lines skipped. Of JSON lines one
    row is in memory at a time; a list is read whole.

    FileNotFoundError for a missing file, ValueError with the row for what is not a JSON object.
    """
    try:
        with Path(existing_file(path)).open(encoding="utf-8") as file:
            for number, value in _values(file, path):
                if not isinstance(value, dict):
                    raise ValueError(
                        f"{path}, row {number}: a {type(value).__name__}; expected a JSON object"
                    )
                yield Row(path, number, value)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8 at byte {_first_bad_byte(path)}; expected JSON text"
        ) from error


def _values(file: TextIO, path: str) -> Iterator[tuple[int, Any]]:
    """What a file holds, numbered from 1 by lines of JSON lines, by elements of a list."""
    if _is_list(file):
        yield from enumerate(_parse(file.read().lstrip("\ufeff"), path), start=1)
        return
    for number, line in enumerate(file, start=1):
        text = line.lstrip("\ufeff") if number == 1 else line
        if text.strip():
            yield number, _parse(text.removesuffix("\n"), f"{path}, row {number}")


def _is_list(file: TextIO) -> bool:
    """Whether the first sign of a file opens a list; the file is at its start again."""
    shown = ""
    while not shown and (text := file.read(4096)):
        shown = text.lstrip("\ufeff \t\r\n")
    file.seek(0)
    return shown.startswith("[")


def _first_bad_byte(path: str) -> int:
    """Where a file stops being UTF-8, which has no line break within a character."""
    place = 0
    with open(path, "rb") as file:
        for line in file:
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return place + error.start
            place += len(line)
    return place


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{where}: not JSON ({error.msg} at column {error.colno}); "
            "expected one JSON object a line, or one list of them"
        ) from error
    except RecursionError as error:
        raise ValueError(f"{where}: JSON nested too deep; expected a flat object") from error
    except ValueError as error:  # a field twice, a number of more digits than are read
        raise ValueError(f"{where}: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; ValueError where a field stands in it twice, since nobody knows which of the
    two is meant."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(k for i, (k, _) in enumerate(pairs) if any(k == o for o, _ in pairs[:i]))
        raise ValueError(f"field {shortened(twice)!r} stands twice in one object")
    return found


def digest_of(question: str) -> str:
    """32 hexadecimal digits that stand for a question, blanks around it aside."""
    return hashlib.blake2b(question.strip().encode(), digest_size=16).hexdigest()


def share_of(question: str) -> float:
    """A number in [0, 1) that hangs on the question alone, evenly spread."""
    return int(digest_of(question)[:13], 16) / 16**13


def file_tables(path: str | Mapping[str, str | None], whole: str = WHOLE) -> dict[str, Table]:
    """Tables of `path`: one file to be cut into splits (or the split `whole`), or one file a split.

    FileNotFoundError for a file that is not there; ValueError for names that are no splits, or
    none.
    """
    if isinstance(path, str):
        paths = {whole: path}
    else:
        paths = {split: file for split, file in path.items() if file is not None}
        unknown = [split for split in paths if split not in SPLITS]
        if unknown or not paths:
            raise ValueError(
                f"path names {', '.join(map(repr, unknown)) or 'no file'}; "
                f"expected one file, or files for some of {', '.join(SPLITS)}"
            )
    for file in paths.values():
        existing_file(file)
    return {split: functools.partial(read_rows, file) for split, file in paths.items()}


class ProblemTables:
    """Problems of the splits of one task, read when first asked for.

    A table named `WHOLE` is cut into test (`test_share`), dev (`dev_share`) and train (the rest);
    without a dev table `dev_share` of train becomes dev. `left_out` lists the rows read so far that
    gave no problem, each with its place and reason.
    """

    def __init__(
        self,
        task: str,
        tables: Mapping[str, Table],
        build: Build,
        dev_share: float,
        test_share: float,
    ) -> None:
        if not (0 <= dev_share < 1 and 0 <= test_share < 1 and dev_share + test_share < 1):
            raise ValueError(
                f"task {task}: dev_share {dev_share} and test_share {test_share} must be at least "
                "0 and leave something for train"
            )
        self.task, self.tables, self.build = task, dict(tables), build
        self.dev_share, self.test_share = dev_share, test_share
        self.left_out: list[str] = []
        self._problems: dict[str, list[Problem]] = {}

    def problems(self, split: str) -> list[Problem]:
        """The problems of `split` in file order; ValueError for an unknown or empty split."""
        if split not in SPLITS:
            raise ValueError(f"task {self.task}: split {split!r} is none of {', '.join(SPLITS)}")
        table, low, high = self._place(split)
        problems = [p for p in self._table(table) if low <= share_of(p.question) < high]
        if not problems:
            raise ValueError(
                f"task {self.task}: split {split!r} is empty: {len(self._table(table))} problems "
                f"were read from {self._name(table)}, {len(self.left_out)} rows left out; expected "
                f"questions whose hash lies in [{low:g}, {high:g})"
            )
        return problems

    def _place(self, split: str) -> tuple[str, float, float]:
        """The table of a split and the range of `share_of` that belongs to it."""
        test, dev = self.test_share, self.dev_share
        if WHOLE in self.tables:
            ranges = {"test": (0.0, test), "dev": (test, test + dev), "train": (test + dev, 1.0)}
            return WHOLE, *ranges[split]
        cut = dev if "dev" not in self.tables else 0.0
        if split == "train" and "train" in self.tables:
            return "train", cut, 1.0
        if split == "dev" and "train" in self.tables and cut:
            return "train", 0.0, cut
        if split in self.tables:
            return split, 0.0, 1.0
        only = "" if "train" in self.tables else "it is for evaluation only; "
        raise ValueError(
            f"task {self.task} has no split {split!r}, only {', '.join(self.tables)}: {only}"
            f"give it a file with task.path.{split}=FILE"
        )

    def _table(self, table: str) -> list[Problem]:
        if table not in self._problems:
            self._problems[table] = self._read(self.tables[table]())
        return self._problems[table]

    def _read(self, rows: list[Row]) -> list[Problem]:
        kept: dict[str, Problem] = {}
        places: dict[str, Row] = {}
        for row in rows:
            problem = self.build(row)
            if isinstance(problem, str):
                self.left_out.append(f"{row.where}: {problem}")
            elif problem.question.strip() in kept:
                self.left_out.append(f"{row.where}: the question stands in an earlier row")
            elif problem.id in places:
                raise ValueError(
                    f"{row.where}: id {problem.id!r} belongs to another question in row "
                    f"{places[problem.id].number}; expected one id a question"
                )
            else:
                kept[problem.question.strip()] = problem
                places[problem.id] = row
        return list(kept.values())

    def _name(self, table: str) -> str:
        read = self.tables[table]
        if isinstance(read, functools.partial):  # of a local file, which may have no rows
            return str(read.args[0])
        rows = read()
        return rows[0].file if rows else f"the {table} file, which has no rows"


class TableTask:
    """What tasks that read tables have in common: their problems, and the rows left out.

    A task of this kind sets `name` and `_tables` and has a method `judge`.
    """

    name: str
    _tables: ProblemTables

    @property
    def left_out(self) -> list[str]:
        """Rows read so far that gave no problem, each with its place and the reason."""
        return self._tables.left_out

    def problems(self, split: str) -> list[Problem]:
        """The problems of `split` in file order."""
        return self._tables.problems(split)

    def final_answer(self, text: str) -> str | None:
        """What follows the last answer marker, or None."""
        return numbers.final_answer(text)


def make_problem(
    row: Row,
    id: str,
    question: str,
    answer: str,
    solution: str | None,
    kind: str = "",
    options: tuple[str, ...] = (),
) -> Problem:
    """The row's problem; ValueError with the row where the question or the id is blank."""
    if not question.split(HEADING)[0].strip():
        raise ValueError(f"{row.where}: the question is blank; expected a text")
    if not id:
        raise ValueError(f"{row.where}: the id is blank; expected a text")
    return Problem(id, question, answer, solution, kind, options)


def hub_tables(
    hub: str,
    configs: str | Sequence[str] | None,
    revision: str | None,
    splits: Mapping[str, str | None],
) -> dict[str, Table]:
    """One table for each of our splits that `splits` gives a split of the data set for.

    The rows of several configurations follow each other in their order. A table raises
    FileNotFoundError where the data set cannot be reached and ValueError for a configuration or a
    split that it does not have.
    """
    names = [configs] if isinstance(configs, str) or configs is None else list(configs)
    return {
        ours: lambda theirs=theirs: [
            row for name in names for row in _rows(hub, name, revision, theirs)
        ]
        for ours, theirs in splits.items()
        if theirs is not None
    }


def _rows(hub: str, config: str | None, revision: str | None, split: str) -> list[Row]:
    from datasets import load_dataset

    place = "/".join(part for part in (hub, config, split) if part)
    try:
        table = load_dataset(hub, config, split=split, revision=revision)
    except OSError as error:
        raise FileNotFoundError(
            f"the data set {place} could not be read from the hub: {error}; "
            "task.path=FILE reads a local file instead"
        ) from error
    except ValueError as error:
        raise ValueError(f"the data set {place} on the hub: {error}") from error
    return [Row(place, number, dict(values)) for number, values in enumerate(table, start=1)]
