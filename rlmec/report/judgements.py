"""Judged models side by side, and by pairs on the same problems, as tables of text.

In: judgements, one a model and task. Out: Markdown and plain rows. Differences are only ever taken
between attempts at the same problems.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rlmec.evaluation import Judged, paired_difference


@dataclass(frozen=True)
class Judgement:
    """A model (or stored outputs) on one task: the figures without their prefix, and the attempts
    that they were made from."""

    model: str
    task: str
    figures: dict[str, Any]
    attempts: Sequence[Judged] = field(repr=False)

    @property
    def one_each(self) -> bool:
        """Whether there is one attempt a problem, so that models can be compared by pairs."""
        return len({a.problem_id for a in self.attempts}) == len(self.attempts)


@dataclass(frozen=True)
class Comparison:
    """Two models on the same problems of a task; `difference` is the second's accuracy less the
    first's, `p_value` McNemar's exact test (see evaluation.paired_difference)."""

    task: str
    first: str
    second: str
    problems: int
    both: int
    only_first: int
    only_second: int
    neither: int
    difference: float
    p_value: float


def paired_p_value(first: Sequence[Judged], second: Sequence[Judged]) -> float | None:
    """McNemar's exact p-value, or None where a side has several attempts at a problem."""
    sides = (first, second)
    if any(len({a.problem_id for a in side}) < len(side) for side in sides):
        return None
    return paired_difference(first, second)["p_value"]


def comparisons(judged: Sequence[Judgement]) -> list[Comparison]:
    """The first model against each other one, task by task.

    Judgements with several attempts a problem are in none. Other problems on the two sides raise
    ValueError that names task, models and what differs.
    """
    out: list[Comparison] = []
    for task in dict.fromkeys(j.task for j in judged):
        of_task = [j for j in judged if j.task == task and j.one_each]
        for other in of_task[1:]:
            first = of_task[0]
            try:
                found = paired_difference(first.attempts, other.attempts)
            except ValueError as error:
                raise ValueError(f"{task}: {first.model} and {other.model}: {error}") from error
            counts = {k: int(v) for k, v in found.items() if k not in ("difference", "p_value")}
            out.append(
                Comparison(
                    task,
                    first.model,
                    other.model,
                    difference=found["difference"],
                    p_value=found["p_value"],
                    **counts,
                )
            )
    return out


def accuracy_table(judged: Sequence[Judgement]) -> str:
    """One line a model and task; the columns of the readings that were asked for."""
    lenient = any("accuracy_flexible" in j.figures for j in judged)
    paper = any("accuracy_authors" in j.figures for j in judged)
    head = ["task", "model", "problems", "accuracy", "95 % interval"]
    head += ["flexible", "95 % interval"] if lenient else []
    head += ["authors' scorer", "95 % interval", "its ceiling"] if paper else []
    rows = []
    for j in judged:
        cells = [j.task, j.model, f"{j.figures['problems']:.0f}", *_share(j, "accuracy")]
        cells += _share(j, "accuracy_flexible") if lenient else []
        if paper:
            cells += [*_share(j, "accuracy_authors"), _percent(j.figures.get("authors_ceiling"))]
        rows.append(cells)
    return _markdown(head, rows)


def comparison_table(found: Sequence[Comparison]) -> str:
    """One line a comparison: what both solve, what only one does, and how likely by chance."""
    head = ["task", "first", "second", "difference", "both", "only first", "only second", "p"]
    rows = [
        [
            c.task,
            c.first,
            c.second,
            f"{100 * c.difference:+.1f}",
            str(c.both),
            str(c.only_first),
            str(c.only_second),
            f"{c.p_value:.2g}",
        ]
        for c in found
    ]
    return _markdown(head, rows)


def plain(judged: Sequence[Judgement], found: Sequence[Comparison]) -> dict[str, Any]:
    """Both tables as plain values, for a JSON file."""
    return {
        "judgements": [{"task": j.task, "model": j.model, **j.figures} for j in judged],
        "comparisons": [asdict(c) for c in found],
    }


def _share(j: Judgement, name: str) -> list[str]:
    low, high = j.figures.get(f"{name}_low"), j.figures.get(f"{name}_high")
    if low is None or high is None:
        return ["", ""]
    return [_percent(j.figures[name]), f"{100 * low:.1f} to {100 * high:.1f}"]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
