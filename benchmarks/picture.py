"""The figure docs/speed.svg: python -m benchmarks.picture

Its three panels show a packed row, its attention mask, and the verification of a draft.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

SHARED, WRONG, RIGHT, PAD = "#9db4c0", "#e07a5f", "#81b29a", "#eeeeee"
OUT = Path(__file__).resolve().parents[1] / "docs" / "speed.svg"
TRUNK = ["Q", "Q", "16", "-", "3", "="]
TAILS = ["12", ".", "end"], ["13", ".", "end"]


def row(axes: Any, y: float, texts: list[str], colours: list[str], x: float = 0.0) -> None:
    """Draw tokens as boxes in a row that begins at x."""
    for at, (text, colour) in enumerate(zip(texts, colours, strict=True)):
        axes.add_patch(Rectangle((x + at, y), 0.94, 0.8, color=colour))
        axes.text(x + at + 0.47, y + 0.4, text, ha="center", va="center", fontsize=8)


def packed(axes: Any) -> None:
    """Draw a pair as two rows, and as one row with its positions."""
    trunk = [SHARED] * len(TRUNK)
    wrong, right = TAILS
    axes.set_title("a pair: two rows of 9 tokens, or one of 12", fontsize=10, loc="left")
    row(axes, 4.2, [*TRUNK, *wrong], [*trunk, *[WRONG] * 3])
    row(axes, 3.2, [*TRUNK, *right], [*trunk, *[RIGHT] * 3])
    row(axes, 1.4, [*TRUNK, *wrong, *right], [*trunk, *[WRONG] * 3, *[RIGHT] * 3])
    positions = [*range(9), *range(6, 9)]
    for at, position in enumerate(positions):
        axes.text(at + 0.47, 1.1, str(position), ha="center", va="center", fontsize=7)
    axes.text(0, 0.55, "positions start again where the branches part", fontsize=8)
    axes.set(xlim=(-0.2, 12.4), ylim=(0, 5.4))


def mask(axes: Any) -> None:
    """Draw which tokens of the packed row see which."""
    colours = [SHARED] * 6 + [WRONG] * 3 + [RIGHT] * 3
    axes.set_title("who sees whom (query down, key across)", fontsize=10, loc="left")
    for query in range(12):
        for key in range(12):
            own = key < 6 or (key < 9) == (query < 9)
            if key <= query and own:
                square = Rectangle((key, 11 - query), 0.92, 0.92, color=colours[query])
                axes.add_patch(square)
    axes.add_patch(Rectangle((0, 0), 11.92, 11.92, fill=False, color=PAD))
    axes.set(xlim=(-0.2, 12.2), ylim=(-0.2, 12.2), aspect="equal")


def draft(axes: Any) -> None:
    """Draw a draft with one edit, verified in two passes."""
    axes.set_title("a draft with one wrong token, in two passes", fontsize=10, loc="left")
    said = ["16", "-", "3", "=", "13", "left", "13", "*", "2"]
    wrong = ["16", "-", "3", "=", "12", "left", "13", "*", "2"]
    good = [RIGHT] * 4
    bad = [WRONG]
    late = [SHARED] * 4

    # Each line of the panel: its title, its tokens, and their colours.
    rows = [
        ("draft, fed at once", wrong, [SHARED] * 9),
        ("what greedy says at each place", said, good + [RIGHT] + [PAD] * 4),
        ("first pass takes 4 right tokens and one of its own", said[:5], good + bad),
        ("second pass: the rest, from behind the edit", said[5:], late),
        ("all of it is right: done", said, [RIGHT] * 9),
    ]

    for number, (title, texts, colours) in enumerate(rows):
        y = 6.6 - 1.5 * number
        axes.text(0, y + 1.0, title, fontsize=8)
        row(axes, y, texts, colours, 5.0 if number == 3 else 0.0)
    axes.set(xlim=(-0.2, 9.4), ylim=(0.3, 8.4))


def main() -> None:
    matplotlib.rcParams.update({"svg.hashsalt": "rlmec", "svg.fonttype": "none"})
    figure = Figure(figsize=(13, 3.9))
    axes = figure.subplots(1, 3, width_ratios=[1.2, 0.9, 1.0])
    for draw, place in zip((packed, mask, draft), axes, strict=True):
        draw(place)
        place.axis("off")
    figure.tight_layout()
    figure.savefig(OUT, metadata={"Date": None})


if __name__ == "__main__":
    main()
