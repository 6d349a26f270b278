"""Erroneous/corrected pairs: attempts joined with their corrections, scores and credit.

In: problems, attempts, accepted corrections and raw scores, as lists or as sequences that read
their records from tables. Out: a `PairTable`, whose pairs carry the reward of each token of an
attempt and the edit weight of each token of its target. Attempts that give no pair are counted by
reason. Only the numbers of the records that belong together are in memory; a pair is made when it
is asked for. Pure: no disk, no model, no configuration.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from rlmec.method.alignment import EditScript, edit_script, edit_weights
from rlmec.method.rewards import RewardRule, accepted_arguments
from rlmec.on_demand import OnDemand
from rlmec.records import (
    Attempt,
    Correction,
    Pair,
    Problem,
    Score,
    by_id,
    is_right,
    is_wrong,
    require_same_tokenizer,
)


@dataclass(frozen=True, eq=False)
class PairTable:
    """Joined pairs in the order of their attempts, and the records they were joined from.

    `dropped` says how many attempts gave no pair, by reason.
    """

    pairs: Sequence[Pair]
    dropped: Counter[str]
    problems: dict[str, Problem]
    attempts: Sequence[Attempt]
    all_corrections: Sequence[Correction]
    all_scores: Sequence[Score]

    @cached_property
    def corrections(self) -> dict[str, Correction]:
        """The accepted corrections by the attempt's id."""
        return by_id([c for c in self.all_corrections if c.accepted], "attempt_id")

    @cached_property
    def scores(self) -> dict[str, Score]:
        """The scores by the attempt's id."""
        return by_id(self.all_scores, "attempt_id")


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
    imitate_corrections: bool = True,
    dropped: Mapping[str, int] | None = None,
) -> PairTable:
    """One pair per attempt that has a target, with the credit of its tokens.

    The target of a wrong attempt is its accepted correction; with `keep_uncorrected` a wrong
    attempt without one gives a pair with an empty target. The target of a right attempt is the
    attempt itself; more than `max_right_per_problem` right attempts per problem are dropped, in
    their order. Without a `reward` rule all rewards are zero. Without `imitate_corrections` the
    tokens of corrections have weight 0, so that they only place rewards. `dropped` counts attempts
    that were left out before, by reason.

    Raises ValueError for an attempt whose problem is not known, for one without a score where there
    is a reward rule, and for records that were not made with `tokenizer` (its digest). A score of
    another length than its attempt is refused when the pair is made.
    """
    check_records(tokenizer, attempts, corrections, scores)
    known = by_id(problems)
    accepted = {
        id_: number
        for number, (id_, reason) in enumerate(fields_of(corrections, "attempt_id", "reason"))
        if reason == "accepted"
    }
    scored: dict[str, int] = {}
    if reward is not None:
        scored = {id_: number for number, (id_,) in enumerate(fields_of(scores, "attempt_id"))}

    most_right = math.inf if max_right_per_problem is None else max_right_per_problem
    counts = Counter(dropped or {})
    right_seen: Counter[str] = Counter()
    numbers = RecordNumbers()
    facts = fields_of(attempts, "id", "problem_id", "verdict", "clipped")
    for number, (id_, problem_id, verdict, clipped) in enumerate(facts):
        if problem_id not in known:
            raise ValueError(f"attempt {id_!r}: no problem {problem_id!r}")
        right = is_right(verdict, clipped)
        if right:
            right_seen[problem_id] += 1

        correction = -1 if right else accepted.get(id_, -1)
        has_target = correction >= 0 or keep_uncorrected
        is_over = right_seen[problem_id] > most_right
        why = _why_left_out(right, is_wrong(verdict, clipped), has_target, is_over)
        if why:
            counts[why] += 1
            continue

        if reward is not None and id_ not in scored:
            raise ValueError(f"attempt {id_!r}: it has no score")
        numbers.append(number, correction, scored.get(id_, -1))

    credit = Credit(reward, edited_weight, kept_weight, imitate_corrections)
    pairs = JoinedPairs(attempts, corrections, scores, numbers, credit)
    return PairTable(pairs, counts, known, attempts, corrections, scores)


def _why_left_out(right: bool, wrong: bool, has_target: bool, is_over: bool) -> str:
    """Why an attempt gives no pair; empty where it gives one."""
    if right:
        return "right_beyond_cap" if is_over else ""
    if not wrong:
        return "undecided"
    return "" if has_target else "uncorrected"


def check_records(
    tokenizer: str,
    attempts: Sequence[Attempt],
    corrections: Sequence[Correction],
    scores: Sequence[Score],
) -> None:
    """Raises ValueError for an id that occurs twice and for a record of another tokenizer.

    Of corrections only the accepted ones count; an attempt may have several rejected ones.
    """
    _check(tokenizer, Attempt, "id", fields_of(attempts, "id", "tokenizer"))
    _check(tokenizer, Score, "attempt_id", fields_of(scores, "attempt_id", "tokenizer"))
    facts = fields_of(corrections, "attempt_id", "tokenizer", "reason")
    ids = ((id_ if reason == "accepted" else None, made_with) for id_, made_with, reason in facts)
    _check(tokenizer, Correction, "attempt_id", ids)


def _check(tokenizer: str, kind: type, key: str, records: Iterable[tuple[str | None, str]]) -> None:
    """`check_records` of one table, from the id and the tokenizer of each record; an id of None
    may occur several times."""
    seen: set[str] = set()
    for id_, made_with in records:
        if made_with != tokenizer:
            require_same_tokenizer(tokenizer, made_with, f"a table of {kind.__name__}s")
        if id_ in seen:
            raise ValueError(f"two {kind.__name__} records with {key} {id_!r}")
        if id_ is not None:
            seen.add(id_)


def fields_of(records: Sequence[Any], *names: str) -> Iterator[tuple[Any, ...]]:
    """Some fields of each record; a sequence that can give them reads nothing else of a table."""
    columns = getattr(records, "columns", None)
    if columns is not None:
        return columns(*names)
    return (tuple(getattr(record, name) for name in names) for record in records)


@dataclass(frozen=True)
class Credit:
    """How the tokens of a pair get their credit."""

    reward: RewardRule | None
    edited_weight: float
    kept_weight: float
    imitate_corrections: bool = True

    @cached_property
    def more(self) -> set[str]:
        """The further arguments that the reward rule takes."""
        if self.reward is None:
            return set()
        return set(accepted_arguments(self.reward, old_logprobs=None, first_edit=None))


@dataclass(frozen=True)
class RecordNumbers:
    """The attempt, the correction and the score of each pair, by their numbers; -1 for none."""

    attempts: array[int] = field(default_factory=lambda: array("i"))
    corrections: array[int] = field(default_factory=lambda: array("i"))
    scores: array[int] = field(default_factory=lambda: array("i"))

    def append(self, attempt: int, correction: int, score: int) -> None:
        self.attempts.append(attempt)
        self.corrections.append(correction)
        self.scores.append(score)


class JoinedPairs(OnDemand[Pair]):
    """Pairs that are made from their records when they are asked for.

    Raises ValueError with the attempt's id if its score has another length.
    """

    def __init__(
        self,
        attempts: Sequence[Attempt],
        corrections: Sequence[Correction],
        scores: Sequence[Score],
        numbers: RecordNumbers,
        credit: Credit,
    ) -> None:
        self._attempts = attempts
        self._corrections = corrections
        self._scores = scores
        self._numbers = numbers
        self._credit = credit

    def __len__(self) -> int:
        return len(self._numbers.attempts)

    def item(self, number: int) -> Pair:
        attempt = self._attempts[self._numbers.attempts[number]]
        correction_at = self._numbers.corrections[number]
        correction = self._corrections[correction_at] if correction_at >= 0 else None
        score_at = self._numbers.scores[number]
        score = self._scores[score_at] if score_at >= 0 else None
        return _pair(attempt, correction, score, self._credit)


def _pair(
    attempt: Attempt, correction: Correction | None, score: Score | None, credit: Credit
) -> Pair:
    """The pair of an attempt, with the credit of its tokens."""
    target = attempt.completion_ids
    if not attempt.is_right:
        target = correction.completion_ids if correction else []
    script = None
    if target is not attempt.completion_ids and target:
        script = edit_script(attempt.completion_ids, target)
    token_rewards, old_logprobs = _rewards(attempt, script, score, credit)
    return Pair(
        attempt,
        target,
        old_logprobs=old_logprobs,
        token_rewards=token_rewards,
        edit_weights=_weights(target, script, credit),
        corrected_by=correction.source if correction else "",
    )


def _rewards(
    attempt: Attempt, script: EditScript | None, score: Score | None, credit: Credit
) -> tuple[np.ndarray, np.ndarray]:
    """Token rewards and old log-probs (nats) of an attempt, both float32 [n]; `script` is None for
    an attempt that nothing corrects."""
    count = len(attempt.completion_ids)
    if credit.reward is None or score is None:
        zeros = np.zeros(count, dtype=np.float32)  # [n]
        return zeros, zeros

    if len(score.grm_logprobs) != count:
        raise ValueError(
            f"attempt {attempt.id!r} has {count} tokens, its score {len(score.grm_logprobs)}"
        )
    grm = np.asarray(score.grm_logprobs, dtype=np.float32)  # [n]
    old = np.asarray(score.old_logprobs, dtype=np.float32)  # [n]
    removed = np.zeros(count, dtype=bool) if script is None else script.removed  # [n]
    offered = {"old_logprobs": old, "first_edit": script.first_edit if script else None}
    more = {name: offered[name] for name in credit.more}
    return credit.reward(grm, attempt.is_right, removed, **more), old


def _weights(target: list[int], script: EditScript | None, credit: Credit) -> np.ndarray:
    """Imitation weights of the target's tokens, float32 [m]; empty for an empty target.

    The authors weigh a right attempt's own tokens as kept ones.
    """
    if script is None:
        return np.full(len(target), credit.kept_weight, dtype=np.float32)  # [m]
    if not credit.imitate_corrections:
        return np.zeros(len(target), dtype=np.float32)  # [m]
    return edit_weights(script, edited_weight=credit.edited_weight, kept_weight=credit.kept_weight)
