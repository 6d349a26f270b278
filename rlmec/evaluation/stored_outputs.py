"""Stored outputs, judged again without a model, and the file that shows each with its verdict.

In: a table of attempts that this project wrote, or a file of rows with texts, each with the id or
the question of its problem; a task and its problems. Out: outputs with the task's present verdict,
in file order; and one JSON line per output with what was read as its answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlmec.evaluation.accuracy import Judged
from rlmec.evaluation.lenient_reading import flexible_answer, judge_flexible
from rlmec.evaluation.readings import MODES
from rlmec.records import Attempt, Problem, by_id, columns
from rlmec.store.atomic import atomic_file
from rlmec.store.tables import read_table
from rlmec.tasks.base import Task, judge_of
from rlmec.tasks.problem_tables import ids_by_question
from rlmec.tasks.rows import FORMATS, MISSING, PACKED, Row, iter_rows, whole_text

_ENDINGS = "|".join(re.escape(ending) for ending in FORMATS)
_PACKED = "|".join(re.escape(ending) for ending in PACKED)
_NAMED = re.compile(rf"(?P<path>.+(?:{_ENDINGS})(?:{_PACKED})?)(?::(?P<field>[\w.-]+))?")


@dataclass(frozen=True)
class StoredOutput:
    """A text that some model wrote for a problem.

    `completion_ids` are empty where they were not stored; `clipped` is then False, since it is not
    known.
    """

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
        raise ValueError(f"{named}: stored outputs are a file that ends in {', '.join(FORMATS)}")
    return match["path"], match["field"]


# ---- reading ----------------------------------------------------------------------------------


def read_stored(
    path: str,
    task: Task,
    problems: Sequence[Problem],
    text_field: str,
    question_field: str,
    passed_over: list[str] | None = None,
) -> list[StoredOutput]:
    """The outputs of `path` (which may be `FILE:FIELD`) at `problems`, judged by `task`.

    A row names its problem by `problem_id` where it has that field, else by the text of the
    question. Fields may be paths of names joined by dots. A null text is an output without words.
    A file of rows may hold more than is judged: rows of other problems are passed over, and their
    places are added to `passed_over`. In a table of attempts they are refused.

    Raises FileNotFoundError for a missing file, and ValueError with file and row for a row that
    does not fit, and where no row is left.
    """
    known = by_id(problems)
    path, named = path_and_field(path)

    if _is_table_of_attempts(path):
        found = _from_table(path, known)
    else:
        others: list[str] = [] if passed_over is None else passed_over
        clean = getattr(task, "clean", str)
        rows = _from_rows(path, known, named or text_field, question_field, others)
        found = [(id_, problem_id, clean(text), False, []) for id_, problem_id, text in rows]
    if not found:
        raise ValueError(f"{path}: no output at one of the {len(known)} problems that are judged")

    texts = [text for _, _, text, _, _ in found]
    about = [known[problem_id] for _, problem_id, _, _, _ in found]
    judge = judge_of(task, texts, about)
    return [
        StoredOutput(id_, problem.id, text, judge(text, problem), clipped, ids)
        for (id_, _, text, clipped, ids), problem in zip(found, about, strict=True)
    ]


def _is_table_of_attempts(path: str) -> bool:
    """Whether a Parquet file is one of this project; others hold rows of a user."""
    if not path.endswith(".parquet") or not Path(path).is_file():
        return False
    import pyarrow
    from pyarrow import parquet

    try:
        return set(columns(Attempt)) <= set(parquet.read_schema(path).names)
    except pyarrow.ArrowException:
        return True  # the reader of tables says what is wrong with it


def _from_table(
    path: str, known: dict[str, Problem]
) -> list[tuple[str, str, str, bool, list[int]]]:
    found = []
    for attempt in read_table(Path(path), Attempt):
        if attempt.problem_id not in known:
            raise ValueError(
                f"{path}, attempt {attempt.id!r}: problem {attempt.problem_id!r} is none of the "
                f"{len(known)} that are judged: give the task and evaluate.split it was made on"
            )
        ids = list(attempt.completion_ids)
        found.append((attempt.id, attempt.problem_id, attempt.text, attempt.clipped, ids))
    return found


def _from_rows(
    path: str,
    known: dict[str, Problem],
    text_field: str,
    question_field: str,
    passed_over: list[str],
) -> Iterator[tuple[str, str, str]]:
    """The id of the output, the id of its problem, and the text, row by row."""
    by_question = ids_by_question(list(known.values()))
    outputs_of = dict.fromkeys(known, 0)
    for row in iter_rows(path):
        if "problem_id" in row.values:
            problem_id = row.text("problem_id")
        else:
            problem_id = by_question.get(row.text(question_field).strip(), "")
        text = _text_at(row, text_field)
        if problem_id not in known:
            passed_over.append(row.where)
            continue
        yield f"{problem_id}/{outputs_of[problem_id]}", problem_id, text
        outputs_of[problem_id] += 1


def _text_at(row: Row, field: str) -> str:
    value = row.value(field)
    if value is MISSING:
        raise ValueError(f"{row.where}: no field {field!r} with the text; found {row.names}")
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{row.where}: {field!r} is a {type(value).__name__}; expected a text")
    return whole_text(value, row.where, field)


# ---- one line per output ----------------------------------------------------------------------


def per_problem(
    outputs: Sequence[Judged], problems: Sequence[Problem], task: Task
) -> Iterator[dict[str, Any]]:
    """What a reader needs to follow each verdict: question, text, the answer read, the verdicts.

    `answer` and `verdict` are those of the strict reading, `lenient_answer` and `lenient_verdict`
    those of the reading that takes the last answer named.
    """
    known = by_id(problems)
    for output in outputs:
        problem = known[output.problem_id]
        yield {
            "id": output.id,
            "problem_id": problem.id,
            "kind": problem.kind,
            "question": problem.question,
            "gold_answer": problem.answer,
            "text": output.text,
            "answer": task.final_answer(output.text),
            "verdict": output.verdict,
            "lenient_answer": flexible_answer(output.text, problem),
            "lenient_verdict": _lenient_verdict(task, output, problem),
            "clipped": output.clipped,
        }


def write_per_problem(
    path: Path, outputs: Sequence[Judged], problems: Sequence[Problem], task: Task
) -> None:
    """The lines of `per_problem` as JSON lines, written whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for line in per_problem(outputs, problems, task):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _lenient_verdict(task: Task, output: Judged, problem: Problem) -> str:
    """The verdict that the figures of the lenient reading count."""
    if MODES["flexible"](task, output, problem):
        return "right"
    verdict = output.verdict if output.clipped else judge_flexible(task, output.text, problem)
    return "wrong" if verdict == "right" else verdict
