"""Erroneous/corrected pairs: attempts joined with their corrections, scores and credit.

In: problems, attempts, accepted corrections and raw scores. Out: a `PairTable`, whose pairs carry
the reward of each token of an attempt and the edit weight of each token of its target. Attempts
that give no pair are counted by reason. Pure: no disk, no model, no configuration.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlmec.method.alignment import EditScript, edit_script, edit_weights
from rlmec.method.rewards import RewardRule, accepted_arguments
from rlmec.records import Attempt, Correction, Pair, Problem, Score, by_id, require_same_tokenizer


@dataclass(frozen=True, eq=False)
class PairTable:
    """Joined pairs in the order of their attempts, and the records they were joined from.

    `corrections` (accepted ones) and `scores` are by the attempt's id. `dropped` says how many
    attempts gave no pair, by reason.
    """

    pairs: list[Pair]
    dropped: Counter[str]
    problems: dict[str, Problem]
    attempts: list[Attempt]
    corrections: dict[str, Correction]
    scores: dict[str, Score]


def join_pairs(
    problems: Sequence[Problem],
    attempts: Sequence[Attempt],
    corrections: Sequence[Correction],
    scores: Sequence[Score],
    *,
    tokenizer: str,
    reward: RewardRule | None,
    edited_weight: float,
    kept_weight: float,
    keep_uncorrected: bool = False,
    max_right_per_problem: int | None = None,
    dropped: Mapping[str, int] | None = None,
) -> PairTable:
    """One pair per attempt that has a target, with the credit of its tokens.

    The target of a wrong attempt is its accepted correction; with `keep_uncorrected` a wrong
    attempt without one gives a pair with an empty target. The target of a right attempt is the
    attempt itself; more than `max_right_per_problem` right attempts per problem are dropped, in
    their order. Without a `reward` rule all rewards are zero. `dropped` counts attempts that were
    left out before, by reason.

    Raises ValueError for an attempt whose problem is not known, for one without a score where there
    is a reward rule, for a score of another length, and for records that were not made with
    `tokenizer` (its digest).
    """
    check_records(tokenizer, attempts, corrections, scores)
    known = by_id(problems)
    accepted = by_id([c for c in corrections if c.accepted], "attempt_id")
    scored = by_id(scores, "attempt_id")

    counts = Counter(dropped or {})
    right_seen: Counter[str] = Counter()
    pairs = []
    for attempt in attempts:
        if attempt.problem_id not in known:
            raise ValueError(f"attempt {attempt.id!r}: no problem {attempt.problem_id!r}")
        if attempt.is_right:
            right_seen[attempt.problem_id] += 1

        correction = None if attempt.is_right else accepted.get(attempt.id)
        number = right_seen[attempt.problem_id]
        why = _left_out(attempt, correction, number, max_right_per_problem, keep_uncorrected)
        if why:
            counts[why] += 1
            continue

        target = attempt.completion_ids
        if not attempt.is_right:
            target = correction.completion_ids if correction else []
        script = edit_script(attempt.completion_ids, target or attempt.completion_ids)
        token_rewards, old_logprobs = _credit(attempt, script, reward, scored)
        pairs.append(
            Pair(
                attempt,
                target,
                old_logprobs=old_logprobs,
                token_rewards=token_rewards,
                edit_weights=_weights(attempt, target, script, edited_weight, kept_weight),
                corrected_by=correction.source if correction else "",
            )
        )
    return PairTable(pairs, counts, known, list(attempts), accepted, scored)


def check_records(
    tokenizer: str,
    attempts: Sequence[Attempt],
    corrections: Sequence[Correction],
    scores: Sequence[Score],
) -> None:
    """Raises ValueError for an id that occurs twice and for a record of another tokenizer.

    Of corrections only the accepted ones count; an attempt may have several rejected ones.
    """
    by_id(attempts)
    by_id([c for c in corrections if c.accepted], "attempt_id")
    by_id(scores, "attempt_id")
    for record in (*attempts, *corrections, *scores):
        name = f"a table of {type(record).__name__}s"
        require_same_tokenizer(tokenizer, record.tokenizer, name)


def _left_out(
    attempt: Attempt,
    correction: Correction | None,
    number: int,
    max_right: int | None,
    keep_uncorrected: bool,
) -> str:
    """Why an attempt gives no pair; empty where it gives one. `number` counts right attempts."""
    if attempt.is_right:
        return "right_beyond_cap" if max_right is not None and number > max_right else ""
    if not attempt.is_wrong:
        return "undecided"
    return "" if correction or keep_uncorrected else "uncorrected"


def _credit(
    attempt: Attempt,
    script: EditScript,
    reward: RewardRule | None,
    scores: Mapping[str, Score],
) -> tuple[np.ndarray, np.ndarray]:
    """Token rewards and old log-probs (nats) of an attempt, both float32 [n]."""
    count = len(attempt.completion_ids)
    if reward is None:
        zeros = np.zeros(count, dtype=np.float32)  # [n]
        return zeros, zeros

    score = scores.get(attempt.id)
    if score is None:
        raise ValueError(f"attempt {attempt.id!r}: it has no score")
    if len(score.grm_logprobs) != count:
        raise ValueError(
            f"attempt {attempt.id!r} has {count} tokens, its score {len(score.grm_logprobs)}"
        )
    grm = np.asarray(score.grm_logprobs, dtype=np.float32)  # [n]
    old = np.asarray(score.old_logprobs, dtype=np.float32)  # [n]
    more = accepted_arguments(reward, old_logprobs=old, first_edit=script.first_edit)
    return reward(grm, attempt.is_right, script.removed, **more), old


def _weights(
    attempt: Attempt, target: list[int], script: EditScript, edited: float, kept: float
) -> np.ndarray:
    """Imitation weights of the target's tokens, float32 [m]; empty for an empty target."""
    if not target:
        return np.zeros(0, dtype=np.float32)
    if attempt.is_right:  # the authors weigh a right attempt's own tokens as kept ones
        return np.full(len(target), kept, dtype=np.float32)  # [m]
    return edit_weights(script, edited_weight=edited, kept_weight=kept)
