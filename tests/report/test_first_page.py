"""The first page: texts stay texts, the credit in words, and which attempts it tells about."""

import base64
import hashlib
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from importlib.resources import files

import numpy as np
import pytest
from colours import contrast, rgb
from synthetic import NASTY, made, texts

from rlmec.evaluation.run_warnings import NamedWarning
from rlmec.report.first_page import (
    FirstPage,
    Piece,
    ShownFigure,
    index_html,
    telling_attempts,
    visible,
)
from rlmec.report.inline_svg import VARIABLES
from rlmec.report.tables import Line, Table, credit_table, lines_table, outcome_words
from rlmec.report.token_page import telling

CREDIT = {"grm/credit_precision": 0.72, "grm/credit_base_rate": 0.11, "grm/credit_punished": 156}
PAGE = FirstPage(
    title="sums",
    intro="What was run.",
    facts=[("seed", "3")],
    outcome=["It solves more."],
    tables=[Table("sums, 9 problems", ["model", "accuracy"], [["start", "1.0 %"]])],
    notes=[],
    accuracy=None,
    attempts=[],
    credit="Of 156 punished tokens ...",
    shares=[("punished tokens", 72.0)],
    credit_table=credit_table(CREDIT),
    credit_figure=None,
    stages=Table("stages", ["stage", "result"], [["warmup", "2 updates"]]),
    warnings=[],
    downloads=[("table.md", "text")],
    figures=[],
    tokens_page="tokens.html",
)


class Elements(HTMLParser):
    """The tags and ids of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.ids, self.links = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            assert name in ("style", "onerror", "onload") or not name.startswith("on")
            assert name != "style", (tag, value)
            self.ids += [value] if name == "id" else []
            self.links += [value] if name == "href" else []


def line(name, accuracy, p=None, p_policy=None):
    return Line(name, accuracy, accuracy - 0.05, accuracy + 0.05, 600, 30, 9.0, p, p_policy)


def test_every_text_stays_a_text():
    def nasty(text):
        return f"{text} <i>\"' & {''.join(NASTY[:5])}"

    cases = [made(n, nasty=True) for n in range(12)]
    shown = telling_attempts(cases, texts(), "tokens.html")
    assert shown
    page = index_html(
        replace(
            PAGE,
            title=nasty("t"),
            intro=nasty("i"),
            facts=[(nasty("f"), nasty("v")), ("command", nasty("c"))],
            outcome=[nasty("o")],
            tables=[Table(nasty("c"), [nasty("h")], [[nasty("r"), nasty("d")]])],
            notes=[nasty("n")],
            attempts=shown,
            credit=nasty("c"),
            warnings=[NamedWarning(nasty("w"), nasty("x"), nasty("s"))],
            accuracy=ShownFigure("<svg></svg>", nasty("caption"), "a.png"),
        )
    )
    assert not {"i", "img", "script"} & set(Elements(page).tags)
    assert "onerror=alert" in page  # as a text
    assert "http" not in page.replace("http-equiv", "")


def test_the_page_allows_only_its_own_style_and_its_links_lead_somewhere():
    page = index_html(PAGE)
    style = page.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = unescape(page.partition('Content-Security-Policy" content="')[2].partition('">')[0])
    assert f"style-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy

    found = Elements(page)
    assert "tokens.html" in found.links
    assert {link[1:] for link in found.links if link.startswith("#")} <= set(found.ids)
    assert len(set(found.ids)) == len(found.ids)


def test_the_telling_value_of_an_attempt_by_hand():
    case = made(1)  # its correction replaces token 5 by two others and removes 20 and 21
    rewards = np.zeros(40, np.float32)
    rewards[[5, 6, 20]] = -0.1
    case = replace(case, pair=replace(case.pair, token_rewards=rewards), taught=True)
    # 2 punished and removed, 3 punished, 3 removed; the edit ratio is 0.1
    assert telling(case) == 2 * 2 / (3 + 3) * 0.9
    assert telling(replace(case, taught=False)) == 1 + 2 * 2 / 6 * 0.9
    rejected = replace(case.correction, reason="not_right")
    assert telling(replace(case, correction=rejected)) == telling(made(0)) == 0.0


def test_the_three_most_telling_attempts_are_of_three_problems():
    cases = [made(n) for n in range(30)]
    shown = telling_attempts(cases, texts(), "tokens.html")
    best = sorted(cases, key=telling, reverse=True)
    problems = dict.fromkeys(c.problem.id for c in best)
    firsts = [next(c for c in best if c.problem.id == p) for p in list(problems)[:3]]
    assert [a.link for a in shown] == [
        "tokens.html#q=" + c.pair.attempt.id.replace("/", "%2F") for c in firsts
    ]
    for attempt, case in zip(shown, firsts, strict=True):
        assert "".join(p.text for p in attempt.attempt if not (p.punished or p.removed))
        assert "".join(p.text for p in attempt.correction).replace("\u21b5", "") == (
            case.correction.text
        )
        assert any(p.punished and p.removed for p in attempt.attempt)
    assert telling_attempts([made(0), made(3)], texts(), "x") == []  # right ones tell nothing


def test_marks_and_hidden_characters_of_an_attempt():
    page = index_html(
        replace(
            PAGE,
            attempts=[
                replace(
                    telling_attempts([made(n) for n in range(12)], texts(), "x")[0],
                    attempt=[
                        Piece("a", punished=True, removed=True),
                        Piece("b", punished=True),
                        Piece("c", removed=True),
                        Piece(" d"),
                    ],
                    correction=[Piece("e", added=True), Piece("\nf")],
                )
            ],
        )
    )
    assert ">" + "<mark><del>a</del></mark><mark>b</mark><del>c</del> d<" in page
    assert "<ins>e</ins>\nf<" in page
    assert "One telling attempt" in page
    assert (
        visible("a\n\u202e\x00\u200b")
        == "a\n\u27e8U+202E\u27e9\u27e8U+0000\u27e9\u27e8U+200B\u27e9"
    )


def test_the_outcome_does_not_overstate_the_policy():
    start = line("start", 0.20)
    words = outcome_words([start, line("rft", 0.22, 0.4, 0.3), line("policy", 0.24, 0.03)])
    assert words == [
        "The policy solves 24.0 % of 600 unseen problems (95 % interval 19.0 to 29.0), "
        "the start 20.0 %.",
        "The difference of +4.0 points is more than chance explains (p = 0.03).",
        "Not told apart from the policy: rft (p of 0.05 or more).",
    ]
    words = outcome_words([start, line("dpo", 0.3, 0.01, 0.01), line("policy", 0.19, 0.5)])
    assert words[1:] == [
        "The difference of -1.0 points may be chance (p = 0.5).",
        "Better than the policy: dpo.",
    ]
    assert "not tested" in outcome_words([start, line("policy", 0.19)])[1]


def test_shares_and_tables_in_words():
    assert credit_table(CREDIT).rows == [
        ("punished tokens that are removed", "72.0 %"),
        ("the same by chance: removed tokens among all", "11.0 %"),
    ]
    assert credit_table({}).rows == []
    table = lines_table([line("start", 0.2), line("policy", 0.24, 0.03)], "c")
    assert table.rows[1] == ["policy", "24.0 %", "19.0 to 29.0", "+4.0", "0.03", "", "30", "9"]


def colours(scheme):
    """The page's colours; those of series are the figures' own unless the page sets them."""
    found = {re.findall(r"--(\w+),", v)[0]: colour for colour, v in VARIABLES.items()}
    style = files("rlmec.report").joinpath("first_page.css").read_text(encoding="utf-8")
    light, _, dark = style.partition("@media (prefers-color-scheme: dark)")
    found |= re.findall(r"--([\w-]+): (#\w{6});", light)
    return found if scheme == "light" else found | dict(re.findall(r"--([\w-]+): (#\w{6});", dark))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_and_series_can_be_told_from_what_is_below_it(scheme):
    of = {name: rgb(text) for name, text in colours(scheme).items()}
    pairs = [(text, below) for text in ("ink", "quiet", "accent") for below in ("paper", "card")]
    pairs += [("ink", "warn"), ("ink", "neg"), ("edit", "card"), ("neg-text", "card")]
    series = ("grey", "blue", "orange", "green", "purple", "ochre", "pink")
    pairs += [(name, "card") for name in series]
    found = [(contrast(of[one], of[below]), one, below) for one, below in pairs]
    assert min(found)[0] >= 4.5, min(found)
