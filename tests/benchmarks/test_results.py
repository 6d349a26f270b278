"""Comparisons side by side: the table, its arrows, and that the figures are drawn."""

from benchmarks.results import draw_regimes, draw_rewards, table


def line(method, accuracy, difference="", p_holm=""):
    interval = ("", "") if difference == "" else (difference - 0.01, difference + 0.01)
    return {
        "method": method,
        "accuracy": str(accuracy),
        "deviation": "0.012",
        "difference": str(difference),
        "low": str(interval[0]),
        "high": str(interval[1]),
        "p_holm": str(p_holm),
    }


ONE = [line("rlmec", 0.8), line("rft", 0.7, -0.1, 0.01), line("sft", 0.81, 0.01, 0.4)]
TWO = [line("rlmec", 0.5), line("sft", 0.6, 0.1, 0.049)]


def test_a_method_that_was_not_compared_leaves_its_cell_empty_and_arrows_are_significant():
    found = table({"style": ONE, "few": TWO}).splitlines()
    assert found[0] == "| method | style | few |"
    assert found[2:] == [
        "| rlmec | 80.0 ± 1.2 | 50.0 ± 1.2 |",
        "| rft | 70.0 ± 1.2 ↓ |  |",
        "| sft | 81.0 ± 1.2 | 60.0 ± 1.2 ↑ |",
    ]


def test_every_compared_method_has_its_point_in_its_panel():
    figure = draw_regimes({"style": ONE, "few": TWO})
    points = [
        sum(one.get_marker() == "o" for one in axes.get_lines()) for axes in figure.get_axes()
    ]
    assert points == [2, 1]


def test_rules_that_punish_alike_share_a_point():
    rules = [("a", 0.3, 0.9), ("b", 0.3, 0.9), ("c", 1.0, 0.1)]
    lines = [{"rule": r, "recall": str(x), "precision": str(y)} for r, x, y in rules]
    (axes,) = draw_rewards(lines).get_axes()
    assert sorted(text.get_text() for text in axes.texts) == ["a\nb", "c"]
