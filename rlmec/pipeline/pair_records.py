"""The records that pairs are joined from, read from the artifacts of one round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlmec.data.pairs import PairTable, join_pairs
from rlmec.method.rewards import no_reward
from rlmec.pipeline.chain import Run
from rlmec.records import GRM, Attempt, Correction, Draws, Problem, Score
from rlmec.settings.binding import build
from rlmec.settings.reads import (
    CORRECTIONS,
    GRM_LOGPROBS,
    OLD_LOGPROBS,
    REWARDS,
    what_is_read,
)
from rlmec.settings.schema import PolicySettings
from rlmec.store.artifacts import Artifact
from rlmec.store.tables import TableRecords, read_table

MAKERS = {"both": ("teach", "score"), "teacher": ("teach",), "grm": ("score",)}
"""The stages whose corrections count by `policy.corrections`."""


def parts_read(node: PolicySettings) -> frozenset[str]:
    """What the training of a policy node reads, of `settings.reads.ALL`.

    A token that gets a reward needs its log-prob under the old policy as well. Without
    `policy.keep_uncorrected`, corrections decide which wrong attempts there are.
    """
    of_rows = what_is_read(build(node.rows))
    if OLD_LOGPROBS in of_rows and not node.keep_uncorrected:
        of_rows |= {CORRECTIONS}
    rewarded = what_is_rewarded(node)
    if REWARDS not in of_rows or rewarded is None:
        return of_rows - {REWARDS, GRM_LOGPROBS}
    return (of_rows - {GRM_LOGPROBS}) | rewarded | {OLD_LOGPROBS}


def what_is_rewarded(node: PolicySettings) -> frozenset[str] | None:
    """What the reward rule of a policy node reads; None for the rule that rewards nothing."""
    rule = build(node.reward)
    return None if getattr(rule, "func", rule) is no_reward else what_is_read(rule)


def stages_read(node: PolicySettings) -> tuple[str, ...]:
    """The stages of a round that the training of a policy node reads: `sample`, and `teach` and
    `score` where it reads what they make."""
    parts = parts_read(node)
    makers = set(MAKERS[node.corrections]) if CORRECTIONS in parts else set[str]()
    if GRM_LOGPROBS in parts or "score" in makers:
        makers = {"teach", "score"}
    return ("sample", *(name for name in ("teach", "score") if name in makers))


@dataclass(frozen=True)
class PairRecords:
    """The records that `join_pairs` is given; `dropped` counts attempts that were left out.

    `draws` says how often an attempt was drawn, by its id, where that is more than once.
    """

    problems: list[Problem]
    attempts: TableRecords[Attempt]
    corrections: Sequence[Correction]
    scores: Sequence[Score]
    dropped: dict[str, int] = field(default_factory=dict)
    draws: dict[str, int] = field(default_factory=dict)


def pair_records(run: Run, node: PolicySettings, parents: Mapping[str, Artifact]) -> PairRecords:
    """The attempts of a round, their accepted corrections, and the problems they are about.

    `parents` has the artifacts of `stages_read`. With `score` the attempts are the scored ones,
    without it all; without `teach` nothing is corrected. The records are read from the tables when
    they are asked for. Raises ValueError if more or fewer attempts lack a score than were too long
    to be scored.
    """
    attempts = TableRecords([parents["sample"].file("attempts.parquet")], Attempt)
    scores: Sequence[Score] = ()
    dropped: dict[str, int] = {}
    if "score" in parents:
        sampled = attempts
        scores = TableRecords([parents["score"].file("scores.parquet")], Score)
        known = {id_ for (id_,) in scores.columns("attempt_id")}
        numbers = [n for n, (id_,) in enumerate(sampled.columns("id")) if id_ in known]
        attempts = sampled.chosen(numbers)
        dropped["too_long_to_score"] = len(sampled) - len(attempts)
        _require_scored(len(sampled), len(attempts), parents["score"])

    makers = [name for name in MAKERS[node.corrections] if name in parents]
    proposed = TableRecords([parents[m].file("corrections.parquet") for m in makers], Correction)
    corrections = proposed.chosen(preferred(proposed.columns("attempt_id", "reason", "source")))

    tried = {problem_id for (problem_id,) in attempts.columns("problem_id")}
    return PairRecords(
        [problem for problem in run.task.problems("train") if problem.id in tried],
        attempts,
        corrections,
        scores,
        dropped,
        {d.attempt_id: d.count for d in read_table(parents["sample"].file("draws.parquet"), Draws)},
    )


def _require_scored(sampled: int, scored: int, score: Artifact) -> None:
    too_long = score.metrics["score/too_long"]
    if sampled - scored != too_long:
        raise ValueError(
            f"{sampled - scored} of {sampled} attempts have no score, but {too_long} were too long "
            f"to be scored: make stage=score again"
        )


def preferred(facts: Iterable[tuple[str, str, str]]) -> list[int]:
    """The numbers of the accepted corrections, without the GRM's where a teacher's is accepted.

    `facts` are (attempt id, reason, source).
    """
    accepted = [(n, id_, by) for n, (id_, reason, by) in enumerate(facts) if reason == "accepted"]
    taught = {id_ for _, id_, by in accepted if by != GRM}
    return [n for n, id_, by in accepted if by != GRM or id_ not in taught]


def join_arguments(node: PolicySettings, scored: bool) -> dict[str, Any]:
    """The credit settings of a policy node, as arguments of `join_pairs` and the DataModule.

    Where attempts are not `scored`, there is no reward rule.
    """
    return {
        "reward": build(node.reward) if scored else None,
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
        **join_arguments(node, scored="score" in parents),
    )
