"""The records that pairs are joined from, read from the artifacts of one round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlmec.data.pairs import PairTable, join_pairs
from rlmec.pipeline.chain import Run
from rlmec.records import Attempt, Correction, Problem, Score
from rlmec.settings.binding import build
from rlmec.settings.schema import PolicySettings
from rlmec.store.artifacts import Artifact
from rlmec.store.tables import read_table


@dataclass(frozen=True)
class PairRecords:
    """The records that `join_pairs` is given; `dropped` counts attempts that were left out."""

    problems: list[Problem]
    attempts: list[Attempt]
    corrections: list[Correction]
    scores: list[Score]
    dropped: dict[str, int] = field(default_factory=dict)


def pair_records(run: Run, node: PolicySettings, parents: Mapping[str, Artifact]) -> PairRecords:
    """The scored attempts of a round, their accepted corrections, and the problems they are about.

    `parents` has the artifacts of `sample`, `teach` and `score`. Raises ValueError if more or fewer
    attempts lack a score than were too long to be scored.
    """
    sampled = read_table(parents["sample"].file("attempts.parquet"), Attempt)
    scores = read_table(parents["score"].file("scores.parquet"), Score)
    known = {score.attempt_id for score in scores}
    attempts = [attempt for attempt in sampled if attempt.id in known]

    missing = len(sampled) - len(attempts)
    too_long = parents["score"].metrics["score/too_long"]
    if missing != too_long:
        raise ValueError(
            f"{missing} of {len(sampled)} attempts have no score, but {too_long} were too long to "
            f"be scored: make stage=score again"
        )

    corrections = read_table(parents["teach"].file("corrections.parquet"), Correction)
    if not node.teacher_corrections_only:
        corrections += read_table(parents["score"].file("corrections.parquet"), Correction)

    tried = {attempt.problem_id for attempt in attempts}
    return PairRecords(
        [problem for problem in run.task.problems("train") if problem.id in tried],
        attempts,
        [correction for correction in corrections if correction.accepted],
        scores,
        {"too_long_to_score": missing},
    )


def join_arguments(node: PolicySettings) -> dict[str, Any]:
    """The credit settings of a policy node, as arguments of `join_pairs` and the DataModule."""
    return {
        "reward": build(node.reward),
        "edited_weight": node.edit_weights.edited,
        "kept_weight": node.edit_weights.kept,
        "keep_uncorrected": node.keep_uncorrected,
        "max_right_per_problem": node.max_right_per_problem,
    }


def joined_pairs(
    run: Run, node: PolicySettings, parents: Mapping[str, Artifact], tokenizer: str
) -> PairTable:
    """The pairs of a round under a policy node's reward rule, without a training plan."""
    records = pair_records(run, node, parents)
    return join_pairs(
        records.problems,
        records.attempts,
        records.corrections,
        records.scores,
        tokenizer=tokenizer,
        dropped=records.dropped,
        **join_arguments(node),
    )
