"""GSM8K: grade-school word problems, from the hub or from files in its layouts.

In: the hub's data set, or files with question and answer (`... #### 18`), or the released model
solutions with question and ground_truth (`... A: 18`). Out: problems whose gold answer is the
number after the last marker, and whose reference solution is the whole text. Calculator marks such
as `<<48/2=24>>` are removed unless they are asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from rlmec.answers.final_answer import final_answer, judge_number
from rlmec.answers.numbers import parse_number
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
from rlmec.tasks.rows import Row

CALCULATOR_MARK = re.compile(r"<<[^<>\n]{0,200}>>")
SOLUTION_FIELDS = ("answer", "ground_truth")


class Gsm8kTask(TableTask):
    """GSM8K with dev cut from train by a hash of the question (`dev_share` of it).

    `path` is one local file, cut into splits (`test_share` and `dev_share` of it), or one file per
    split. Without it the data set `hub` is read, with its `hub_config` and `hub_revision`.
    `calculator_marks` keeps the marks in solutions. `left_out` lists rows without a readable gold
    answer, and repeated questions.

    Raises FileNotFoundError for a missing file or an unreachable hub, and ValueError for bad rows
    and empty splits.
    """

    name = "gsm8k"

    def __init__(
        self,
        path: PathText | Mapping[str, PathText | None] | None = None,
        hub: str = "openai/gsm8k",
        hub_config: str = "main",
        hub_revision: str | None = None,
        dev_share: ShareBelowOne = 0.05,
        test_share: ShareBelowOne = 0.2,
        calculator_marks: bool = False,
    ) -> None:
        self.calculator_marks = calculator_marks
        splits = {"train": "train", "test": "test"}
        tables = file_tables(path) if path else hub_tables(hub, hub_config, hub_revision, splits)
        self._tables = ProblemTables(self.name, tables, self._build, dev_share, test_share)

    def judge(self, text: str, problem: Problem) -> Verdict:
        """Compares the final answer with the gold answer as exact numbers."""
        return judge_number(text, problem.answer)

    def clean(self, text: str) -> str:
        """A solution as the task writes it: without calculator marks, unless they are kept."""
        return text if self.calculator_marks else CALCULATOR_MARK.sub("", text)

    def _build(self, row: Row) -> Problem | str:
        question = row.text("question")
        field = next((name for name in SOLUTION_FIELDS if name in row.values), None)
        if field is None:
            raise ValueError(
                f"{row.where}: no field 'answer'; expected question and answer (or ground_truth), "
                f"found {row.names}"
            )

        solution = self.clean(row.text_or_none(field) or "")
        gold = final_answer(solution)
        if gold is None or parse_number(gold) is None:
            return f"no number after a marker such as '####' in {field!r} (found {gold!r})"
        return make_problem(row, f"gsm8k-{digest_of(question)[:16]}", question, gold, solution)
