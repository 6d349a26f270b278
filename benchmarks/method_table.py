"""The comparison of methods: finished jobs read from their summaries, and the table made of them.

In: folders of `summary.json` files that sweeps left, each job with `method=` or `ablation=`,
`policy.optimizer.lr=`, and `policy.seed=` among its overrides. Out: the best learning rate on dev
per method, the table of all methods over fresh seeds on test, and their learning curves.
`benchmarks/compare.py` runs the sweeps; nothing is trained here.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.significance import bootstrap_interval, holm, paired_t
from rlmec.records import Attempt
from rlmec.runtime.display import markdown_table
from rlmec.store.atomic import atomic_write_text
from rlmec.store.tables import read_table

Curve = Sequence[tuple[int, float]]
"""Pairs of (optimizer step, dev accuracy)."""
HEAD = "method", "learning rate", "accuracy", "sd", "against {}", "95 % interval", "p", "p (Holm)"
HEAD += "tokens", "seconds"


@dataclass(frozen=True)
class Job:
    """One finished job: its settings, and the paths of its policy and its evaluation."""

    method: str
    rate: float
    seed: int
    policy: Path
    evaluation: Path | None
    dev_accuracy: float


@dataclass(frozen=True)
class Line:
    """A method over its fresh seeds.

    Accuracies and differences are shares of 1. The difference, its interval, and the p-values are
    against the reference method; they are None for that method itself.
    """

    method: str
    rate: float
    seeds: int
    problems: int
    accuracy: float
    deviation: float
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    p_holm: float | None
    tokens: int
    seconds: float


def read_jobs(folder: Path) -> list[Job]:
    """Return every finished job below a folder, in the order of their paths.

    A summary without a policy is left out, because its job failed or still runs. Raises ValueError,
    with the path, if a summary lacks one of the three overrides.
    """
    jobs = []
    for path in sorted(folder.rglob("summary.json")):
        summary = json.loads(path.read_text(encoding="utf-8"))
        chosen = dict(o.lstrip("+").split("=", 1) for o in summary["overrides"] if "=" in o)
        if "ablation" in chosen:
            chosen["method"] = chosen["ablation"]
        needed = ("method", "policy.optimizer.lr", "policy.seed")
        missing = [name for name in needed if name not in chosen]
        if missing:
            raise ValueError(
                f"{path}: no override of {', '.join(missing)}, so this is not a job of a comparison"
            )

        stages = {(s["name"], s["variant"]): s for s in summary["stages"]}
        policy = stages.get(("policy", ""))
        judged = stages.get(("evaluate", ""))
        if policy is None:
            continue

        jobs.append(
            Job(
                chosen["method"],
                float(chosen["policy.optimizer.lr"]),
                int(chosen["policy.seed"]),
                Path(policy["artifact"]),
                Path(judged["artifact"]) if judged else None,
                float(policy["metrics"]["dev/accuracy"]),
            )
        )
    return jobs


def chosen_rates(jobs: Sequence[Job]) -> dict[str, float]:
    """Return, per method, the learning rate with the best mean dev accuracy over its seeds.

    The lowest of equally good rates wins. Raises ValueError if the methods were not all tried at
    the same number of rates.
    """
    scores: dict[str, dict[float, list[float]]] = {}
    for job in jobs:
        scores.setdefault(job.method, {}).setdefault(job.rate, []).append(job.dev_accuracy)
    counts = {method: len(rates) for method, rates in scores.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"unequal numbers of learning rates per method: {counts}")

    return {
        method: min(rates, key=lambda rate: (-float(np.mean(rates[rate])), rate))
        for method, rates in scores.items()
    }


def comparison_table(jobs: Sequence[Job], against: str) -> list[Line]:
    """Return one line per method: `against` first, then the others by falling accuracy.

    Every method needs the same seeds (at least two) and the same judged problems. Raises ValueError
    that names what is missing otherwise.
    """
    by_method: dict[str, dict[int, Job]] = {}
    for job in jobs:
        if job.evaluation is None:
            raise ValueError(f"{job.method}, seed {job.seed}: not judged yet")
        by_method.setdefault(job.method, {})[job.seed] = job

    if against not in by_method:
        raise ValueError(f"no job of {against!r} among those of {', '.join(sorted(by_method))}")
    seeds = sorted(by_method[against])
    for method, found in by_method.items():
        if sorted(found) != seeds:
            raise ValueError(f"{method} has the seeds {sorted(found)}, {against} has {seeds}")

    right = {m: _judged([found[s] for s in seeds]) for m, found in by_method.items()}
    base = right[against]
    tests = {m: paired_t(r.mean(1), base.mean(1)) for m, r in right.items() if m != against}
    corrected = holm({m: test.p_value for m, test in tests.items()})

    lines = []
    for method, found in by_method.items():
        mine = right[method]
        test = tests.get(method)
        low, high = bootstrap_interval(mine, base) if test else (None, None)
        manifests = [_manifest(found[s].policy) for s in seeds]
        lines.append(
            Line(
                method,
                found[seeds[0]].rate,
                len(seeds),
                mine.shape[1],
                float(mine.mean()),
                float(mine.mean(1).std(ddof=1)),
                test.mean if test else None,
                low,
                high,
                test.p_value if test else None,
                corrected.get(method),
                int(sum(map(_tokens, manifests))),
                float(sum(m["seconds"] for m in manifests)),
            )
        )
    return sorted(lines, key=lambda line: (line.method != against, -line.accuracy))


def write_comparison(jobs: Sequence[Job], against: str, folder: Path) -> list[Line]:
    """Write `comparison.csv`, `comparison.md`, and `comparison.png` to the folder."""
    lines = comparison_table(jobs, against)

    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(Line)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(line) for line in lines)
    atomic_write_text(folder / "comparison.csv", text.getvalue())
    atomic_write_text(folder / "comparison.md", comparison_markdown(lines, against))

    curves: dict[str, list[Curve]] = {line.method: [] for line in lines}
    for job in jobs:
        history = _manifest(job.policy)["metrics"]["history"]
        scored = [(int(h["step"]), h["dev/accuracy"]) for h in history if "dev/accuracy" in h]
        curves[job.method].append(scored)
    draw_curves(curves, folder / "comparison.png")
    return lines


def comparison_markdown(lines: Sequence[Line], against: str) -> str:
    """Return the table as Markdown, followed by a note on seeds, tests, and costs."""
    head = [name.format(against) for name in HEAD]
    first = lines[0]
    note = (
        f"{first.seeds} fresh seeds of the policy's training per method, {first.problems} test "
        "problems; learning rates chosen on dev. sd: over seeds. p: paired t-test over seeds, with "
        "Holm's correction over the methods. Interval: bootstrap over seeds and problems. Tokens "
        "and seconds are those of the policy's training, summed over seeds; the stages before it "
        "are shared."
    )
    return f"{markdown_table(head, map(_cells, lines))}\n{note}\n"


def _cells(line: Line) -> list[str]:
    """The cells of a line; those of the comparison are empty for the reference method."""
    compared = [""] * 4
    if line.difference is not None and line.low is not None and line.high is not None:
        compared = [
            f"{100 * line.difference:+.1f}",
            f"{100 * line.low:+.1f} to {100 * line.high:+.1f}",
            f"{line.p_value:.2g}",
            f"{line.p_holm:.2g}",
        ]
    return [
        line.method,
        f"{line.rate:g}",
        f"{100 * line.accuracy:.1f} %",
        f"{100 * line.deviation:.1f}",
        *compared,
        str(line.tokens),
        f"{line.seconds:.0f}",
    ]


def draw_curves(curves: Mapping[str, Sequence[Curve]], path: Path) -> None:
    """Write a PNG file with the mean dev accuracy per method, and each seed as a thin line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.2))

    def draw(curve: Curve, **style: Any) -> None:
        shown = [(step, 100 * value) for step, value in curve]
        axes.plot(*zip(*shown, strict=True), **style)

    for number, (method, seeds) in enumerate(curves.items()):
        colour = f"C{number % 10}"
        for curve in seeds:
            draw(curve, color=colour, linewidth=0.6, alpha=0.4)
        mean = mean_curve(seeds)
        if mean:
            draw(mean, color=colour, linewidth=1.8, label=method)

    axes.set_xlabel("optimizer step")
    axes.set_ylabel("accuracy on dev problems (%)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def mean_curve(curves: Sequence[Curve]) -> list[tuple[int, float]]:
    """Return the mean value at every step that all curves have, by rising step."""
    known = [dict(curve) for curve in curves]
    steps = sorted(set.intersection(*(set(values) for values in known))) if known else []
    return [(step, sum(values[step] for values in known) / len(known)) for step in steps]


def _judged(jobs: Sequence[Job]) -> np.ndarray:
    """The share of right attempts per seed and problem, float64 [seeds, problems], problems by
    id."""
    rows = []
    known = None
    for job in jobs:
        attempts = read_table(Path(str(job.evaluation)) / "attempts.parquet", Attempt)
        by_problem: dict[str, list[bool]] = {}
        for attempt in attempts:
            by_problem.setdefault(attempt.problem_id, []).append(attempt.is_right)

        if known is not None and sorted(by_problem) != known:
            raise ValueError(
                f"{job.method}, seed {job.seed}: judged on other problems than the first job "
                f"({len(by_problem)} and {len(known)})"
            )
        known = sorted(by_problem)
        rows.append([float(np.mean(by_problem[id_])) for id_ in known])
    return np.array(rows)


def _manifest(artifact: Path) -> dict[str, Any]:
    return json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))


def _tokens(manifest: dict[str, Any]) -> int:
    """The real tokens of a policy training: steps times tokens per step, a row more or less."""
    return manifest["rows"] * manifest["settings"]["policy"]["tokens_per_step"]
