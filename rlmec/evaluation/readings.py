"""All figures of one evaluation: the strict ones, and those of other readings of the same attempts.

In: judged attempts or stored outputs, their problems and task, the readings asked for. Out: numbers
by name. The strict reading is the verdict that the attempts carry, which rewards are made from. The
lenient reading gives the last answer named to the same judge. The authors' reading is the paper's
scorer with its faults, and comes with the ceiling that these put on any model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rlmec.evaluation.accuracy import (
    Judged,
    by_kind,
    mode_figures,
    report,
)
from rlmec.evaluation.lenient_reading import flexible_answer, judge_flexible
from rlmec.evaluation.paper_reading import TOLERANCES, ceiling, judge_as_authors
from rlmec.records import Problem, by_id
from rlmec.tasks.base import Task

IsRight = Callable[[Task, Judged, Problem], bool]


def _flexibly(task: Task, attempt: Judged, problem: Problem) -> bool:
    """Whether the lenient reading is right; a clipped attempt never is, as for the strict one."""
    if attempt.clipped:
        return False
    if attempt.verdict == "right":
        return True
    if flexible_answer(attempt.text, problem) == task.final_answer(attempt.text):
        return False
    return judge_flexible(task, attempt.text, problem) == "right"


def _as_authors(task: Task, attempt: Judged, problem: Problem) -> bool:
    """Whether the paper's scorer takes the attempt as right."""
    return judge_as_authors(attempt.text, problem, TOLERANCES.get(task.name, 0.0)) == "right"


MODES: dict[str, IsRight] = {"flexible": _flexibly, "authors": _as_authors}
"""The readings besides the strict one, by their name in the figures."""


def figures(
    attempts: Sequence[Judged], problems: Sequence[Problem], task: Task, modes: Sequence[str]
) -> dict[str, Any]:
    """The figures of `accuracy.report`, then those of each mode and of each kind of problem.

    Every mode but "strict", which is always there, gives `accuracy_<mode>` with its interval; the
    authors' mode also gives its ceiling on the problems attempted.
    """
    known = by_id(problems)
    out: dict[str, Any] = report(attempts, problems, task.final_answer, task.judge)
    for mode in modes:
        if mode != "strict":
            right = [MODES[mode](task, a, known[a.problem_id]) for a in attempts]
            out |= mode_figures(attempts, right, mode)

    if "authors" in modes:
        tried = dict.fromkeys(a.problem_id for a in attempts if a.verdict != "unparsable")
        tolerance = TOLERANCES.get(task.name, 0.0)
        out["authors_ceiling"] = ceiling([known[id_] for id_ in tried], tolerance)

    kinds = by_kind(attempts, problems)
    return out | {f"accuracy/{kind}": right / n for kind, (right, n) in kinds.items() if kind}
