"""What a report shows besides its table: figures, warnings and the two pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlmec.evaluation.accuracy import by_kind
from rlmec.evaluation.run_warnings import NamedWarning, of_evaluations
from rlmec.pipeline.chain import Run, curve_of, warnings_of
from rlmec.records import Attempt, by_id
from rlmec.report.figures import (
    METRIC_WORDS,
    Bar,
    Points,
    accuracy_figure,
    credit_figure,
    curve_figure,
    curves,
    edits_figure,
    errors_figure,
    kinds_figure,
    reward_figure,
    write_png,
)
from rlmec.report.first_page import (
    FirstPage,
    ShownFigure,
    SideBySide,
    index_html,
    telling_attempts,
)
from rlmec.report.inline_svg import inline_svg
from rlmec.report.tables import (
    Line,
    RoundLine,
    Table,
    credit_table,
    credit_words,
    lines_table,
    outcome_words,
    rounds_table,
)
from rlmec.report.token_page import Case, page_data, page_html
from rlmec.stages.report_against import OtherRun, both_fits, side_by_side
from rlmec.stages.report_credit import Scored
from rlmec.stages.report_facts import run_facts, run_intro, stages_table
from rlmec.store.artifacts import Artifact
from rlmec.store.atomic import atomic_write_text
from rlmec.store.tables import read_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOKENS_PAGE, FIRST_PAGE = "tokens.html", "index.html"

DOWNLOADS = {
    TOKENS_PAGE: "the token-reward page",
    "table.md": "the tables as text",
    "table.json": "the tables and the credit as data",
    "results.json": "the policy's accuracy in the layout of lm-evaluation-harness",
}
"""The files next to the first page, besides the figures."""


CREDIT_CAPTION = (
    "If every token below a threshold on its GRM probability were punished: how many of these the "
    "correction removes (precision), and how many of the removed ones these are (recall)."
)


@dataclass(frozen=True, eq=False)
class Found:
    """What a report has found out before it is shown.

    `facts` are those of `report_facts.page_facts`. `lines` are the judged models on the task of
    training, `others` those on further tasks, `panels` the bars of all of them. `start` and
    `policy` are the evaluations on the task of training. `cases` are the attempts of the
    token-reward page. `other` is the run to compare with.
    """

    facts: list[tuple[str, str]]
    lines: list[Line]
    others: Mapping[str, list[Line]]
    panels: Mapping[str, Sequence[Bar]]
    rounds: list[RoundLine]
    credit: Mapping[str, Any]
    notes: list[str]
    cases: list[Case]
    start: Artifact
    policy: Artifact
    other: OtherRun | None = None


def pictures(
    run: Run, work: Path, parents: dict[str, Artifact], scored: Scored, found: Found
) -> list[NamedWarning]:
    """Writes figures, token-reward page and first page into `work`; returns the warnings.

    Without scores there is no token-reward page.
    """
    if scored.is_scored:
        tokens = tokens_page(run, scored, found.cases, found.credit, parents["score"])
        atomic_write_text(work / TOKENS_PAGE, tokens)

    late = of_evaluations(found.start.metrics, found.policy.metrics, run.task.name)
    for warning in late:
        run.say(f"  warning: {warning}")
    warnings = [w for artifact in parents.values() for w in warnings_of(artifact)] + late

    figures = {
        name: _saved(figure, caption, name, work)
        for name, figure, caption in _figures(run, parents, scored, found)
    }
    accuracy, credit = figures.pop("accuracy"), figures.pop("credit", None)
    shares = []
    if found.credit.get("grm/credit_punished"):
        shares = [
            ("punished tokens", 100 * found.credit["grm/credit_precision"]),
            ("any tokens (chance)", 100 * found.credit["grm/credit_base_rate"]),
        ]
    page = FirstPage(
        title=run.task.name,
        intro=run_intro(run, parents),
        facts=found.facts,
        outcome=outcome_words(found.lines),
        tables=_tables(run, found),
        notes=found.notes,
        accuracy=accuracy,
        attempts=telling_attempts(found.cases, scored.texts, TOKENS_PAGE),
        credit=credit_words(found.credit) if scored.is_scored else "",
        shares=shares,
        credit_table=credit_table(found.credit),
        credit_figure=credit,
        stages=stages_table(parents),
        warnings=warnings,
        downloads=[item for item in DOWNLOADS.items() if (work / item[0]).exists()],
        figures=[*figures.values()],
        tokens_page=TOKENS_PAGE if scored.is_scored else "",
        against=_against(found, parents, work),
    )
    atomic_write_text(work / FIRST_PAGE, index_html(page))
    return warnings


def _against(found: Found, parents: dict[str, Artifact], work: Path) -> SideBySide | None:
    """This run next to the other one, if there is one to compare with."""
    if found.other is None:
        return None
    drawn = []
    fits = both_fits(found.other, parents, found.lines[-1].name)
    for metric, lines in curves(fits, "policy").items():
        figure = curve_figure("policy", metric, lines)
        name = f"against_{metric.replace('/', '_')}"
        drawn.append(_saved(figure, f"{METRIC_WORDS[metric]}.", name, work))
    return side_by_side(found.other, found.facts, found.lines, found.credit, parents, drawn)


def tokens_page(
    run: Run, scored: Scored, cases: list[Case], credit: Mapping[str, Any], score: Artifact
) -> str:
    """The token-reward page of `cases`, the scored attempts that are shown."""
    counts = [Counter(c.pair.attempt.is_right for c in group) for group in (scored.cases, cases)]
    choice = f"All {len(cases):,} scored attempts."
    if len(cases) < len(scored.cases):
        shown = [
            f"{counts[1][r]:,} of {counts[0][r]:,} {w}"
            for r, w in ((False, "wrong"), (True, "right"))
        ]
        choice = f"{len(cases):,} of {len(scored.cases):,} scored attempts, chosen by a hash of "
        choice += f"their ids: {' and '.join(shown)} ones (report.page_pairs)."
    data = page_data(
        cases,
        scored.texts,
        scored.codec.end_ids,
        title=run.task.name,
        choice=choice,
        credit=credit_words(credit),
        index=FIRST_PAGE,
        facts=run_facts(run, score),
    )
    return page_html(data)


def _tables(run: Run, found: Found) -> list[Table]:
    """The closing tables: the task of training, further tasks, rounds."""
    judged = {run.task.name: found.lines, **found.others}
    tables = [
        lines_table(lines, f"{task}, {lines[0].problems:,} problems")
        for task, lines in judged.items()
    ]
    if len(found.rounds) > 1:
        tables.append(rounds_table(found.rounds, "Rounds"))
    return tables


# --- figures ---

Drawn = tuple[str, "Figure", str]
"""A figure with the name of its file and a sentence about it."""


def _saved(figure: Figure, caption: str, name: str, work: Path) -> ShownFigure:
    """Saves a figure as PNG, and returns it as it is shown."""
    file = f"{name}.png"
    write_png(figure, work / file)
    figure.set_layout_engine("none")  # everything has its place now: SVG need not find it again
    return ShownFigure(inline_svg(figure, name, caption), caption, file)


def _figures(
    run: Run, parents: dict[str, Artifact], scored: Scored, found: Found
) -> Iterator[Drawn]:
    accuracy = accuracy_figure(found.panels)
    yield "accuracy", accuracy, "Accuracy of every judged model with its 95 % interval."
    yield from _kinds(run, found)
    yield from _credit(run, scored)
    yield from _curves(parents)


def _kinds(run: Run, found: Found) -> Iterator[Drawn]:
    problems = run.task.problems(run.settings.evaluate.split)
    known, kind_of_error = by_id(problems), getattr(run.task, "kind_of_error", None)
    counts, errors = [], []
    for artifact in (found.start, found.policy):
        attempts = read_table(artifact.file("attempts.parquet"), Attempt)
        counts.append(by_kind(attempts, problems))
        wrong = [a for a in attempts if not a.is_right] if kind_of_error else []
        errors.append(Counter(kind_of_error(known[a.problem_id], a.text) for a in wrong))  # pyright: ignore

    figure = kinds_figure(counts[0], counts[1])
    yield "kinds", figure, "Accuracy of start and policy by kind of problem."
    if any(errors):
        figure = errors_figure(errors[0], errors[1])
        yield "errors", figure, "Wrong attempts of start and policy by the first error in them."


def _credit(run: Run, scored: Scored) -> Iterator[Drawn]:
    if scored.is_scored:
        yield from _rewards(scored)

    ratios: dict[str, list[float]] = {}
    for c in scored.corrections:
        how = "accepted" if c.accepted else "rejected"
        ratios.setdefault(f"{c.source}, {how}", []).append(c.edit_ratio)
    if ratios:
        figure = edits_figure(ratios, run.settings.teach.max_edit_ratio)
        yield "edits", figure, "Edit ratios of the corrections by source, with the limit."
    if scored.items:
        figure = credit_figure(scored.items, scored.truth)
        yield "credit", figure, CREDIT_CAPTION


def _rewards(scored: Scored) -> Iterator[Drawn]:
    rewards: dict[bool, list[np.ndarray]] = {True: [np.empty(0)], False: [np.empty(0)]}
    for case in scored.cases:
        rewards[case.pair.attempt.is_right].append(case.pair.token_rewards)
    for right, which in ((True, "right"), (False, "wrong")):
        figure = reward_figure(np.concatenate(rewards[right]), right=right)
        yield f"rewards_{which}", figure, f"Token rewards of {which} attempts, on a log scale."


def _curves(parents: dict[str, Artifact]) -> Iterator[Drawn]:
    for stage in ("warmup", "grm", "policy"):
        fits = {
            name.rpartition("/")[2]: curve_of(artifact)
            for name, artifact in parents.items()
            if artifact.stage == stage
        }
        for metric, lines in curves(fits, stage).items():
            name = f"curve_{stage}_{metric.replace('/', '_')}"
            yield name, curve_figure(stage, metric, lines), _curve_words(metric, lines)


def _curve_words(metric: str, lines: Mapping[str, Points]) -> str:
    """What a curve shows, and the ends of the last line, which is that of this run's policy."""
    name, points = list(lines.items())[-1]
    first, last = points[0], points[-1]
    which = f" of {name}" if len(lines) > 1 else ""
    return (
        f"{METRIC_WORDS[metric]}. From {first[1]:.3g} at step {first[0]:.0f} to {last[1]:.3g} at "
        f"step {last[0]:.0f}{which}."
    )
