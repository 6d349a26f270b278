"""MATH: competition problems whose answers are LaTeX, from the hub or a local file.

In: rows with problem, solution, level and type (as in MATH and EleutherAI/hendrycks_math), or also
answer and subject (as in HuggingFaceH4/MATH-500). Out: problems whose gold answer is the `answer`
field, or the content of the solution's last box.

Two plain numbers are compared exactly, and LaTeX that is written alike is equal. All else is judged
by math-verify in the verifier's processes, for which equal values are right (`\\frac{2}{4}` for
`\\frac{1}{2}`, six decimals for an irrational number).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from rlmec.answers.final_answer import final_answer
from rlmec.answers.math_verifier import Verifier
from rlmec.answers.mathematics import at_a_glance, mathematics
from rlmec.records import Problem, Verdict
from rlmec.settings.ranges import PathText, PositiveFloat, ShareBelowOne
from rlmec.tasks.problem_tables import (
    ProblemTables,
    TableTask,
    digest_of,
    file_tables,
    hub_tables,
    make_problem,
)
from rlmec.tasks.rows import Row

SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)


class MathTask(TableTask):
    """MATH with dev cut from train by a hash of the question (`dev_share` of it).

    `path` is one local file, cut into splits (`test_share` and `dev_share` of it), or one file per
    split. Without it the data set `hub` is read with all of `hub_configs` (null: it has none);
    `hub_splits` names its split for each of ours. `kind` is what accuracy is split by. A comparison
    may take `time_limit` seconds of processor time and `memory_limit` GiB. `left_out` lists rows
    without a gold answer, and repeated questions.

    Raises FileNotFoundError for a missing file or an unreachable hub, and ValueError for bad rows
    and empty splits.
    """

    name = "math"

    def __init__(
        self,
        path: PathText | Mapping[str, PathText | None] | None = None,
        hub: str = "EleutherAI/hendrycks_math",
        hub_configs: Sequence[str] | None = SUBJECTS,
        hub_revision: str | None = None,
        hub_splits: Mapping[str, str | None] | None = None,
        dev_share: ShareBelowOne = 0.05,
        test_share: ShareBelowOne = 0.2,
        kind: Literal["type", "level"] = "type",
        time_limit: PositiveFloat = 0.5,
        memory_limit: PositiveFloat = 1.0,
    ) -> None:
        self.kind = kind
        self.verifier = Verifier(time_limit, memory_limit)
        splits = hub_splits or {"train": "train", "test": "test"}
        tables = file_tables(path) if path else hub_tables(hub, hub_configs, hub_revision, splits)
        self._tables = ProblemTables(self.name, tables, self._build, dev_share, test_share)

    def judge(self, text: str, problem: Problem) -> Verdict:
        """Compares the final answer with the gold answer as mathematics."""
        return self.judge_many([text], [problem])[0]

    def judge_many(self, texts: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        """Verdicts on many texts, those that need the verifier at once."""
        return judge_mathematics(self.verifier, texts, [problem.answer for problem in problems])

    def _build(self, row: Row) -> Problem | str:
        question = row.text("problem")
        solution = row.text_or_none("solution")
        gold = row.text_or_none("answer") or final_answer(solution or "", ("\\boxed{",))
        if gold is None or not gold.strip():
            return "the solution has no box with an answer"

        id = f"{self.name}-{digest_of(question)[:16]}"
        return make_problem(row, id, question, gold.strip(), solution, self._kind(row))

    def _kind(self, row: Row) -> str:
        if self.kind == "level":
            level = row.text("level")
            return f"Level {level}" if level.isdecimal() else level
        return row.text("subject" if "subject" in row.values else "type")


def judge_mathematics(
    verifier: Verifier, texts: Sequence[str], golds: Sequence[str]
) -> list[Verdict]:
    """Verdicts on the final answers of `texts` compared with gold answers as mathematics.

    Those that are not clear at a glance go to the verifier together.
    """
    found = [final_answer(text) for text in texts]
    pairs = list(zip(golds, found, strict=True))
    verdicts: list[Verdict | None] = [
        at_a_glance(gold, answer) if answer is not None else "no_answer" for gold, answer in pairs
    ]

    rest = [
        (mathematics(gold), mathematics(answer or ""))
        for (gold, answer), verdict in zip(pairs, verdicts, strict=True)
        if verdict is None
    ]
    checked = iter(verifier.check_many(rest))
    return [verdict or next(checked) for verdict in verdicts]
