"""Spoiled texts of models and users for what reads answers, corrections and pages of them."""

from __future__ import annotations

import functools
import random
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path

from rlmec.answers import final_answer as reading
from rlmec.answers.mathematics import at_a_glance, latex_text, mathematics
from rlmec.answers.normal_form import normal_form
from rlmec.answers.numbers import parse_number
from rlmec.answers.options import judge_option, read_option
from rlmec.evaluation.lenient_reading import (
    flexible_answer,
    judge_flexible,
    last_line,
    last_number,
)
from rlmec.evaluation.paper_reading import judge_as_authors
from rlmec.evaluation.run_warnings import NamedWarning
from rlmec.records import VERDICTS, Problem
from rlmec.report.first_page import FirstPage, Piece, ShownAttempt, index_html
from rlmec.report.tables import Table
from rlmec.tasks.arithmetic_oracle import apply_edits, kind_of_error, line_edits
from rlmec.tasks.dataset import DatasetTask
from rlmec.teachers.equations import (
    corrected_line,
    numbers_in,
    result_of,
    states_falsehood,
)
from rlmec.teachers.reference import ReferenceTeacher
from rlmec.teachers.steps import located_step, rewritten

from .mutations import NASTY_TEXTS, PIECES, spoiled_text

SOLUTIONS = [
    "Ann has 3 + 4 = 7 pens.\nThe answer is 7",
    "48/2 = 24 clips.\n#### 1,000.50",
    "So $x = \\boxed{\\frac{1}{2}}$.",
    "It is wet there, so (A) is wrong.\nThe answer is B) the sea.",
    "**Answer:** 3 1/2 hours",
]
GOLDS = ["7", "1000.5", "\\frac{1}{2}", "the sea", "B", "2 hours", "-3/4", "50%", "x^2+1", "[1,2)"]
OPTIONS = [("the sea", "the sky", "a house"), ("A", "B"), ("1", "1.0", "2 1/2"), ()]
STORY = Problem(
    "arith",
    "Mia has 3 apples. Mia gets 4 more. How many apples has Mia now?",
    "7",
    "Monday: Mia has 3 + 4 = 7 apples.\nThe answer is 7",
)


def _text(rng: random.Random, given: str) -> str:
    text = spoiled_text(rng, given)
    if rng.random() < 0.02:
        text *= rng.choice((10, 500))
    return text[:300_000]


def _options(rng: random.Random) -> tuple[str, ...]:
    options = rng.choice(OPTIONS)
    if rng.random() < 0.3:
        options = tuple(spoiled_text(rng, option) for option in options)
    return options


@functools.cache
def _task() -> DatasetTask:
    """One task for all inputs: each starts processes of its own for mathematics."""
    return DatasetTask(__file__)


def answers(rng: random.Random, folder: Path) -> None:
    """Every judge gives a verdict on every text; every reader a text, a number or None."""
    text, gold = _text(rng, rng.choice(SOLUTIONS)), rng.choice(GOLDS)
    if rng.random() < 0.3:
        gold = spoiled_text(rng, gold)
    options = _options(rng)
    assert reading.judge_number(text, gold) in VERDICTS
    assert reading.judge_answer(text, gold) in VERDICTS
    assert judge_option(text, gold, options) in VERDICTS
    found = reading.final_answer(text)
    assert found is None or found
    form = normal_form(text)
    assert normal_form(form) == form
    if found is not None:
        assert at_a_glance(gold, found) in (*VERDICTS, None)
        assert isinstance(mathematics(found) + latex_text(found), str)
        index = read_option(found, options)
        assert index is None or 0 <= index < len(options)
    number = parse_number(text)
    assert number is None or isinstance(number, Fraction)
    last_number(text), last_line(text)
    problem = Problem("p", "q?", gold, options=options)
    flexible_answer(text, problem)
    task = _task()
    lenient = judge_flexible(task, text, problem)
    assert lenient in VERDICTS
    assert lenient == "right" or task.judge(text, problem) != "right"
    assert judge_as_authors(text, problem, rng.choice((0.0, 0.04))) in VERDICTS


def teachers(rng: random.Random, folder: Path) -> None:
    """What corrects an attempt keeps to its law whatever the attempt and the reply are."""
    attempt, reply = _text(rng, STORY.solution or ""), _text(rng, "The first wrong step is [1].")
    attempt, reply = attempt[:20_000], reply[:20_000]
    lines = attempt.count("\n") + 1
    step = located_step(reply, lines)
    assert step is None or 0 <= step < lines
    kept = attempt.split("\n")[: step or 0]
    new = rewritten(attempt, step or 0, reply)
    assert new is None or new.split("\n")[: len(kept)] == kept
    edits = line_edits(STORY, attempt, 3)
    assert "The answer is 7" in apply_edits(edits)
    assert kind_of_error(edits)
    line = attempt.split("\n")[0][:2000]
    corrected_line(line, "3 + 4 = 7"), states_falsehood(line), numbers_in(line), result_of(line)
    assert ReferenceTeacher().correct(STORY, attempt[:2000])


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {name for name, _ in attrs}
        assert not any(name.startswith("on") or name == "style" for name in names), attrs
        self.tags.add(tag)


def pages(rng: random.Random, folder: Path) -> None:
    """No text of the first page becomes markup."""
    nasty = [*NASTY_TEXTS, *PIECES, "<script>alert(1)</script>", '" onload=x ', "|", "&lt;b&gt;"]

    def text() -> str:
        return "".join(rng.choices(nasty, k=rng.randrange(1, 4)))

    table = Table(text(), [text(), text()], [[text(), text()] for _ in range(4)])
    attempt = ShownAttempt(
        text(), text(), [Piece(text(), punished=True)], [Piece(text(), added=True)], text(), "x"
    )
    page = FirstPage(
        title=text(),
        intro=text(),
        facts=[(text(), text())],
        outcome=[text()],
        tables=[table],
        notes=[text()],
        accuracy=None,
        attempts=[attempt],
        credit=text(),
        shares=[(text(), 1.0)],
        credit_table=table,
        credit_figure=None,
        stages=table,
        warnings=[NamedWarning(text(), text(), text())],
        downloads=[(text(), text())],
        figures=[],
        tokens_page="tokens.html",
    )
    parser = _Tags()
    parser.feed(index_html(page))
    assert not {"img", "script", "i"} & parser.tags, parser.tags
