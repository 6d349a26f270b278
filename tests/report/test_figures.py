"""Figures are drawn from hand-made numbers; the first page shows texts as texts."""

import base64
import hashlib
import struct
from html import unescape

import numpy as np
import pytest

from rlmec.evaluation.run_warnings import NamedWarning
from rlmec.method.credit import CreditItem
from rlmec.report.figures import (
    credit_curve,
    edit_ratios,
    kinds_figure,
    reward_histograms,
    training_curves,
)
from rlmec.report.first_page import MarkdownTable, index_html, markdown_blocks
from rlmec.runtime.display import markdown_table

FIT = [{"step": 2.0, "train/loss": 1.0}, {"step": 1.0, "train/loss": 2.0, "dev/accuracy": 0.1}]


def size(path):
    """Width and height of a PNG file, from its header."""
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:])


def item(rewards):
    removed = np.array([True, False, False])
    grm = np.log([0.1, 0.8, 0.9])
    return CreditItem("a", np.array(rewards), np.array([-1.0, -1.0, -1.0]), removed, 0, grm)


@pytest.mark.parametrize("rewards", [[-0.1, 0.0, 0.0], [0.0, 0.0, 0.0]])
def test_figures_of_credit_are_drawn_even_where_there_is_nothing(tmp_path, rewards):
    reward_histograms(np.array([0.5, 0.0]), np.array(rewards), tmp_path / "a.png")
    reward_histograms(np.empty(0), np.empty(0), tmp_path / "b.png")
    credit_curve([item(rewards)], "oracle", tmp_path / "c.png")
    edit_ratios({"oracle, accepted": [0.1, 0.2], "grm, rejected": []}, 0.5, tmp_path / "d.png")
    assert all(min(size(path)) > 100 for path in tmp_path.glob("*.png"))


@pytest.mark.parametrize("errors", [({}, {}), ({"result": 3, "<b>": 1}, {"result": 1})])
def test_kinds_are_drawn_with_and_without_kinds_of_error(tmp_path, errors):
    kinds_figure({"2 steps": (1, 2), "": (0, 0)}, {"10 steps": (2, 2)}, errors, tmp_path / "k.png")
    width, _ = size(tmp_path / "k.png")
    assert (width > 800) == bool(errors[0])


def test_curves_have_a_panel_a_figure_and_none_without_points(tmp_path):
    assert training_curves({"one": FIT, "two": FIT[:1]}, "policy", tmp_path / "one.png")
    both = [*FIT, {"step": 3.0, "dev/accuracy": 0.2}]
    assert training_curves({"one": both}, "policy", tmp_path / "two.png")
    assert size(tmp_path / "two.png")[0] > 1.7 * size(tmp_path / "one.png")[0]
    assert not training_curves({"one": FIT[:1], "two": []}, "warmup", tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_the_first_page_holds_table_warnings_and_figures_as_texts(tmp_path):
    edit_ratios({"x": [0.5]}, 0.5, tmp_path / "d.png")
    warning = NamedWarning("some_name", "a < b", "policy.<x>")
    table = "| model | accuracy |\n|---|---|\n| <i>x</i> | 1.0 |\n\nA & B.\n"
    page = index_html("<t>", table, {"C <p>": tmp_path / "d.png"}, [warning], "tokens.html")
    for text in (
        "&lt;t&gt;",
        "&lt;i&gt;x&lt;/i&gt;",
        "a &lt; b",
        "policy.&lt;x&gt;",
        "C &lt;p&gt;",
    ):
        assert text in page
    assert "some_name" in page
    assert 'href="tokens.html"' in page
    assert "data:image/png;base64," in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")


def test_the_first_page_allows_only_its_own_style():
    page = index_html("t", "", {}, [], "tokens.html")
    style = page.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = unescape(page.partition('Content-Security-Policy" content="')[2].partition('">')[0])
    assert f"style-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_tables_and_paragraphs_of_markdown_by_hand():
    found = markdown_blocks("| a | b |\n|---|--:|\n| 1 |  |\n\nx\n| c |\n|---|\n| - |")
    first = MarkdownTable(["a", "b"], [["1", ""]])
    assert found == [first, "x", MarkdownTable(["c"], [["-"]])]
    table = markdown_table(["a|b", ""], [["\\x", "|"]])
    assert markdown_blocks(table) == [MarkdownTable(["a|b", ""], [["\\x", "|"]])]
