"""Tables of judged models: the closing table of a report, rounds, and paired comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rlmec.evaluation.accuracy import Judged, paired_difference
from rlmec.runtime.display import markdown_table


@dataclass(frozen=True)
class Line:
    """One judged model: accuracy with its 95 % interval, what its training took, and the exact
    McNemar p-values against the start and against the policy on the same problems."""

    name: str
    accuracy: float
    low: float
    high: float
    problems: int
    updates: int | None
    seconds: float | None
    p_value: float | None
    p_value_policy: float | None = None
    flexible: float | None = None


def markdown(
    lines: list[Line],
    credit: dict[str, Any],
    notes: list[str],
    others: Mapping[str, Sequence[Line]] | None = None,
) -> str:
    """A Markdown table of the lines (the start first, the policy last), then one for each of the
    `others`, tasks judged beside that of training, then credit quality and notes."""
    parts = [_lines_table(lines) + f"\n{lines[0].problems} unseen problems.\n"]
    for task, judged in (others or {}).items():
        parts.append(f"On {task}, {judged[0].problems} problems:\n\n{_lines_table(judged)}")

    if credit:
        rows = [
            [name, f"{value:.3f}" if isinstance(value, float) else str(value)]
            for name, value in credit.items()
        ]
        head = ["credit of wrong attempts outside the GRM's training", ""]
        parts.append(markdown_table(head, rows))

    parts += [note.rstrip("\n") + "\n" for note in notes]
    return "\n".join(parts)


def _lines_table(lines: Sequence[Line]) -> str:
    last = lines[-1].name
    head = ["model", "accuracy", "95 % interval", "against start", "p", f"p against {last}"]
    head += ["updates", "seconds"]
    return markdown_table(head, [_line_cells(line, lines[0]) for line in lines])


def _line_cells(line: Line, start: Line) -> list[str]:
    return [
        line.name,
        f"{100 * line.accuracy:.1f} %",
        f"{100 * line.low:.1f} to {100 * line.high:.1f}",
        "" if line is start else f"{100 * (line.accuracy - start.accuracy):+.1f}",
        "" if line.p_value is None else f"{line.p_value:.2g}",
        "" if line.p_value_policy is None else f"{line.p_value_policy:.2g}",
        "" if line.updates is None else str(line.updates),
        "" if line.seconds is None else f"{line.seconds:.0f}",
    ]


@dataclass(frozen=True)
class RoundLine:
    """One round. Shares of 1: of right attempts among those sampled at its start (train problems),
    of penalties that the trusted corrections confirm, of dev and of test problems solved at its
    end; None where that was not measured. `corrected` counts accepted corrections."""

    round: int
    attempts: int
    sampled_accuracy: float | None
    corrected: int
    credit_precision: float | None
    updates: int
    dev_accuracy: float | None
    accuracy: float | None


HEAD = ("round", "attempts", "right", "corrected", "credit precision", "updates", "dev", "accuracy")


def rounds_table(lines: Sequence[RoundLine]) -> str:
    """A Markdown table; what was not measured is left empty."""
    return markdown_table(HEAD, map(_round_cells, lines))


def _round_cells(line: RoundLine) -> list[str]:
    return [
        str(line.round),
        str(line.attempts),
        _percent(line.sampled_accuracy),
        str(line.corrected),
        "" if line.credit_precision is None else f"{line.credit_precision:.3f}",
        str(line.updates),
        _percent(line.dev_accuracy),
        _percent(line.accuracy),
    ]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


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
    return markdown_table(head, rows)


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
    return markdown_table(head, rows)


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
