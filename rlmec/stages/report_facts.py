"""What a report says of the run itself: what was run, in words and in figures, and what it took.

In: the settings of the run and the manifests of its artifacts. Out: sentences, pairs of name and
value, and a table of the stages.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import rlmec
from rlmec.export.model_card import command_line
from rlmec.pipeline.chain import Run, curve_of
from rlmec.pipeline.stage_words import in_words
from rlmec.records import Attempt, Correction
from rlmec.report.tables import Table
from rlmec.store.artifacts import Artifact
from rlmec.store.tables import read_table

MAIN = "policy"
"""Name of the trained policy among the judged models."""

DATED = {"score": "scored", "policy": "trained"}
"""What the date on a page is called, by the stage whose date it is."""


def model_name(run: Run) -> str:
    """The policy's model as a person calls it."""
    model = run.settings.model
    path = model.gguf_file or model.path
    return f"{model.shape['model_type']} from scratch" if path is None else Path(path).name


def teacher_name(run: Run) -> str:
    """The teacher by the name of its module, such as "oracle"."""
    return str(run.settings.teacher["_target_"]).split(".")[-2]


def run_intro(run: Run, made: Collection[str]) -> str:
    """What was run, in words for someone who does not know the method. `made` are the names of the
    stages of a round that were made."""
    s = run.settings
    rounds = f"{s.rounds} rounds" if s.rounds > 1 else "one round"
    attempts = "wrote attempts" if s.sample.path is None else "is to learn from given attempts"
    words = f"RLMEC on the task {run.task.name}, in {rounds}. "
    words += f"The policy ({model_name(run)}) {attempts}"
    if "teach" in made:
        words += f", and a teacher ({teacher_name(run)}) corrected wrong ones with as few edits as "
        words += "it could"
    words += ". "
    if "score" in made:
        words += (
            "A generative reward model (GRM) learned from these corrections to rewrite wrong "
            "attempts, and gave every token of every attempt a reward (rule "
            f"{short_name(s.policy.reward)}). "
        )
    return words + (
        f"The policy was then trained on {short_name(s.policy.rows)} with the objective "
        f"{short_name(s.policy.objective)}, and judged on problems that it had not seen."
    )


def short_name(node: Mapping[str, Any]) -> str:
    """The name of the function that a node of the settings names."""
    return str(node["_target_"]).rpartition(".")[2]


def run_facts(run: Run, dated: Artifact) -> list[tuple[str, str]]:
    """What was run, as (name, value).

    Date and version are those of an artifact, `score` or without scores `policy`, so that the same
    artifacts give the same page. The command names files without their folders, which say nothing
    about the attempts.
    """
    s = run.settings
    recorded = dated.manifest.get("environment", {})
    commit = recorded.get("commit")
    version = f"{rlmec.__version__}, commit {commit[:12]}" if commit else rlmec.__version__
    program = ["python", "train.py"] if Path(sys.argv[0]).name == "train.py" else ["rlmec", "train"]
    return [
        ("model", model_name(run)),
        ("seed", str(s.seed)),
        (DATED[dated.stage], str(dated.manifest.get("created", ""))[:10]),
        ("version", version),
        ("reward rule", short_name(s.policy.reward)),
        ("command", command_line(run.overrides, program)),
    ]


def page_facts(run: Run, dated: Artifact, made: Collection[str]) -> list[tuple[str, str]]:
    """The facts of the first page: those of `run_facts`, and what the chain was made of, a teacher
    if `teach` is among the stages that were `made`."""
    own = run_facts(run, dated)
    teacher = [("teacher", teacher_name(run))] if "teach" in made else []
    chain = [*teacher, ("rounds", str(run.settings.rounds))]
    return [("task", run.task.name), own[0], *chain, *own[1:]]


# --- time and tokens ---


def artifact_label(name: str) -> str:
    """The name under which a report reads an artifact, as a table shows it: stage, model."""
    return ", ".join(dict.fromkeys(name.split("/")))


def stages_table(parents: Mapping[str, Artifact]) -> Table:
    """One row per artifact in the order in which they were made, and their sum.

    The tokens are those that a model wrote or learned from. Those of a fit are the mean of its
    logged steps times all steps. A cell is empty if a figure is not known.
    """
    head = ["stage", "seconds", "tokens", "peak memory", "result", "artifact"]
    made = sorted(parents.items(), key=lambda named: str(named[1].manifest.get("created", "")))
    rows = []
    seconds, tokens = 0.0, 0
    for name, artifact in made:
        own = float(artifact.manifest.get("seconds", 0))
        count = tokens_of(artifact)
        peak = artifact.manifest.get("peak_memory_gib")
        rows.append(
            [
                artifact_label(name),
                f"{own:,.1f}",
                "" if count is None else f"{count:,}",
                "" if peak is None else f"{peak:.2f} GiB",
                ", ".join(in_words(artifact.stage, artifact.rows, artifact.metrics)),
                f"{artifact.stage}/{artifact.fingerprint}",
            ]
        )
        seconds += own
        tokens += count or 0
    rows.append(["all", f"{seconds:,.1f}", f"{tokens:,}", "", "", ""])
    return Table("Stages in the order in which they were made", head, rows)


def tokens_of(artifact: Artifact) -> int | None:
    """The tokens that a stage's model wrote or learned from; None if that is not known."""
    if artifact.stage in ("sample", "evaluate"):
        attempts = read_table(artifact.file("attempts.parquet"), Attempt)
        return sum(len(a.completion_ids) for a in attempts)
    if artifact.stage in ("teach", "score"):
        corrections = read_table(artifact.file("corrections.parquet"), Correction)
        return sum(len(c.completion_ids) for c in corrections)
    logged = [row["train/tokens"] for row in curve_of(artifact) if "train/tokens" in row]
    return round(fmean(logged) * artifact.rows) if logged else None
