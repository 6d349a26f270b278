"""A user's own problems: any file of JSON lines (or a JSON list) with fields named by settings.

In: a file, or one a split, and the names of its fields; out: problems, judged as a number where the
gold answer is one and as normalised text otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping

from rlmec.answers import numbers
from rlmec.records import Problem, Verdict
from rlmec.tasks.problem_tables import (
    ProblemTables,
    TableTask,
    digest_of,
    file_tables,
    make_problem,
)
from rlmec.tasks.rows import Row


class JsonlTask(TableTask):
    """Problems from a user's file.

    `path` is one file, cut into splits by a hash of the question (`test_share`, `dev_share`), or
    one file a split (`dev_share` of train becomes dev where dev has no file). Without
    `answer_field` the gold answer is the final answer of the solution; `id_field` left out, an id
    is made from the question. Raises FileNotFoundError for a missing file, ValueError for bad rows
    and empty splits. `left_out` lists rows without a gold answer and repeated questions.
    """

    name = "jsonl"

    def __init__(
        self,
        path: str | Mapping[str, str | None],
        question_field: str = "question",
        answer_field: str | None = "answer",
        solution_field: str | None = None,
        id_field: str | None = None,
        kind_field: str | None = None,
        dev_share: float = 0.1,
        test_share: float = 0.2,
    ) -> None:
        if answer_field is None and solution_field is None:
            raise ValueError("task jsonl: name answer_field or solution_field (or both)")
        self.question_field, self.answer_field = question_field, answer_field
        self.solution_field, self.id_field = solution_field, id_field
        self.kind_field = kind_field
        self._tables = ProblemTables(
            self.name, file_tables(path), self._build, dev_share, test_share
        )

    def judge(self, text: str, problem: Problem) -> Verdict:
        """Compares the final answer with the gold answer, as numbers where that is one."""
        return numbers.judge_answer(text, problem.answer)

    def _build(self, row: Row) -> Problem | str:
        question = row.text(self.question_field)
        solution = row.text(self.solution_field) if self.solution_field else None
        if self.answer_field:
            answer = row.text(self.answer_field)
        else:
            answer = numbers.final_answer(solution or "") or ""
        if not numbers.normal_text(answer):
            return "no gold answer"
        id = row.text(self.id_field) if self.id_field else f"jsonl-{digest_of(question)[:16]}"
        kind = row.text(self.kind_field) if self.kind_field else ""
        return make_problem(row, id, question, answer, solution, kind)
