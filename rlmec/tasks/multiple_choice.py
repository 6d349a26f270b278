"""Questions with options in words: ECQA, QASC, OpenBookQA, ARC, and files in their layouts.

In: rows in the layout of the RLMEC authors' files (problem with its options, solution, answer) or
in that of the hub's data sets; out: problems that show their options one a line, without letters,
whose reference solution ends in "The answer is ...". A row's layout is told by its fields, so a
local file may have any of them.
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
    """What a row holds, whatever its layout; `question` shows the options."""

    question: str
    options: tuple[str, ...]
    answer: str
    solution: str


class OptionTask(TableTask):
    """One data set of questions with options, named by `name`.

    `path` is one local file, cut into splits (`test_share` and `dev_share` of it), or one file a
    split; without it the data set `hub` is read, `hub_splits` naming which of its splits stands for
    each of ours. Without a dev split dev is cut from train by a hash of the question. Raises
    FileNotFoundError for a missing file or an unreachable hub, ValueError for bad rows and empty
    splits. `left_out` lists rows whose answer is none of the options and repeated questions.
    """

    def __init__(
        self,
        name: str,
        path: str | Mapping[str, str | None] | None = None,
        hub: str | None = None,
        hub_config: str | None = None,
        hub_revision: str | None = None,
        hub_splits: Mapping[str, str | None] | None = None,
        dev_share: float = 0.05,
        test_share: float = 0.2,
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
        question, answer, solution = found.question, found.answer, found.solution
        return make_problem(row, id, question, answer, solution, options=found.options)


def read_question(row: Row) -> Question:
    """The row in the layout that its fields tell; ValueError with the row for an unknown one."""
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
    return Question(question, options_of(question), row.text("answer"), row.text("solution"))


def _ecqa(row: Row) -> Question:
    """q_text, q_op1 to q_op5, q_ans, and taskA_pos: the statements that speak for the answer."""
    options = tuple(row.text(f"q_op{n}").strip() for n in range(1, 6))
    answer = row.text("q_ans").strip()
    return _question(row.text("q_text"), options, answer, row.text("taskA_pos"))


def _labelled(row: Row) -> Question:
    """question or question_stem, choices with text and label, answerKey: QASC, OpenBookQA, ARC.

    QASC's two facts and the fact that they make together are its reference solution.
    """
    choices = row.values["choices"]
    if not (isinstance(choices, Mapping) and "text" in choices and "label" in choices):
        found = shortened(choices)
        raise ValueError(f"{row.where}: field 'choices' has no lists 'text' and 'label': {found}")
    inner = Row(row.file, row.number, dict(choices))
    options, labels = inner.texts("text"), inner.texts("label")
    key = row.text("answerKey")
    if key not in labels or len(labels) != len(options):
        raise ValueError(
            f"{row.where}: answerKey {shortened(key)!r} is none of the labels "
            f"{shortened(', '.join(labels))} of {len(options)} options"
        )
    field = "question_stem" if "question_stem" in row.values else "question"
    facts = [row.text(f) for f in ("fact1", "fact2", "combinedfact") if row.values.get(f)]
    facts = facts if len(facts) == 3 else []
    return _question(row.text(field), options, options[labels.index(key)], "\n".join(facts))


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
"""The field that tells a layout, and its reader."""
