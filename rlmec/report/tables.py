"""Tables of judged models, as Markdown and as plain values.

In: the figures of evaluations and the attempts behind them. Out: the closing table of a report, the
table of its rounds, and the tables of `evaluate.py` with its paired comparisons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from rlmec.evaluation.accuracy import Judged, paired_difference
from rlmec.evaluation.run_warnings import of_lengths
from rlmec.runtime.display import markdown_table

INTERVAL = "95 % interval"


class Table(NamedTuple):
    """A table as texts; the first cell of a row names it."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        return markdown_table(self.head, self.rows)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _interval(low: float, high: float) -> str:
    return f"{100 * low:.1f} to {100 * high:.1f}"


def _p_value(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


# --- the closing table of a report ---


@dataclass(frozen=True)
class Line:
    """One judged model of a report.

    `low` and `high` bound the 95 % interval of `accuracy`. `updates` and `seconds` are what its
    training took. The p-values are those of McNemar's exact test on the same problems, against the
    start and against the policy.
    """

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
    """The closing table: the judged models, then the quality of the credit in words, and notes.

    The start is the first of the `lines`, the policy the last one. `others` holds the lines of
    further tasks, each of which gets a table of its own.
    """
    parts = [lines_table(lines).markdown() + f"\n{lines[0].problems} unseen problems.\n"]
    for task, judged in (others or {}).items():
        table = lines_table(judged).markdown()
        parts.append(f"On {task}, {judged[0].problems} problems:\n\n{table}")

    if credit:
        parts += [credit_words(credit) + "\n", credit_table(credit).markdown()]

    parts += [note.rstrip("\n") + "\n" for note in notes]
    return "\n".join(parts)


def lines_table(lines: Sequence[Line], caption: str = "") -> Table:
    """One row per judged model; the first line is the start, the last one the policy."""
    last = lines[-1].name
    head = ["model", "accuracy", INTERVAL, "against start", "p", f"p against {last}"]
    head += ["updates", "seconds"]
    return Table(caption, head, [_line_cells(line, lines[0]) for line in lines])


def _line_cells(line: Line, start: Line) -> list[str]:
    return [
        line.name,
        _percent(line.accuracy),
        _interval(line.low, line.high),
        "" if line is start else f"{100 * (line.accuracy - start.accuracy):+.1f}",
        _p_value(line.p_value),
        _p_value(line.p_value_policy),
        "" if line.updates is None else str(line.updates),
        "" if line.seconds is None else f"{line.seconds:.0f}",
    ]


def compared_lines(
    first: Sequence[Line], second: Sequence[Line], paired: Mapping[str, float | None]
) -> Table:
    """One row per model of both runs: its accuracies, their difference, and the `paired` p-value.

    A p-value is missing where the two were judged on different problems.
    """
    others = {line.name: line for line in second}
    rows = []
    for line in first:
        other = others.get(line.name)
        if other is None:
            continue
        accuracies = [
            f"{_percent(one.accuracy)} ({_interval(one.low, one.high)})" for one in (line, other)
        ]
        difference = f"{100 * (line.accuracy - other.accuracy):+.1f}"
        rows.append([line.name, *accuracies, difference, _p_value(paired.get(line.name))])
    head = ["model", "this run", "other run", "difference", "p"]
    return Table("Accuracy, with its 95 % interval", head, rows)


LEVEL = 0.05
"""The p-value below which a difference is called more than chance."""


def outcome_words(lines: Sequence[Line]) -> list[str]:
    """The result in sentences: policy and start, and which other models equal the policy.

    The first line is the start, the last one the policy.
    """
    start, policy = lines[0], lines[-1]
    difference = 100 * (policy.accuracy - start.accuracy)
    out = [
        f"The policy solves {_percent(policy.accuracy)} of {policy.problems:,} unseen problems "
        f"(95 % interval {_interval(policy.low, policy.high)}), the start "
        f"{_percent(start.accuracy)}."
    ]
    if policy.p_value is None:
        out.append(f"The difference of {difference:+.1f} points was not tested.")
    elif policy.p_value < LEVEL:
        out.append(
            f"The difference of {difference:+.1f} points is more than chance explains "
            f"(p = {_p_value(policy.p_value)})."
        )
    else:
        out.append(
            f"The difference of {difference:+.1f} points may be chance "
            f"(p = {_p_value(policy.p_value)})."
        )

    alike = [
        line.name
        for line in lines[1:-1]
        if line.p_value_policy is not None and line.p_value_policy >= LEVEL
    ]
    if alike:
        out.append(f"Not told apart from the policy: {', '.join(alike)} (p of {LEVEL} or more).")
    better = [
        line.name
        for line in lines[1:-1]
        if line.accuracy > policy.accuracy and line.name not in alike
    ]
    if better:
        out.append(f"Better than the policy: {', '.join(better)}.")
    return out


# --- credit ---

TRUTHS = {"oracle": "the oracle's correction", "accepted_correction": "the accepted correction"}
"""Names in a sentence of what credit is compared with (`grm/credit_truth`)."""

CREDIT_ROWS = {
    "grm/credit_precision": "punished tokens that are removed",
    "grm/credit_base_rate": "the same by chance: removed tokens among all",
    "grm/credit_unlikely_precision": "the same for as many tokens, the old policy's least likely",
    "grm/credit_after_edit_precision": "the same for every token from the first edit on",
    "grm/credit_recall": "removed tokens that are punished",
    "grm/most_punished_in_first_error": "attempts with the largest penalty in the first wrong line",
}
"""The shares of the credit in words."""


def credit_words(credit: Mapping[str, Any]) -> str:
    """The quality of the credit as a sentence, from its metrics `grm/credit_*`.

    They count wrong attempts at problems outside the GRM's training only.
    """
    if not credit:
        return (
            "Whether the penalties are right was not measured: no wrong attempt at a problem "
            "outside the GRM's training has a correction to compare with."
        )
    truth = TRUTHS[credit["grm/credit_truth"]]
    attempts = credit["grm/credit_attempts"]
    where = f"{attempts:,} wrong attempts at problems that the GRM was not trained on"
    punished = credit["grm/credit_punished"]
    if not punished:
        return f"No token is punished in {where}."

    hits = 100 * credit["grm/credit_precision"]
    by_chance = 100 * credit["grm/credit_base_rate"]
    return (
        f"Of {punished:,} punished tokens in {where}, {hits:.0f} % are removed by {truth}; "
        f"by chance it would be {by_chance:.0f} %."
    )


def credit_table(credit: Mapping[str, Any]) -> Table:
    """All shares of the credit in words, and what they are to be compared with."""
    known = {name: words for name, words in CREDIT_ROWS.items() if name in credit}
    rows = [(words, _percent(credit[name])) for name, words in known.items()]
    caption = "Credit on wrong attempts that the GRM was not trained on"
    return Table(caption, ["share", "value"], rows)


# --- rounds ---


@dataclass(frozen=True)
class RoundLine:
    """One round; a share is between 0 and 1, and None if it was not measured.

    - `sampled_accuracy`: right attempts among those sampled at its start, on train problems.
    - `corrected`: accepted corrections.
    - `credit_precision`: penalties that trusted corrections confirm.
    - `dev_accuracy`, `accuracy`: dev and test problems solved at its end.
    """

    round: int
    attempts: int
    sampled_accuracy: float | None
    corrected: int
    credit_precision: float | None
    updates: int
    dev_accuracy: float | None
    accuracy: float | None


def rounds_table(lines: Sequence[RoundLine], caption: str = "") -> Table:
    """One row per round; a cell is empty if its value was not measured."""
    head = ["round", "attempts", "right", "corrected", "credit precision", "updates", "dev"]
    return Table(caption, [*head, "accuracy"], [_round_cells(line) for line in lines])


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


# --- several models on several tasks ---


@dataclass(frozen=True)
class Judgement:
    """A model (or stored outputs) on one task.

    `figures` are metrics without their prefix, `attempts` what they were computed from.
    """

    model: str
    task: str
    figures: dict[str, Any]
    attempts: Sequence[Judged] = field(repr=False)

    @property
    def one_each(self) -> bool:
        """Whether there is one attempt per problem, so that a paired comparison is possible."""
        return len({a.problem_id for a in self.attempts}) == len(self.attempts)


@dataclass(frozen=True)
class Comparison:
    """Two models on the same problems of a task.

    `both`, `only_first`, `only_second` and `neither` count the problems that they solve.
    `difference` is the accuracy of the second minus that of the first. `p_value` is that of
    McNemar's exact test (`rlmec.evaluation.accuracy.paired_difference`).
    """

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
    """McNemar's exact p-value, or None if a side has several attempts per problem."""
    for attempts in (first, second):
        if len({a.problem_id for a in attempts}) < len(attempts):
            return None
    return paired_difference(first, second)["p_value"]


def comparisons(judged: Sequence[Judgement]) -> list[Comparison]:
    """The first model against every other one, task by task.

    Judgements with several attempts per problem are left out. Raises ValueError that names the task
    and the models if the two sides were judged on different problems.
    """
    out: list[Comparison] = []
    for task in dict.fromkeys(j.task for j in judged):
        of_task = [j for j in judged if j.task == task and j.one_each]
        for other in of_task[1:]:
            out.append(_compared(task, of_task[0], other))
    return out


def _compared(task: str, first: Judgement, other: Judgement) -> Comparison:
    try:
        found = paired_difference(first.attempts, other.attempts)
    except ValueError as error:
        raise ValueError(f"{task}: {first.model} and {other.model}: {error}") from error
    counts = {k: int(v) for k, v in found.items() if k not in ("difference", "p_value")}
    return Comparison(
        task,
        first.model,
        other.model,
        difference=found["difference"],
        p_value=found["p_value"],
        **counts,
    )


def accuracy_table(judged: Sequence[Judgement]) -> str:
    """One line per model and task, with the columns of the readings that were asked for."""
    flexible = any("accuracy_flexible" in j.figures for j in judged)
    authors = any("accuracy_authors" in j.figures for j in judged)

    head = ["task", "model", "problems", "accuracy", INTERVAL]
    if flexible:
        head += ["flexible", INTERVAL]
    if authors:
        head += ["authors' scorer", INTERVAL, "its ceiling"]

    rows = []
    for j in judged:
        cells = [j.task, j.model, f"{j.figures['problems']:.0f}", *_accuracy_cells(j, "accuracy")]
        if flexible:
            cells += _accuracy_cells(j, "accuracy_flexible")
        if authors:
            cells += _accuracy_cells(j, "accuracy_authors")
            cells.append(_percent(j.figures.get("authors_ceiling")))
        rows.append(cells)
    return markdown_table(head, rows)


def warning_lines(judged: Sequence[Judgement]) -> list[str]:
    """What to know before a judged model's accuracy is believed, one line each."""
    return [
        f"Warning, {j.model}: {warning}"
        for j in judged
        for warning in of_lengths({f"eval/{j.task}/clipped_rate": j.figures["clipped_rate"]})
    ]


def _accuracy_cells(judgement: Judgement, name: str) -> list[str]:
    low = judgement.figures.get(f"{name}_low")
    high = judgement.figures.get(f"{name}_high")
    if low is None or high is None:
        return ["", ""]
    return [_percent(judgement.figures[name]), _interval(low, high)]


def comparison_table(found: Sequence[Comparison]) -> str:
    """One line per comparison: the difference, the problems behind it, and the p-value."""
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
            _p_value(c.p_value),
        ]
        for c in found
    ]
    return markdown_table(head, rows)


def plain(judged: Sequence[Judgement], found: Sequence[Comparison]) -> dict[str, Any]:
    """Judgements and comparisons as plain values, for a JSON file."""
    return {
        "judgements": [{"task": j.task, "model": j.model, **j.figures} for j in judged],
        "comparisons": [asdict(c) for c in found],
        "warnings": warning_lines(judged),
    }
