"""The first page of the report: what was run, what came out, and three attempts with their credit.

In: texts, tables, warnings, three scored attempts, and figures as SVG. Out: one HTML text that
needs no other file, and that links to the files next to it. `first_page.html` is the template;
Jinja2 escapes every value in it except the page's own style and the figures, whose texts are
escaped when they are drawn (`rlmec.report.inline_svg`).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from urllib.parse import quote

import jinja2

from rlmec.evaluation.run_warnings import NamedWarning
from rlmec.lm.token_texts import TokenTexts
from rlmec.method.alignment import edit_script
from rlmec.report.tables import Table
from rlmec.report.token_page import Case, allowed, policy_of, telling, verdict_words

HIDDEN = ("Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn")
"""Unicode categories of characters that cannot be seen or change how others are shown."""


@dataclass(frozen=True)
class ShownFigure:
    """A figure of the page: its SVG, a sentence about it, and the name of its PNG file."""

    svg: str
    caption: str
    file: str


@dataclass(frozen=True)
class Piece:
    """Neighbouring tokens with the same marks."""

    text: str
    punished: bool = False
    removed: bool = False
    added: bool = False


@dataclass(frozen=True)
class ShownAttempt:
    """A wrong attempt and its correction, in pieces; `link` leads to it on the token page, and is
    empty without one.

    `now` is what the trained policy writes at the same problem and `now_verdict` the verdict on it;
    both are empty if it was not asked.
    """

    question: str
    answer: str
    attempt: Sequence[Piece]
    correction: Sequence[Piece]
    words: str
    link: str
    now: Sequence[Piece] = ()
    now_verdict: str = ""


@dataclass(frozen=True)
class SideBySide:
    """This run next to another one, whose first page is at `link`.

    `credit` has the name and a sentence of each run, `figures` the curves of both.
    """

    link: str
    tables: Sequence[Table]
    credit: Sequence[tuple[str, str]]
    figures: Sequence[ShownFigure]


@dataclass(frozen=True)
class FirstPage:
    """What the page shows.

    `intro` says in words what was run, `facts` (name, value) in figures. `outcome` is the result in
    words, and `tables` and `notes` are behind it. `credit` is a sentence, and `shares` are the
    percentages in it by name. `downloads` are (file, content) in the folder of the page, one of
    which is `tokens_page`. Where attempts have no scores, `credit` and `tokens_page` are empty and
    the page says nothing of token rewards.
    """

    title: str
    intro: str
    facts: Sequence[tuple[str, str]]
    outcome: Sequence[str]
    tables: Sequence[Table]
    notes: Sequence[str]
    accuracy: ShownFigure | None
    attempts: Sequence[ShownAttempt]
    credit: str
    shares: Sequence[tuple[str, float]]
    credit_table: Table
    credit_figure: ShownFigure | None
    stages: Table
    warnings: Sequence[NamedWarning]
    downloads: Sequence[tuple[str, str]]
    figures: Sequence[ShownFigure]
    tokens_page: str
    against: SideBySide | None = None


def index_html(page: FirstPage) -> str:
    """The page as one HTML text."""
    here = files("rlmec.report")
    style = here.joinpath("first_page.css").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(here.joinpath("first_page.html").read_text(encoding="utf-8"))
    return template.render(page=page, style=style, policy=policy_of({"style-src": allowed(style)}))


# --- telling attempts ---


def telling_attempts(
    cases: Sequence[Case], texts: TokenTexts, tokens_page: str, most: int = 3
) -> list[ShownAttempt]:
    """The `most` most telling attempts, each at another problem; fewer if fewer tell something."""
    best: dict[str, tuple[float, Case]] = {}
    for case in cases:
        value = telling(case)
        if value > best.get(case.problem.id, (0.0, case))[0]:
            best[case.problem.id] = (value, case)
    ordered = sorted(best.values(), key=lambda found: -found[0])
    return [_shown(case, texts, tokens_page) for _, case in ordered[:most]]


def _shown(case: Case, texts: TokenTexts, tokens_page: str) -> ShownAttempt:
    correction = case.correction
    assert correction is not None  # an attempt without one tells nothing
    ids = case.pair.attempt.completion_ids
    script = edit_script(ids, correction.completion_ids)
    punished = case.pair.token_rewards < 0

    before = [
        Piece(text, punished=bool(p), removed=bool(r))
        for text, p, r in zip(texts(ids), punished, script.removed, strict=True)
    ]
    target = texts(correction.completion_ids)
    after = [Piece(text, added=bool(a)) for text, a in zip(target, script.edited, strict=True)]
    by = "the GRM" if correction.source == "grm" else f"the teacher ({correction.source})"
    removed = int(script.removed.sum())
    words = f"{counted(removed, 'token')} removed by the correction. "
    if is_scored := case.grm_logprobs is not None:
        hits = int((punished & script.removed).sum())
        words = f"{counted(int(punished.sum()), 'token')} punished, {hits} of them removed by the "
        words += "correction. "
    words += f"It is from {by} and has an edit ratio of {correction.edit_ratio:.2f}."
    if is_scored:
        words += f" The GRM {'was' if case.taught else 'was not'} trained on this problem."
    solution = case.again.solution if case.again else None
    return ShownAttempt(
        visible(" \u00b7 ".join(case.problem.question.splitlines())),
        visible(case.problem.answer),
        _joined(before),
        _joined(after),
        words,
        f"{tokens_page}#q={quote(case.pair.attempt.id, safe='')}" if is_scored else "",
        [Piece(visible(solution.text))] if solution else (),
        verdict_words(solution) if solution else "",
    )


def _joined(tokens: Sequence[Piece]) -> list[Piece]:
    """Tokens with the same marks as one piece each. Marked line breaks get a sign of their own."""
    pieces = []
    for marks, group in groupby(tokens, key=lambda t: (t.punished, t.removed, t.added)):
        text = visible("".join(token.text for token in group))
        if any(marks):
            # A character of several tokens is shown by its last one: the others have no text.
            text = text.replace("\n", "\u21b5\n") or "\u00b7"
        pieces.append(Piece(text, *marks))
    return pieces


def visible(text: str) -> str:
    """A text in which hidden characters, other than line breaks, are spelled out."""
    return "".join(
        f"\u27e8U+{ord(c):04X}\u27e9" if c != "\n" and unicodedata.category(c) in HIDDEN else c
        for c in text
    )


def counted(number: int, noun: str) -> str:
    """A number with its noun, such as "1 token" or "2,000 tokens"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
