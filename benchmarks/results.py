"""Several comparisons side by side: python -m benchmarks.results FOLDER ... [--credit FILE]

In: folders of `python -m benchmarks.compare`, each with its comparison.csv; the CSV file of `python
-m benchmarks.rewards`. Out: a table of methods by folder on the screen, docs/regimes.svg with every
method's difference from the one compared with, and docs/rewards.svg with each rule's precision and
recall.
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

DOCS = Path(__file__).resolve().parents[1] / "docs"
ALPHA = 0.05
NEAR = 0.02
"""Points that near to each other are labelled together."""
INK, BETTER, WORSE, LEVEL = "#4a4e57", "#0b9b6d", "#d1603d", "#8a8f98"


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def verdict(line: dict[str, str]) -> int:
    """1 where the method compared with is significantly better than this one, -1 worse, else 0."""
    if not line["p_holm"] or float(line["p_holm"]) >= ALPHA:
        return 0
    return 1 if float(line["difference"]) < 0 else -1


def table(found: dict[str, list[dict[str, str]]]) -> str:
    """Accuracy and standard deviation of every method in every folder, the first folder's order."""
    methods = list(dict.fromkeys(line["method"] for lines in found.values() for line in lines))
    marks = {1: " ↓", -1: " ↑", 0: ""}
    out = ["| method | " + " | ".join(found) + " |", "|---" * (len(found) + 1) + "|"]
    for method in methods:
        cells = []
        for lines in found.values():
            mine = next((line for line in lines if line["method"] == method), None)
            cells.append(
                ""
                if mine is None
                else f"{100 * float(mine['accuracy']):.1f} ± {100 * float(mine['deviation']):.1f}"
                + marks[verdict(mine)]
            )
        out.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(out)


def draw_regimes(found: dict[str, list[dict[str, str]]]) -> Figure:
    """A panel a folder: each method's difference in points, with its interval. A method stands at
    the same height in all, and is missing where it was not compared."""
    names = {line["method"] for lines in found.values() for line in lines if line["difference"]}
    height = {name: at for at, name in enumerate(sorted(names, reverse=True))}
    figure = Figure(figsize=(2.5 * len(found) + 1.2, 3.0), layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
    for axes, (name, lines) in zip(panels, found.items(), strict=True):
        base = next(line for line in lines if not line["difference"])
        for line in (line for line in lines if line is not base):
            colour, at = {1: WORSE, -1: BETTER, 0: LEVEL}[verdict(line)], height[line["method"]]
            low, high = 100 * float(line["low"]), 100 * float(line["high"])
            axes.plot([low, high], [at, at], color=colour, linewidth=2)
            axes.plot(100 * float(line["difference"]), at, "o", color=colour, markersize=5)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(list(height.values()), list(height), fontsize=8)
        reached = f"{base['method']} {100 * float(base['accuracy']):.1f} %"
        axes.set_title(f"{name}: {reached}", fontsize=9)
        axes.set_xlabel("points above or below", fontsize=8)
        _plain(axes)
    return figure


def draw_rewards(lines: list[dict[str, str]]) -> Figure:
    """A point a rule: precision over recall of the punished tokens, means over seeds. Rules that
    punish nearly the same tokens (0.02 apart at most) share the label of the first."""
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
    for at, rules in points.items():
        beside = len(rules) > 1  # a list stands beside its point, one name below
        axes.annotate(
            "\n".join(rules),
            at,
            (6, 0) if beside else (0, -7),
            textcoords="offset points",
            fontsize=7,
            ha="left" if beside else "center",
            va="center" if beside else "top",
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
    parser.add_argument("--credit", type=Path, help="the file that benchmarks.rewards --csv wrote")
    given = parser.parse_args()
    found = {folder.name: read(folder / "comparison.csv") for folder in given.folders}
    matplotlib.rcParams["svg.hashsalt"] = "rlmec"  # the same file for the same figures
    draw_regimes(found).savefig(DOCS / "regimes.svg", metadata={"Date": None})
    if given.credit:
        draw_rewards(read(given.credit)).savefig(DOCS / "rewards.svg", metadata={"Date": None})
    print(table(found))


if __name__ == "__main__":
    main()
