"""Ready-made solutions from a file, matched with a task's problems.

In: a file whose rows name a problem and hold one or more solutions, perhaps with labels; out: the
solutions of known problems in file order, and how many rows and solutions were passed over. Field
names may be paths: `*.solution` takes `solution` out of every object in the row, and `*.is_correct`
the label beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rlmec.records import Problem
from rlmec.tasks.files import Row, read_rows, shortened, whole_text

_MISSING = object()


class ImportedSolution(NamedTuple):
    """One ready-made solution; `source` is the name that the wildcard stood for, or "imported"."""

    problem_id: str
    text: str
    label: bool | None
    source: str


@dataclass(frozen=True)
class ImportedSolutions:
    """What a file gave: rows whose problem is not asked for and blank solutions are counted."""

    solutions: list[ImportedSolution]
    rows: int
    unknown_rows: int
    blank_solutions: int


def import_solutions(
    path: str,
    problems: Sequence[Problem],
    text_field: str,
    label_field: str | None = None,
    question_field: str = "question",
    problem_id_field: str = "problem_id",
    clean: Callable[[str], str] | None = None,
) -> ImportedSolutions:
    """Solutions of `problems` from a file of JSON lines or a JSON list, in file order.

    A row names its problem by `problem_id_field` where it has that field, else by the text of the
    question. `clean` is applied to every solution (a task's own way to write them). A path may hold
    one `*`, at the same place in both fields. Raises FileNotFoundError for a missing file,
    ValueError with file and row for a field that is missing or of another kind, or where no
    solution was found.
    """
    if label_field is not None and _before_wildcard(text_field) != _before_wildcard(label_field):
        raise ValueError(
            f"{path}: text_field {text_field!r} and label_field {label_field!r} need the same '*'"
        )
    by_question = {problem.question.strip(): problem.id for problem in problems}
    ids = set(by_question.values())
    solutions: list[ImportedSolution] = []
    rows = read_rows(path)
    unknown = blank = 0
    for row in rows:
        if problem_id_field in row.values:
            id = row.text(problem_id_field)
        else:
            id = by_question.get(row.text(question_field).strip(), "")
        if id not in ids:
            unknown += 1
            continue
        for source, text, label in _solutions(row, text_field, label_field):
            if text.strip():
                text = clean(text) if clean else text
                solutions.append(ImportedSolution(id, text, label, source))
            else:
                blank += 1
    if not solutions:
        raise ValueError(
            f"{path}: none of {len(rows)} rows has a solution of one of {len(problems)} problems "
            f"({unknown} rows of other problems, {blank} blank solutions)"
        )
    return ImportedSolutions(solutions, len(rows), unknown, blank)


def _path(field: str) -> tuple[str, ...]:
    parts = tuple(field.split("."))
    if parts.count("*") > 1:
        raise ValueError(f"field {field!r}: at most one '*' can stand in a path")
    return parts


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
