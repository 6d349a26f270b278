"""The comparison of methods: finished jobs read from their summaries, and the table made of them.

In: folders of `summary.json` files that sweeps left, each job with `method=` or `ablation=`,
`policy.optimizer.lr=`, `seed=` (its chain) and `policy.seed=` among its overrides. Out: the dev
accuracies of the values that tuning tried, the table of all methods over fresh chains on test, and
their learning curves. `benchmarks/compare.py` runs the sweeps; nothing is trained here.
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

from benchmarks.significance import POWER, holm, paired_t
from rlmec.records import Attempt, Correction, Score
from rlmec.runtime.display import markdown_table
from rlmec.store.atomic import atomic_write_text
from rlmec.store.tables import TableRecords, read_table

Verdicts = dict[str, list[bool]]
"""Whether each attempt at a problem is right, by the problem's id."""
Curve = Sequence[tuple[int, float]]
"""Pairs of (optimizer step, dev accuracy)."""
HEAD = "method", "learning rate", "accuracy", "sd", "against {}", "95 % interval", "p", "p (Holm)"
HEAD += "could be seen", "tokens", "seconds"
GROUPS = ("method", "ablation")


@dataclass(frozen=True)
class Job:
    """One finished job: its settings, and the paths of its policy and its evaluation.

    `chain` and `seed` are the seeds of its chain and of its policy's training; `dev_accuracy` is
    that of the last weights.
    """

    method: str
    rate: float
    chain: int
    seed: int
    overrides: Mapping[str, str]
    policy: Path
    evaluation: Path | None
    dev_accuracy: float


@dataclass(frozen=True)
class Line:
    """A method over the units of the comparison.

    Accuracies and differences are shares of 1; `deviation` is over the units. The difference, its
    interval, what could have been seen, and the p-values are against the reference method; they are
    None for that method itself.
    """

    method: str
    rate: float
    chains: int
    seeds: int
    problems: int
    accuracy: float
    deviation: float
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    p_holm: float | None
    detectable: float | None
    tokens: int
    seconds: float


def read_jobs(folder: Path) -> list[Job]:
    """Return every finished job below a folder, in the order of their paths.

    A summary without a policy is left out, because its job failed or still runs. Raises ValueError,
    with the path, if a summary lacks one of the overrides.
    """
    jobs = []
    for path in sorted(folder.rglob("summary.json")):
        summary = json.loads(path.read_text(encoding="utf-8"))
        chosen = dict(o.lstrip("+").split("=", 1) for o in summary["overrides"] if "=" in o)
        method = "+".join(value for name, value in chosen.items() if name in GROUPS)
        missing = [name for name in ("policy.optimizer.lr", "seed") if name not in chosen]
        if missing or not method:
            lacks = ", ".join([*missing, *(() if method else ("method",))])
            raise ValueError(f"{path}: no override of {lacks}, so this is no job of a comparison")

        stages = {(s["name"], s["variant"]): s for s in summary["stages"]}
        policy = stages.get(("policy", ""))
        judged = stages.get(("evaluate", ""))
        if policy is None:
            continue

        jobs.append(
            Job(
                method,
                float(chosen["policy.optimizer.lr"]),
                int(chosen["seed"]),
                int(chosen.get("policy.seed", chosen["seed"])),
                chosen,
                Path(policy["artifact"]),
                Path(judged["artifact"]) if judged else None,
                last_dev_accuracy(Path(policy["artifact"])),
            )
        )
    return jobs


def last_dev_accuracy(policy: Path) -> float:
    """The dev accuracy of a policy's last weights, which may not be those that were kept; NaN for a
    policy that was not validated."""
    curve = _curve(policy)
    kept = _manifest(policy)["metrics"].get("dev/accuracy")
    return curve[-1][1] if curve else float("nan" if kept is None else kept)


def updates_for_all_tokens(folder: Path) -> int:
    """The updates of a policy that all tokens of the one job below a folder would pay for.

    All tokens are those that the policy learned from, and those that the GRM learned from, scored
    and wrote. Raises ValueError if there is not one job.
    """
    paths = sorted(folder.rglob("summary.json"))
    if len(paths) != 1:
        raise ValueError(f"{folder}: {len(paths)} summary.json, where one is expected")
    stages = json.loads(paths[0].read_text(encoding="utf-8"))["stages"]
    made = {s["name"]: Path(s["artifact"]) for s in stages if not s["variant"]}

    score = made["score"]
    scored = TableRecords([score / "scores.parquet"], Score).columns("grm_logprobs")
    written = TableRecords([score / "corrections.parquet"], Correction).columns("completion_ids")
    policy, grm = _manifest(made["policy"]), _manifest(made["grm"])
    own = _tokens(policy)
    others = _tokens(grm, "grm") + sum(len(ids) for (ids,) in (*scored, *written))
    return round(policy["rows"] * (own + others) / own)


def dev_accuracies(folder: Path, key: str) -> dict[str, float]:
    """Return the mean dev accuracy of the last weights by the value of an override."""
    found: dict[str, list[float]] = {}
    for job in read_jobs(folder):
        found.setdefault(job.overrides[key], []).append(job.dev_accuracy)
    return {value: float(np.mean(scores)) for value, scores in found.items()}


def comparison_table(jobs: Sequence[Job], against: str) -> list[Line]:
    """Return one line per method: `against` first, then the others by falling accuracy.

    The units are chains, or the seeds of the policy's training where there is one chain; a chain's
    figure is the mean over its seeds. Every method needs the same chains and seeds, at least two
    units, and in each chain the same judged problems. Raises ValueError that names what is missing
    otherwise.
    """
    by_method: dict[str, dict[tuple[int, int], Job]] = {}
    for job in jobs:
        if job.evaluation is None:
            raise ValueError(f"{job.method}, chain {job.chain}, seed {job.seed}: not judged yet")
        by_method.setdefault(job.method, {})[job.chain, job.seed] = job

    if against not in by_method:
        raise ValueError(f"no job of {against!r} among those of {', '.join(sorted(by_method))}")
    places = sorted(by_method[against])
    for method, found in by_method.items():
        if sorted(found) != places:
            raise ValueError(
                f"{method} has the (chain, seed) {sorted(found)}, {against} has {places}"
            )

    right = {m: {at: _right(job) for at, job in found.items()} for m, found in by_method.items()}
    problems = _equal_problems(right)
    shares = {m: [_share(found[place]) for place in places] for m, found in right.items()}
    units = {m: _units(places, found) for m, found in shares.items()}
    base = units[against]
    tests = {m: paired_t(found, base) for m, found in units.items() if m != against}
    corrected = holm({m: test.p_value for m, test in tests.items()})

    lines = []
    for method, found in by_method.items():
        test = tests.get(method)
        manifests = [_manifest(found[place].policy) for place in places]
        lines.append(
            Line(
                method,
                found[places[0]].rate,
                len({chain for chain, _ in places}),
                len({seed for _, seed in places}),
                problems,
                float(np.mean(units[method])),
                float(np.std(units[method], ddof=1)),
                test.mean if test else None,
                test.low if test else None,
                test.high if test else None,
                test.p_value if test else None,
                corrected.get(method),
                test.detectable if test else None,
                int(sum(map(_tokens, manifests))),
                float(sum(m["seconds"] for m in manifests)),
            )
        )
    return sorted(lines, key=lambda line: (line.method != against, -line.accuracy))


def _units(places: Sequence[tuple[int, int]], shares: Sequence[float]) -> list[float]:
    """One figure per chain, the mean over its seeds; one per seed where there is one chain."""
    chains = sorted({chain for chain, _ in places})
    if len(chains) == 1:
        return list(shares)
    return [
        float(np.mean([s for (c, _), s in zip(places, shares, strict=True) if c == chain]))
        for chain in chains
    ]


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
        curves[job.method].append(_curve(job.policy))
    draw_curves(curves, folder / "comparison.png")
    return lines


def comparison_markdown(lines: Sequence[Line], against: str) -> str:
    """Return the table as Markdown, followed by a note on units, tests, and costs."""
    head = [name.format(against) for name in HEAD]
    first = lines[0]
    if first.chains > 1:
        trainings = "one training" if first.seeds == 1 else f"{first.seeds} trainings"
        units = f"{first.chains} chains, each from its own start, with {trainings} of the policy"
        unit = "chains"
    else:
        units = f"{first.seeds} seeds on one chain: other chains are not covered"
        unit = "seeds"
    note = (
        f"{units}; {first.problems} test problems in each. Settings chosen on dev. sd: over "
        f"{unit}. p: paired t-test over {unit}, with Holm's correction over the methods; interval: "
        f"Student's, over {unit}. Could be seen: the difference that this test finds with a "
        f"probability of {100 * POWER:.0f} %. Tokens and seconds are those of the policy's "
        f"training, summed; the stages before it are shared."
    )
    return f"{markdown_table(head, map(_cells, lines))}\n{note}\n"


def _cells(line: Line) -> list[str]:
    """The cells of a line; those of the comparison are empty for the reference method."""
    compared = [""] * 5
    if line.difference is not None and line.low is not None and line.high is not None:
        compared = [
            f"{100 * line.difference:+.1f}",
            f"{100 * line.low:+.1f} to {100 * line.high:+.1f}",
            f"{line.p_value:.2g}",
            f"{line.p_holm:.2g}",
            f"{100 * (line.detectable or 0):.1f}",
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


def _equal_problems(right: Mapping[str, Mapping[tuple[int, int], Verdicts]]) -> int:
    """The number of judged problems of a chain; ValueError where the jobs of one differ in them."""
    first: dict[int, list[str]] = {}
    for method, found in right.items():
        for (chain, seed), verdicts in found.items():
            known = first.setdefault(chain, sorted(verdicts))
            if sorted(verdicts) != known:
                raise ValueError(
                    f"{method}, chain {chain}, seed {seed}: judged on other problems than the "
                    f"first job of its chain ({len(verdicts)} and {len(known)})"
                )
    return min(map(len, first.values()))


def _share(verdicts: Verdicts) -> float:
    """The share of right attempts, the mean over problems."""
    return float(np.mean([np.mean(each) for each in verdicts.values()]))


def _right(job: Job) -> Verdicts:
    """Whether each attempt is right, by problem."""
    by_problem: dict[str, list[bool]] = {}
    for attempt in read_table(Path(str(job.evaluation)) / "attempts.parquet", Attempt):
        by_problem.setdefault(attempt.problem_id, []).append(attempt.is_right)
    return by_problem


def _curve(policy: Path) -> list[tuple[int, float]]:
    """Dev accuracies of a policy by step."""
    history = _manifest(policy)["metrics"]["history"]
    return [(int(h["step"]), h["dev/accuracy"]) for h in history if "dev/accuracy" in h]


def _manifest(artifact: Path) -> dict[str, Any]:
    return json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))


def _tokens(manifest: dict[str, Any], node: str = "policy") -> int:
    """The real tokens of a training: steps times tokens per step, a row more or less."""
    return manifest["rows"] * manifest["settings"][node]["tokens_per_step"]
