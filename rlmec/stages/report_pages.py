"""What a report shows besides its table: figures, warnings and the two pages."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import rlmec
from rlmec.evaluation.accuracy import by_kind
from rlmec.evaluation.run_warnings import NamedWarning, of_evaluations
from rlmec.pipeline.chain import Run, curve_of, warnings_of
from rlmec.records import Attempt, by_id
from rlmec.report.figures import (
    credit_curve,
    edit_ratios,
    kinds_figure,
    reward_histograms,
    training_curves,
)
from rlmec.report.first_page import index_html
from rlmec.report.tables import credit_words
from rlmec.report.token_page import chosen, page_data, page_html
from rlmec.stages.report_credit import Scored
from rlmec.store.artifacts import Artifact
from rlmec.store.atomic import atomic_write_text
from rlmec.store.tables import read_table

TOKENS_PAGE, FIRST_PAGE = "tokens.html", "index.html"


def pictures(
    run: Run,
    work: Path,
    parents: dict[str, Artifact],
    scored: Scored,
    credit: Mapping[str, Any],
    names: tuple[str, str],
) -> list[NamedWarning]:
    """Writes figures, token-reward page and first page into `work`; returns the warnings.

    `work` holds table.md and accuracy.png already. `names` are the start and the policy among the
    evaluations.
    """
    start, policy = (parents[f"evaluate/{name}"] for name in names)

    figures = {"Accuracy of every judged model": work / "accuracy.png"}
    figures |= _kinds(run, work, start, policy) | _credit(run, work, scored)
    figures |= _curves(work, parents)
    atomic_write_text(work / TOKENS_PAGE, tokens_page(run, scored, credit, parents["score"]))

    late = of_evaluations(start.metrics, policy.metrics, run.task.name)
    for warning in late:
        run.say(f"  warning: {warning}")
    warnings = [w for artifact in parents.values() for w in warnings_of(artifact)] + late

    table = (work / "table.md").read_text(encoding="utf-8")
    first = index_html(run.task.name, table, figures, warnings, TOKENS_PAGE)
    atomic_write_text(work / FIRST_PAGE, first)
    return warnings


def tokens_page(run: Run, scored: Scored, credit: Mapping[str, Any], score: Artifact) -> str:
    """The token-reward page of the scored attempts, with `report.page_pairs` of them at most."""
    cases = chosen(scored.cases, run.settings.report.page_pairs)
    counts = [Counter(c.pair.attempt.is_right for c in group) for group in (scored.cases, cases)]
    choice = f"All {len(cases):,} scored attempts."
    if len(cases) < len(scored.cases):
        shown = [
            f"{counts[1][r]:,} of {counts[0][r]:,} {w}"
            for r, w in ((False, "wrong"), (True, "right"))
        ]
        choice = f"{len(cases):,} of {len(scored.cases):,} scored attempts, chosen by a hash of "
        choice += f"their ids: {' and '.join(shown)} ones (report.page_pairs)."
    data = page_data(
        cases,
        scored.texts,
        scored.codec.end_ids,
        title=run.task.name,
        choice=choice,
        credit=credit_words(credit),
        index=FIRST_PAGE,
        facts=run_facts(run, score),
    )
    return page_html(data)


def run_facts(run: Run, score: Artifact) -> list[tuple[str, str]]:
    """What was run, as (name, value).

    Date and version are those of the `score` artifact, so that the same artifacts give the same
    page. The command leaves out where files are, which says nothing about the attempts.
    """
    s = run.settings
    model = s.model.gguf_file or s.model.path
    name = f"{s.model.shape['model_type']} from scratch" if model is None else Path(model).name
    recorded = score.manifest.get("environment", {})
    commit = recorded.get("commit")
    version = f"{rlmec.__version__}, commit {commit[:12]}" if commit else rlmec.__version__
    program = ["python", "train.py"] if Path(sys.argv[0]).name == "train.py" else ["rlmec", "train"]
    told = [each for each in run.overrides if not each.startswith(("paths.", "hydra."))]
    return [
        ("model", name),
        ("seed", str(s.seed)),
        ("scored", str(score.manifest.get("created", ""))[:10]),
        ("version", version),
        ("reward rule", str(s.policy.reward["_target_"]).rpartition(".")[2]),
        ("command", shlex.join([*program, *told])),
    ]


def _kinds(run: Run, work: Path, start: Artifact, policy: Artifact) -> dict[str, Path]:
    problems = run.task.problems(run.settings.evaluate.split)
    known, kind_of_error = by_id(problems), getattr(run.task, "kind_of_error", None)
    counts, errors = [], []
    for artifact in (start, policy):
        attempts = read_table(artifact.file("attempts.parquet"), Attempt)
        counts.append(by_kind(attempts, problems))
        wrong = [a for a in attempts if not a.is_right] if kind_of_error else []
        errors.append(Counter(kind_of_error(known[a.problem_id], a.text) for a in wrong))  # pyright: ignore
    path = work / "kinds.png"
    kinds_figure(counts[0], counts[1], (errors[0], errors[1]), path)
    return {"Accuracy by kind of problem and errors by kind, before and after": path}


def _credit(run: Run, work: Path, scored: Scored) -> dict[str, Path]:
    rewards: dict[bool, list[np.ndarray]] = {True: [np.empty(0)], False: [np.empty(0)]}
    for case in scored.cases:
        rewards[case.pair.attempt.is_right].append(case.pair.token_rewards)
    out = {"Token rewards of right and wrong attempts": work / "rewards.png"}
    right, wrong = (np.concatenate(rewards[sign]) for sign in (True, False))
    reward_histograms(right, wrong, work / "rewards.png")
    ratios: dict[str, list[float]] = {}
    for c in scored.corrections:
        how = "accepted" if c.accepted else "rejected"
        ratios.setdefault(f"{c.source}, {how}", []).append(c.edit_ratio)
    if ratios:
        out["Edit ratios of the corrections"] = work / "edits.png"
        edit_ratios(ratios, run.settings.teach.max_edit_ratio, work / "edits.png")
    if scored.items:
        name = "Precision and recall of penalties over the threshold, unseen wrong attempts"
        out[name] = work / "credit.png"
        credit_curve(scored.items, scored.truth, work / "credit.png")
    return out


def _curves(work: Path, parents: dict[str, Artifact]) -> dict[str, Path]:
    out = {}
    for stage in ("warmup", "grm", "policy"):
        fits = {
            name.rpartition("/")[2]: curve_of(artifact)
            for name, artifact in parents.items()
            if artifact.stage == stage
        }
        path = work / f"curves_{stage}.png"
        if fits and training_curves(fits, stage, path):
            out[f"Training curves: {stage}"] = path
    return out
