"""Stored outputs, judged again without a model.

In: a table of attempts that this project wrote (Parquet), or JSON rows of texts, each with the id
or the question of its problem; a task and its problems. Out: outputs with the task's verdict of
today, in file order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlmec.records import Attempt, Problem, by_id
from rlmec.store.tables import read_table
from rlmec.tasks.base import Task
from rlmec.tasks.rows import Row, read_rows, whole_text

_NAMED = re.compile(r"(?P<path>.+\.(?:parquet|jsonl|json))(?::(?P<field>[\w.-]+))?")


@dataclass(frozen=True)
class StoredOutput:
    """A text that some model wrote for a problem. `completion_ids` are empty where they were not
    stored; `clipped` is then False, since nobody knows."""

    id: str
    problem_id: str
    text: str
    verdict: str
    clipped: bool = False
    completion_ids: list[int] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        return self.verdict == "right" and not self.clipped


def is_stored(path: str) -> bool:
    """Whether a path names stored outputs (by its ending) and not a model."""
    return _NAMED.fullmatch(path) is not None


def path_and_field(named: str) -> tuple[str, str | None]:
    """The file and, where it is written `FILE:FIELD`, the field that holds the texts."""
    match = _NAMED.fullmatch(named)
    if match is None:
        raise ValueError(f"{named}: stored outputs are a .parquet, .jsonl or .json file")
    return match["path"], match["field"]


def read_stored(
    path: str, task: Task, problems: Sequence[Problem], text_field: str, question_field: str
) -> list[StoredOutput]:
    """The outputs of `path` (which may be `FILE:FIELD`) at `problems`, judged by `task`.

    A JSON row names its problem by `problem_id` where it has that field, else by the text of the
    question; `text_field` may be a path of names joined by dots. Rows of other problems are passed
    over in a JSON file (it may hold more than is judged) and refused in a table of attempts.
    FileNotFoundError for a missing file; ValueError naming file and row for one that does not fit,
    and where no row is left.
    """
    known = by_id(problems)
    path, named = path_and_field(path)
    text_field = named or text_field
    if path.endswith(".parquet"):
        out = []
        for a in read_table(Path(path), Attempt):
            if a.problem_id not in known:
                raise ValueError(
                    f"{path}, attempt {a.id!r}: problem {a.problem_id!r} is none of the "
                    f"{len(known)} that are judged: give the task and evaluate.split it was made on"
                )
            verdict = task.judge(a.text, known[a.problem_id])
            ids = list(a.completion_ids)
            out.append(StoredOutput(a.id, a.problem_id, a.text, verdict, a.clipped, ids))
    else:
        out = _from_rows(path, task, known, text_field, question_field)
    if not out:
        raise ValueError(f"{path}: no output at one of the {len(known)} problems that are judged")
    return out


def _from_rows(
    path: str, task: Task, known: dict[str, Problem], text_field: str, question_field: str
) -> list[StoredOutput]:
    by_question = {problem.question.strip(): problem.id for problem in known.values()}
    seen = dict.fromkeys(known, 0)
    clean = getattr(task, "clean", str)
    out = []
    for row in read_rows(path):
        if "problem_id" in row.values:
            id_ = row.text("problem_id")
        else:
            id_ = by_question.get(row.text(question_field).strip(), "")
        text = _text_at(row, text_field)
        if id_ not in known:
            continue
        number, seen[id_] = seen[id_], seen[id_] + 1
        text = clean(text)
        verdict = task.judge(text, known[id_])
        out.append(StoredOutput(f"{id_}/{number}", id_, text, verdict))
    return out


def _text_at(row: Row, field: str) -> str:
    value: Any = row.values
    for name in field.split("."):
        if not isinstance(value, dict) or name not in value:
            raise ValueError(f"{row.where}: no field {field!r} with the text; found {row.names}")
        value = value[name]
    if not isinstance(value, str):
        raise ValueError(f"{row.where}: {field!r} is a {type(value).__name__}; expected a text")
    return whole_text(value, row.where, field)
