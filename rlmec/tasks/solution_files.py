"""Ready-made solutions from a file, matched with a task's problems.

In: a file whose rows name a problem and have one or more solutions, perhaps with labels. Out: the
solutions of known problems in file order, one at a time, and how many rows and solutions were
passed over. Field names may be paths: `*.solution` takes `solution` out of every object in the row,
and `*.is_correct` the label next to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, NamedTuple

from rlmec.records import Problem
from rlmec.tasks.problem_tables import ids_by_question
from rlmec.tasks.rows import MISSING, USER_ROLES, Row, iter_rows, message_of, shortened, whole_text


class ImportedSolution(NamedTuple):
    """One ready-made solution; `source` is the name that matched the wildcard, or "imported"."""

    problem_id: str
    text: str
    label: bool | None
    source: str


@dataclass(frozen=True)
class Found:
    """How much a file contains, and how much of it is passed over."""

    solutions: int
    rows: int
    unknown_rows: int
    blank_solutions: int


class SolutionFile:
    """Solutions of `problems` in a file of rows (`rlmec.tasks.rows`), in file order.

    The file is read again for each iteration, one row at a time. A row names its problem by
    `problem_id_field` where it has that field, else by the text of the question. `clean` is applied
    to every solution (a task's own way to write them). A path may have one `*`, at the same place
    in both fields. A null solution counts as a blank one.

    Iteration raises FileNotFoundError for a missing file, and ValueError with file and row for a
    field that is missing or of another type. Where a field holds a conversation, its last message
    counts: of the user for the question, of any speaker for a solution.
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
        self.path = path
        self._count = len(problems)
        self._text_field = text_field
        self._label_field = label_field
        self._question_field = question_field
        self._problem_id_field = problem_id_field
        self._clean = clean
        self._by_question = ids_by_question(problems)
        self._ids = {problem.id for problem in problems}

    def __iter__(self) -> Iterator[ImportedSolution]:
        return self.read(Counter())

    def read(self, counts: Counter[str]) -> Iterator[ImportedSolution]:
        """The solutions. `counts` is increased by what is read, under the names of `Found`."""
        for row in iter_rows(self.path):
            counts["rows"] += 1
            id_ = self._problem_of(row)
            if id_ not in self._ids:
                counts["unknown_rows"] += 1
                continue

            for source, text, label in _solutions(row, self._text_field, self._label_field):
                if not text.strip():
                    counts["blank_solutions"] += 1
                    continue
                counts["solutions"] += 1
                text = self._clean(text) if self._clean else text
                yield ImportedSolution(id_, text, label, source)

    def _problem_of(self, row: Row) -> str:
        if row.value(self._problem_id_field) is not MISSING:
            return row.text(self._problem_id_field)
        return self._by_question.get(self._question(row).strip(), "")

    def _question(self, row: Row) -> str:
        field = self._question_field
        value = row.value(field)
        if not isinstance(value, list):
            return row.text(field)
        said = [message_of(row, field, message) for message in value]
        return next((text for role, text in reversed(said) if role in USER_ROLES), "")

    def found(self) -> Found:
        """Counts the whole file; ValueError where it has no solution of the problems."""
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
        raise ValueError(f"field {field!r}: a path can have at most one '*'")
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
        names = [] if _reach(row.values, text_path) is MISSING else ["imported"]
    else:
        holder = _reach(row.values, before)
        candidates = list(holder) if isinstance(holder, dict) else []
        names = [c for c in candidates if _reach(row.values, _named(text_path, c)) is not MISSING]
    if not names:
        raise ValueError(f"{row.where}: nothing matches {text_field!r}; found {row.names}")

    for name in names:
        text = _reach(row.values, _named(text_path, name))
        if text is None:
            text = ""
        if isinstance(text, list) and text:
            text = message_of(row, text_field, text[-1])[1]
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
    if label is MISSING or label not in (True, False):
        found = "missing" if label is MISSING else shortened(repr(label))
        raise ValueError(
            f"{row.where}: label {field!r} of {shortened(name)} is {found}; expected true or false"
        )
    return bool(label)


def _named(path: tuple[str, ...], name: str) -> tuple[str, ...]:
    return tuple(name if part == "*" else part for part in path)


def _reach(value: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        if not isinstance(value, dict) or part not in value:
            return MISSING
        value = value[part]
    return value
