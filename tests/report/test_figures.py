"""Figures are drawn from hand-made numbers, and follow a page's colours as SVG."""

import re
import struct
from xml.etree import ElementTree

import numpy as np

from rlmec.method.credit import CreditItem
from rlmec.report.figures import (
    BLUE,
    CURVES,
    GREY,
    METRIC_WORDS,
    ORANGE,
    Bar,
    accuracy_figure,
    credit_figure,
    curve_figure,
    curves,
    edits_figure,
    errors_figure,
    kinds_figure,
    reward_figure,
    series_colours,
    write_png,
)
from rlmec.report.inline_svg import inline_svg

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


def test_figures_of_credit_are_drawn_even_where_there_is_nothing():
    drawn = [
        reward_figure(np.array([-0.1, 0.0, 0.0]), right=False),
        reward_figure(np.empty(0), right=True),
        credit_figure([item([0.0, 0.0, 0.0])], "oracle"),
        edits_figure({"oracle, accepted": [0.1, 0.2], "grm, rejected": []}, 0.5),
    ]
    for at, figure in enumerate(drawn):
        assert "<path" in inline_svg(figure, str(at), "x")


def test_a_picture_is_saved_at_the_size_of_a_figure(tmp_path):
    figure = kinds_figure({"2 steps": (1, 2), "": (0, 0)}, {"10 steps": (2, 2)})
    write_png(figure, tmp_path / "k.png")
    assert size(tmp_path / "k.png")[0] == 585  # 3.9 inches at 150 dots


def test_a_curve_is_one_metric_and_needs_two_points():
    both = [*FIT, {"step": 3.0, "dev/accuracy": 0.2}]
    assert curves({"one": FIT, "two": FIT[:1]}, "policy") == {
        "train/loss": {"one": [(1.0, 2.0), (2.0, 1.0)], "two": [(2.0, 1.0)]}
    }
    assert list(curves({"one": both}, "policy")) == ["train/loss", "dev/accuracy"]
    assert curves({"one": FIT[:1], "two": []}, "warmup") == {}
    assert set(METRIC_WORDS) == {metric for metrics in CURVES.values() for metric in metrics}


def test_a_series_has_one_colour_in_every_figure():
    assert series_colours(["start", "mine", "rlmec"]) == {
        "start": GREY,
        "mine": ORANGE,  # the first colour that no other has
        "rlmec": BLUE,
    }
    assert series_colours(["rlmec", "dpo"])["dpo"] == series_colours(["dpo", "x"])["dpo"]
    many = series_colours([f"m{i}" for i in range(20)])
    assert len(many) == 20


def test_a_figure_in_a_page_has_no_style_and_no_colour_of_its_own():
    nasty = "<b>$x$ \x00 $"
    svg = inline_svg(errors_figure({nasty: 2}, {nasty: 1}), "errors", "a <label>")
    root = ElementTree.fromstring(svg)
    assert "<b>$x$ \ufffd $" in [element.text for element in root.iter("text")]
    assert root.attrib["aria-label"] == "a <label>"
    assert (root.attrib["role"], root.attrib["width"]) == ("img", "374")
    assert not any(e.attrib.get("style") or e.tag == "style" for e in root.iter())
    colours = {e.attrib[n] for e in root.iter() for n in ("fill", "stroke") if n in e.attrib}
    assert colours - {"none"}
    assert all(c == "none" or c.startswith("var(--") for c in colours), colours
    assert "http" not in svg


def test_ids_of_two_figures_differ_and_are_all_defined():
    lines = {"rlmec": [(0.0, 1.0), (5.0, 2.0)], "dpo": [(0.0, 1.0)]}
    found = [inline_svg(curve_figure("policy", "train/loss", lines), n, "x") for n in ("a", "b")]
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in found]
    assert ids[0]
    assert not ids[0] & ids[1]
    for svg, own in zip(found, ids, strict=True):
        assert set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', svg)) <= {
            pair for i in own for pair in ((i, ""), ("", i))
        }


def test_accuracies_are_drawn_per_task():
    bars = [Bar("start", 0.2, 0.1, 0.3, 50), Bar("rlmec", 0.4, 0.3, 0.5, 50)]
    svg = inline_svg(accuracy_figure({"gsm8k": bars, "svamp": bars[:1]}), "accuracy", "x")
    texts = [element.text for element in ElementTree.fromstring(svg).iter("text")]
    assert {"gsm8k, 50 problems", "svamp, 50 problems", "40.0"} <= set(texts)
