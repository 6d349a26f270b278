"""Questions with options in words: ECQA, QASC, OpenBookQA, ARC, and files in their layouts.

In: rows in the layout of the RLMEC authors' files (problem with its options, solution, answer) or
in that of the hub's data sets. Out: problems that show their options one per line, without letters,
and whose reference solution ends in "The answer is ...". The fields of a row tell its layout, so a
local file may have any of the layouts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from rlmec.answers.options import (
    judge_option,
    options_of,
    read_option,
    with_options,
)
from rlmec.records import Problem, Verdict
from rlmec.settings.ranges import PathText, ShareBelowOne
from rlmec.tasks.problem_tables import (
    ProblemTables,
    TableTask,
    digest_of,
    file_tables,
    hub_tables,
    make_problem,
)
from rlmec.tasks.rows import Row, shortened


class Question(NamedTuple):
    """The content of a row, whatever its layout; `question` shows the options."""

    question: str
    options: tuple[str, ...]
    answer: str
    solution: str


class OptionTask(TableTask):
    """One data set of questions with options, named by `name`.

    `path` is one local file, cut into splits (`test_share` and `dev_share` of it), or one file per
    split. Without it the data set `hub` is read; `hub_splits` names its split for each of ours.
    Without a dev split, dev is cut from train by a hash of the question. `left_out` lists rows
    whose answer is none of the options, and repeated questions.

    Raises FileNotFoundError for a missing file or an unreachable hub, and ValueError for bad rows
    and empty splits.
    """

    def __init__(
        self,
        name: str,
        path: PathText | Mapping[str, PathText | None] | None = None,
        hub: str | None = None,
        hub_config: str | None = None,
        hub_revision: str | None = None,
        hub_splits: Mapping[str, str | None] | None = None,
        dev_share: ShareBelowOne = 0.05,
        test_share: ShareBelowOne = 0.2,
    ) -> None:
        self.name = name
        if path:
            tables = file_tables(path)
        elif hub:
            given = hub_splits or {"train": "train", "dev": "validation", "test": "test"}
            tables = hub_tables(hub, hub_config, hub_revision, given)
        else:
            raise ValueError(f"task {name}: name a local file (task.path=FILE) or a hub data set")
        self._tables = ProblemTables(name, tables, self._build, dev_share, test_share)

    def judge(self, text: str, problem: Problem) -> Verdict:
        """Compares the option that the final answer names with the right one."""
        return judge_option(text, problem.answer, problem.options)

    def _build(self, row: Row) -> Problem | str:
        found = read_question(row)
        if len(found.options) < 2:
            return f"the question shows {len(found.options)} options; expected two or more"
        if read_option(found.answer, found.options) is None:
            answer = shortened(found.answer)
            return f"the answer {answer!r} is none of the options, or more than one"

        id = f"{self.name}-{digest_of(found.question)[:16]}"
        return make_problem(
            row, id, found.question, found.answer, found.solution, options=found.options
        )


def read_question(row: Row) -> Question:
    """The content of a row by its layout; ValueError with the row for an unknown layout."""
    for field, read in LAYOUTS.items():
        if field in row.values:
            return read(row)
    raise ValueError(
        f"{row.where}: no known layout; expected one of the fields {', '.join(LAYOUTS)}, "
        f"found {row.names}"
    )


def _published(row: Row) -> Question:
    """problem with "Options:", solution, answer: the RLMEC authors' files."""
    question = row.text("problem")
    solution = row.text_or_none("solution") or ""
    return Question(question, options_of(question), row.text("answer"), solution)


def _ecqa(row: Row) -> Question:
    """q_text, q_op1 to q_op5, q_ans, and taskA_pos: the statements in favour of the answer."""
    options = tuple(row.text(f"q_op{n}").strip() for n in range(1, 6))
    answer = row.text("q_ans").strip()
    return _question(row.text("q_text"), options, answer, row.text_or_none("taskA_pos") or "")


def _labelled(row: Row) -> Question:
    """question or question_stem, choices with text and label, answerKey: QASC, OpenBookQA, ARC.

    The reference solution of QASC is its two facts and the fact that follows from them.
    """
    choices = row.values["choices"]
    if not (isinstance(choices, Mapping) and "text" in choices and "label" in choices):
        found = shortened(choices)
        raise ValueError(f"{row.where}: field 'choices' has no lists 'text' and 'label': {found}")
    inner = Row(row.file, row.number, dict(choices), row.line)
    options = inner.texts("text")
    labels = inner.texts("label")
    key = row.text("answerKey")
    if key not in labels or len(labels) != len(options):
        raise ValueError(
            f"{row.where}: answerKey {shortened(key)!r} is none of the labels "
            f"{shortened(', '.join(labels))} of {len(options)} options"
        )

    field = "question_stem" if "question_stem" in row.values else "question"
    facts = [row.text_or_none(name) for name in ("fact1", "fact2", "combinedfact")]
    reasons = "" if None in facts else "\n".join(fact or "" for fact in facts)
    return _question(row.text(field), options, options[labels.index(key)], reasons)


def _question(text: str, options: tuple[str, ...], answer: str, reasons: str) -> Question:
    last = f"The answer is {answer}"
    solution = f"{reasons.strip()}\n{last}" if reasons.strip() else last
    shown = tuple(" ".join(option.split()) for option in options)
    return Question(with_options(text, shown), shown, answer, solution)


LAYOUTS: dict[str, Callable[[Row], Question]] = {
    "problem": _published,
    "q_text": _ecqa,
    "choices": _labelled,
}
"""The field that identifies a layout, and the reader of its rows."""
