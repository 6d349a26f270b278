"""Several comparisons in one table: python -m benchmarks.results FOLDER ... [--credit FILE]

In: folders of `python -m benchmarks.compare`, each with its comparison.csv, and the CSV file of
`python -m benchmarks.rewards`. Out: a table of methods by folder on the screen; docs/regimes.svg
(or `--out`) with the difference of every method from the reference method; docs/rewards.svg with
the precision and recall of each reward rule.
"""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from benchmarks.rewards import by_rule
from rlmec.runtime.display import markdown_table

DOCS = Path(__file__).resolve().parents[1] / "docs"
ALPHA = 0.05
NEAR = 0.02
"""Points within this distance share a label."""
INK, BETTER, WORSE, LEVEL = "#4a4e57", "#0b9b6d", "#d1603d", "#8a8f98"


def read(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def verdict(line: dict[str, str]) -> int:
    """Return 1 if the reference method is significantly better, -1 if it is worse, else 0."""
    if not line["p_holm"] or float(line["p_holm"]) >= ALPHA:
        return 0
    return 1 if float(line["difference"]) < 0 else -1


def table(found: dict[str, list[dict[str, str]]]) -> str:
    """Return accuracy and standard deviation per method and folder, as a Markdown table.

    The methods are in the order of the first folder. A method that a folder lacks has an empty
    cell. An arrow marks a method significantly above or below the reference method.
    """
    methods = dict.fromkeys(line["method"] for lines in found.values() for line in lines)
    rows = []
    for method in methods:
        lines = ([line for line in some if line["method"] == method] for some in found.values())
        rows.append([method, *(_accuracy_cell(line[0]) if line else "" for line in lines)])
    return markdown_table(["method", *found], rows)


def _accuracy_cell(line: dict[str, str]) -> str:
    arrow = {1: " ↓", -1: " ↑", 0: ""}[verdict(line)]
    return f"{100 * float(line['accuracy']):.1f} ± {100 * float(line['deviation']):.1f}{arrow}"


def draw_regimes(found: dict[str, list[dict[str, str]]]) -> Figure:
    """Return a figure with one panel per folder: each method's difference, with its interval.

    A method has the same height in all panels, and no point in a panel without it.
    """
    names = {line["method"] for lines in found.values() for line in lines if line["difference"]}
    height = {name: at for at, name in enumerate(sorted(names, reverse=True))}
    figure = Figure(figsize=(2.5 * len(found) + 1.2, 3.0), layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
    for axes, (name, lines) in zip(panels, found.items(), strict=True):
        base = next(line for line in lines if not line["difference"])
        for line in lines:
            if line is base:
                continue
            colour = {1: WORSE, -1: BETTER, 0: LEVEL}[verdict(line)]
            at = height[line["method"]]
            interval = [100 * float(line["low"]), 100 * float(line["high"])]
            axes.plot(interval, [at, at], color=colour, linewidth=2)
            axes.plot(100 * float(line["difference"]), at, "o", color=colour, markersize=5)

        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(list(height.values()), list(height), fontsize=8)
        reached = f"{base['method']} {100 * float(base['accuracy']):.1f} %"
        axes.set_title(f"{name}: {reached}", fontsize=9)
        axes.set_xlabel("points above or below", fontsize=8)
        _plain(axes)
    return figure


def draw_rewards(lines: list[dict[str, str]]) -> Figure:
    """Return a figure with one point per rule: precision over recall, means over seeds.

    Rules whose points are at most `NEAR` apart share one label, at the point of the first.
    """
    points: dict[tuple[float, float], list[str]] = {}
    figure = Figure(figsize=(4.6, 3.4), layout="constrained")
    axes = figure.subplots()
    for rule, found in by_rule(lines, key=lambda line: line["rule"]).items():
        recall, precision = (
            sum(float(line[name]) for line in found) / len(found)
            for name in ("recall", "precision")
        )
        axes.plot(recall, precision, "o", color=INK, markersize=5)
        at = (recall, precision)
        near = (p for p in points if math.dist(p, at) <= NEAR)
        points.setdefault(next(near, at), []).append(rule)

    # A single name is below its point; a list of names is to the right of it.
    for at, rules in points.items():
        is_list = len(rules) > 1
        axes.annotate(
            "\n".join(rules),
            at,
            (6, 0) if is_list else (0, -7),
            textcoords="offset points",
            fontsize=7,
            ha="left" if is_list else "center",
            va="center" if is_list else "top",
        )

    axes.set(xlim=(0, 1.1), ylim=(-0.02, 1.05), xlabel="recall of removed tokens")
    axes.set_ylabel("precision of penalties")
    _plain(axes)
    return figure


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=DOCS / "regimes.svg")
    parser.add_argument("--credit", type=Path, help="the file written by benchmarks.rewards --csv")
    given = parser.parse_args()
    found = {folder.name: read(folder / "comparison.csv") for folder in given.folders}

    # With a fixed salt and no date, the same figures give the same file.
    matplotlib.rcParams["svg.hashsalt"] = "rlmec"
    draw_regimes(found).savefig(given.out, metadata={"Date": None})
    if given.credit:
        draw_rewards(read(given.credit)).savefig(DOCS / "rewards.svg", metadata={"Date": None})
    print(table(found), end="")


if __name__ == "__main__":
    main()
