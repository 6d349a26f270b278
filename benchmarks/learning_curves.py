"""Learning curves of a comparison, as a PNG file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

Curve = Sequence[tuple[int, float]]


def curves_figure(curves: Mapping[str, Sequence[Curve]], path: Path) -> None:
    """By method the mean over seeds of (step, dev accuracy), and each seed as a thin line.

    Curves of one method that were looked at after other steps are averaged where all have a value.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.2))
    for number, (method, seeds) in enumerate(curves.items()):
        colour = f"C{number % 10}"
        for curve in seeds:
            shown = [(step, 100 * value) for step, value in curve]
            axes.plot(*zip(*shown, strict=True), color=colour, linewidth=0.6, alpha=0.4)
        mean = mean_curve(seeds)
        if mean:
            shown = [(step, 100 * value) for step, value in mean]
            axes.plot(*zip(*shown, strict=True), color=colour, linewidth=1.8, label=method)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("accuracy on dev problems (%)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def mean_curve(curves: Sequence[Curve]) -> list[tuple[int, float]]:
    """The mean value at every step that all curves have, by rising step."""
    known = [dict(curve) for curve in curves]
    steps = sorted(set.intersection(*(set(values) for values in known))) if known else []
    return [(step, sum(values[step] for values in known) / len(known)) for step in steps]
