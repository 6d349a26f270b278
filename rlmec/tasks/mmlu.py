"""MMLU's mathematics subjects: four choices, for evaluation only, from the hub or a local file.

In: rows with question, subject, choices and the number of the right choice. Out: problems that show
their choices as options, one per line, and whose kind is the subject. The data set has no train
split. Its dev split is for few-shot examples, and its validation split is our dev.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlmec.answers.options import LETTERS, judge_option, with_options
from rlmec.records import Problem, Verdict
from rlmec.settings.ranges import PathText
from rlmec.tasks.problem_tables import (
    ProblemTables,
    TableTask,
    digest_of,
    file_tables,
    hub_tables,
    make_problem,
)
from rlmec.tasks.rows import Row, shortened

MATHEMATICS = (
    "abstract_algebra",
    "college_mathematics",
    "elementary_mathematics",
    "formal_logic",
    "high_school_mathematics",
    "high_school_statistics",
)


class MmluTask(TableTask):
    """MMLU's `subjects` (the hub's configurations) as questions with options.

    `path` is one local file of test problems or one file per split. Rows of other subjects are left
    out.

    Raises FileNotFoundError for a missing file or an unreachable hub, and ValueError for bad rows,
    empty splits, and train, which does not exist.
    """

    name = "mmlu"

    def __init__(
        self,
        path: PathText | Mapping[str, PathText | None] | None = None,
        hub: str = "cais/mmlu",
        hub_revision: str | None = None,
        subjects: Sequence[str] = MATHEMATICS,
    ) -> None:
        self.subjects = tuple(subjects)
        splits = {"dev": "validation", "test": "test"}
        tables = (
            file_tables(path, whole="test")
            if path
            else hub_tables(hub, self.subjects, hub_revision, splits)
        )
        self._tables = ProblemTables(self.name, tables, self._build, 0.0, 0.0)

    def judge(self, text: str, problem: Problem) -> Verdict:
        """Compares the option that the final answer names with the right one."""
        return judge_option(text, problem.answer, problem.options)

    def _build(self, row: Row) -> Problem | str:
        subject = row.text("subject")
        if subject not in self.subjects:
            return f"subject {shortened(subject)!r} is not asked for"

        options = row.texts("choices")
        index = _index(row, len(options))
        question = with_options(row.text("question"), options)
        id = f"{self.name}-{digest_of(question)[:16]}"
        return make_problem(row, id, question, options[index], None, subject, options)


def _index(row: Row, count: int) -> int:
    """The index of the right choice, which a row has as a number from 0 or as a letter."""
    answer = row.text("answer").strip()
    index = LETTERS.find(answer) if len(answer) == 1 and answer.isalpha() else -1
    if answer.isdecimal() and len(answer) < 10:
        index = int(answer)

    if not 0 <= index < count:
        raise ValueError(
            f"{row.where}: answer {shortened(answer)!r}; expected the number of one of {count} "
            "choices, from 0"
        )
    return index
