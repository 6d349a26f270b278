"""Ready-made solutions from a file, matched with a task's problems.

In: a file whose rows name a problem and hold one or more solutions, perhaps with labels; out: the
solutions of known problems in file order, one at a time, and how many rows and solutions were
passed over. Field names may be paths: `*.solution` takes `solution` out of every
object in the row, and `*.is_correct` the label beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, NamedTuple

from rlmec.records import Problem
from rlmec.tasks.problem_tables import ids_by_question
from rlmec.tasks.rows import Row, iter_rows, shortened, whole_text

_MISSING = object()


class ImportedSolution(NamedTuple):
    """One ready-made solution; `source` is the name that the wildcard stood for, or "imported"."""

    problem_id: str
    text: str
    label: bool | None
    source: str


@dataclass(frozen=True)
class Found:
    """How much a file holds, and what in it is passed over."""

    solutions: int
    rows: int
    unknown_rows: int
    blank_solutions: int


class SolutionFile:
    """Solutions of `problems` in a file of JSON lines or a JSON list, in file order. They are read
    anew each time they are gone through; of JSON lines one row is in memory at a time.

    A row names its problem by `problem_id_field` where it has that field, else by the text of the
    question. `clean` is applied to every solution (a task's own way to write them). A path may hold
    one `*`, at the same place in both fields. Going through it raises FileNotFoundError for a
    missing file, ValueError with file and row for a field that is missing or of another kind.
    """

    def __init__(
        self,
        path: str,
        problems: Sequence[Problem],
        text_field: str,
        label_field: str | None = None,
        question_field: str = "question",
        problem_id_field: str = "problem_id",
        clean: Callable[[str], str] | None = None,
    ) -> None:
        above = _before_wildcard(text_field)
        if label_field is not None and above != _before_wildcard(label_field):
            raise ValueError(
                f"{path}: text_field {text_field!r} and label_field {label_field!r} need the same "
                "'*'"
            )
        self.path, self._count = path, len(problems)
        self._fields = text_field, label_field, question_field, problem_id_field
        self._clean = clean
        self._by_question = ids_by_question(problems)
        self._ids = {problem.id for problem in problems}

    def __iter__(self) -> Iterator[ImportedSolution]:
        return self.read(Counter())

    def read(self, counts: Counter[str]) -> Iterator[ImportedSolution]:
        """The solutions; `counts` grows by what is passed: fields of `Found`."""
        text_field, label_field, *_ = self._fields
        for row in iter_rows(self.path):
            counts["rows"] += 1
            if (id_ := self._problem_of(row)) not in self._ids:
                counts["unknown_rows"] += 1
                continue
            for source, text, label in _solutions(row, text_field, label_field):
                if not text.strip():
                    counts["blank_solutions"] += 1
                    continue
                counts["solutions"] += 1
                text = self._clean(text) if self._clean else text
                yield ImportedSolution(id_, text, label, source)

    def _problem_of(self, row: Row) -> str:
        *_, question_field, problem_id_field = self._fields
        if problem_id_field in row.values:
            return row.text(problem_id_field)
        return self._by_question.get(row.text(question_field).strip(), "")

    def found(self) -> Found:
        """Goes through the whole file once; ValueError where it holds no solution."""
        counts = Counter[str]()
        for _ in self.read(counts):
            pass
        made = Found(*(counts[f.name] for f in fields(Found)))
        if not made.solutions:
            raise ValueError(
                f"{self.path}: none of {made.rows} rows has a solution of one of {self._count} "
                f"problems ({made.unknown_rows} rows of other problems, {made.blank_solutions} "
                "blank solutions)"
            )
        return made


@lru_cache
def _path(field: str) -> tuple[str, ...]:
    parts = tuple(field.split("."))
    if parts.count("*") > 1:
        raise ValueError(f"field {field!r}: at most one '*' can stand in a path")
    return parts


@lru_cache
def _before_wildcard(field: str) -> tuple[str, ...] | None:
    parts = _path(field)
    return parts[: parts.index("*")] if "*" in parts else None


def _solutions(
    row: Row, text_field: str, label_field: str | None
) -> Iterator[tuple[str, str, bool | None]]:
    """The row's solutions as (source, text, label)."""
    before, text_path = _before_wildcard(text_field), _path(text_field)
    if before is None:
        names = [] if _reach(row.values, text_path) is _MISSING else ["imported"]
    else:
        holder = _reach(row.values, before)
        candidates = list(holder) if isinstance(holder, dict) else []
        names = [c for c in candidates if _reach(row.values, _named(text_path, c)) is not _MISSING]
    if not names:
        raise ValueError(f"{row.where}: nothing matches {text_field!r}; found {row.names}")
    for name in names:
        text = _reach(row.values, _named(text_path, name))
        if not isinstance(text, str):
            raise ValueError(
                f"{row.where}: {text_field!r} of {shortened(name)} is a {type(text).__name__}; "
                "expected a text"
            )
        whole_text(name, row.where, "name")
        yield name, whole_text(text, row.where, text_field), _label(row, label_field, name)


def _label(row: Row, field: str | None, name: str) -> bool | None:
    if field is None:
        return None
    label = _reach(row.values, _named(_path(field), name))
    if label is _MISSING or label not in (True, False):
        found = "missing" if label is _MISSING else shortened(repr(label))
        raise ValueError(
            f"{row.where}: label {field!r} of {shortened(name)} is {found}; expected true or false"
        )
    return bool(label)


def _named(path: tuple[str, ...], name: str) -> tuple[str, ...]:
    return tuple(name if part == "*" else part for part in path)


def _reach(value: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        if not isinstance(value, dict) or part not in value:
            return _MISSING
        value = value[part]
    return value
