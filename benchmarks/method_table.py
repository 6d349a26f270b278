"""The comparison of methods: finished jobs read from their summaries, and the table made of them.

In: folders below which sweeps left `summary.json`, each job with `method=`, `policy.optimizer.lr=`
and `policy.seed=` among its overrides. Out: the learning rate that is best on dev for each method,
and the table over fresh seeds on test. `benchmarks/compare.py` runs the sweeps; nothing is trained
here.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning_curves import curves_figure
from benchmarks.significance import (
    best_rate,
    bootstrap_interval,
    holm,
    paired_t,
)
from rlmec.records import Attempt
from rlmec.store.atomic import atomic_write_text
from rlmec.store.tables import read_table


@dataclass(frozen=True)
class Job:
    """One finished job: what was chosen, and where its policy and its evaluation lie."""

    method: str
    rate: float
    seed: int
    policy: Path
    evaluation: Path | None
    dev_accuracy: float


@dataclass(frozen=True)
class Line:
    """A method over its fresh seeds. Accuracies and differences are shares of 1; differences,
    interval and p-values are against the method compared with (empty for it)."""

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
    """Every finished job below a folder, in the order of their paths.

    A summary without a policy is left out (the job failed or still runs); one without the three
    overrides raises ValueError with its path.
    """
    jobs = []
    for path in sorted(folder.rglob("summary.json")):
        summary = json.loads(path.read_text(encoding="utf-8"))
        chosen = dict(o.lstrip("+").split("=", 1) for o in summary["overrides"] if "=" in o)
        needed = ("method", "policy.optimizer.lr", "policy.seed")
        if missing := [name for name in needed if name not in chosen]:
            raise ValueError(f"{path}: no override of {', '.join(missing)}: not of a comparison")
        stages = {(s["name"], s["variant"]): s for s in summary["stages"]}
        policy, judged = stages.get(("policy", "")), stages.get(("evaluate", ""))
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
    """By method the learning rate with the best mean dev accuracy over its seeds.

    Raises ValueError where not every method was tried at the same number of rates.
    """
    scores: dict[str, dict[float, list[float]]] = {}
    for job in jobs:
        scores.setdefault(job.method, {}).setdefault(job.rate, []).append(job.dev_accuracy)
    counts = {method: len(rates) for method, rates in scores.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"unequal numbers of learning rates a method: {counts}")
    return {
        method: best_rate({rate: float(np.mean(found)) for rate, found in rates.items()})
        for method, rates in scores.items()
    }


def comparison_table(jobs: Sequence[Job], against: str) -> list[Line]:
    """A line a method, the one compared with first, the others by falling accuracy.

    Every method needs the same seeds (two at least) and problems, each judged; otherwise ValueError
    names what is missing.
    """
    by_method: dict[str, dict[int, Job]] = {}
    for job in jobs:
        if job.evaluation is None:
            raise ValueError(f"{job.method}, seed {job.seed}: not judged yet")
        by_method.setdefault(job.method, {})[job.seed] = job
    if against not in by_method:
        raise ValueError(f"no job of {against!r}: there is {', '.join(sorted(by_method))}")
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
        mine, test = right[method], tests.get(method)
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
    """Writes `comparison.csv`, `comparison.md` and `comparison.png` to the folder."""
    lines = comparison_table(jobs, against)
    text, names = io.StringIO(), [f.name for f in fields(Line)]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(line) for line in lines)
    atomic_write_text(folder / "comparison.csv", text.getvalue())
    atomic_write_text(folder / "comparison.md", comparison_markdown(lines, against))
    curves: dict[str, list[list[tuple[int, float]]]] = {line.method: [] for line in lines}
    for job in jobs:
        history = _manifest(job.policy)["metrics"]["history"]
        scored = [(int(h["step"]), h["dev/accuracy"]) for h in history if "dev/accuracy" in h]
        curves[job.method].append(scored)
    curves_figure(curves, folder / "comparison.png")
    return lines


def comparison_markdown(lines: Sequence[Line], against: str) -> str:
    """The table as Markdown, with the test it rests on."""
    out = [
        f"| method | learning rate | accuracy | sd | against {against} | 95 % interval | p | "
        "p (Holm) | tokens | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        cells = [line.method, f"{line.rate:g}", f"{100 * line.accuracy:.1f} %"]
        cells += [f"{100 * line.deviation:.1f}"]
        if line.difference is None or line.low is None or line.high is None:
            cells += [""] * 4
        else:
            cells += [f"{100 * line.difference:+.1f}"]
            cells += [f"{100 * line.low:+.1f} to {100 * line.high:+.1f}"]
            cells += [f"{line.p_value:.2g}", f"{line.p_holm:.2g}"]
        cells += [str(line.tokens), f"{line.seconds:.0f}"]
        out.append("| " + " | ".join(cells) + " |")
    first = lines[0]
    out.append(
        f"\n{first.seeds} fresh seeds of the policy's training a method, {first.problems} test "
        "problems; learning rates chosen on dev. sd: over seeds. p: paired t-test over seeds, with "
        "Holm's correction over the methods. Interval: bootstrap over seeds and problems. Tokens "
        "and seconds are those of the policy's training, all seeds together; what lies upstream is "
        "shared."
    )
    return "\n".join(out) + "\n"


def _judged(jobs: Sequence[Job]) -> np.ndarray:
    """[seeds, problems]: the share of right attempts at each problem, problems by id."""
    rows, known = [], None
    for job in jobs:
        attempts = read_table(Path(str(job.evaluation)) / "attempts.parquet", Attempt)
        by_problem: dict[str, list[bool]] = {}
        for attempt in attempts:
            by_problem.setdefault(attempt.problem_id, []).append(attempt.is_right)
        if known is not None and sorted(by_problem) != known:
            raise ValueError(f"{job.method}, seed {job.seed}: judged on other problems")
        known = sorted(by_problem)
        rows.append([float(np.mean(by_problem[id_])) for id_ in known])
    return np.array(rows)


def _manifest(artifact: Path) -> dict[str, Any]:
    return json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))


def _tokens(manifest: dict[str, Any]) -> int:
    """Real tokens of a policy training, up to part of a row a step."""
    return manifest["rows"] * manifest["settings"]["policy"]["tokens_per_step"]
