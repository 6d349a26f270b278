"""SVAMP: word problems of one or two operations, from the hub or from the published file.

In: rows with Body, Question, Equation, Answer and Type. Out: problems whose question is the body
and the question on one line, whose kind is the type, and whose reference solution is the published
equation with its value ("( 76.0 - 25.0 ) = 51").
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from rlmec.answers.final_answer import judge_number
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
from rlmec.tasks.rows import Row, shortened


class SvampTask(TableTask):
    """SVAMP with dev cut from train by a hash of the question (`dev_share` of it).

    `path` is one local file, cut into splits (`test_share` and `dev_share` of it), or one file per
    split (`path.test` alone judges the whole published file). Without it the data set `hub` is
    read.

    Raises FileNotFoundError for a missing file or an unreachable hub, and ValueError for bad rows
    and empty splits.
    """

    name = "svamp"

    def __init__(
        self,
        path: PathText | Mapping[str, PathText | None] | None = None,
        hub: str = "ChilleD/SVAMP",
        hub_config: str | None = None,
        hub_revision: str | None = None,
        dev_share: ShareBelowOne = 0.05,
        test_share: ShareBelowOne = 0.2,
    ) -> None:
        splits = {"train": "train", "test": "test"}
        tables = file_tables(path) if path else hub_tables(hub, hub_config, hub_revision, splits)
        self._tables = ProblemTables(self.name, tables, self._build, dev_share, test_share)

    def judge(self, text: str, problem: Problem) -> Verdict:
        """Compares the final answer with the gold answer as exact numbers."""
        return judge_number(text, problem.answer)

    def _build(self, row: Row) -> Problem | str:
        body = row.text("Body").strip()
        asked = row.text("Question").strip()
        question = f"{body} {asked}"

        answer = row.text_or_none("Answer") or ""
        number = parse_number(answer, bare=True)
        if number is None:
            return f"the answer is no number: {shortened(answer)!r}"
        gold = _written(number, answer)

        equation = row.text_or_none("Equation")
        solution = f"{equation.strip()} = {gold}\nThe answer is {gold}" if equation else None
        id = f"{self.name}-{digest_of(question)[:16]}"
        return make_problem(row, id, question if asked else "", gold, solution, row.text("Type"))


def _written(number: Fraction, text: str) -> str:
    return str(number.numerator) if number.denominator == 1 else text
