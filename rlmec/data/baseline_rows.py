"""Training rows of the baselines: fine-tuning on right attempts or on a teacher's whole solutions,
sequence rewards and preferences.

In: the problems and pairs that the DataModule has joined. Out: rows, one after the other. A row
function is chosen in the configuration (`policy/rows`); docs/method.md has the objective that
belongs to each. Pure.

A preference row is the tree of a preferred and a rejected completion of one prompt. Its token
rewards are 1 and -1, and 0 on the tokens that both begin with, because their terms cancel.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from rlmec.data.policy_rows import Joined, rows_of
from rlmec.data.prefix_tree import merge, trim
from rlmec.data.row import Row
from rlmec.records import Pair, Problem
from rlmec.settings.ranges import AnyFloat, AtMost
from rlmec.settings.reads import CORRECTIONS, OLD_LOGPROBS, REWARDS, reads

Logprobs = Sequence[float] | np.ndarray

STD_EPSILON = 1e-6
"""What is added to the standard deviation of a group of attempts before it divides."""


class JoinedWithDraws(Joined, Protocol):
    """What `advantage_rows` also reads: how often an attempt was drawn, by its id, where that is
    more than once."""

    @property
    def draws(self) -> Mapping[str, int]: ...


class JoinedThatCounts(JoinedWithDraws, Protocol):
    """What `group_advantage_rows` also uses."""

    def leave_out(self, reason: str, count: int) -> None:
        """Count attempts that have no row, for the figures `policy/dropped/<reason>`."""
        ...


class JoinedWithStart(Joined, Protocol):
    """What `correction_preferences` also reads.

    `start_logprobs` maps an attempt's id to the log-probabilities (nats) of its correction under
    the policy before training. It is filled if `policy.score_corrections` is on.
    """

    start_logprobs: dict[str, list[float]]


class JoinedWithTeacher(Joined, Protocol):
    """What `teacher_solution_rows` also uses."""

    @property
    def solve(self) -> Callable[[Problem], str | None] | None:
        """The teacher's own whole solution of a problem, None where it has none; None itself where
        the teacher writes none at all."""
        ...


@reads()
def right_rows(data: Joined) -> Iterator[Row]:
    """Rows for plain likelihood of the right attempts alone (rejection fine-tuning, RFT).

    `policy.max_right_per_problem` limits their number. Raises ValueError if no attempt is right.
    Source: Yuan et al., arXiv 2308.01825.
    """
    found = False
    for pair in data.pairs:
        if pair.attempt.is_right:
            found = True
            prompt = pair.attempt.prompt_ids
            ids = [*prompt, *pair.attempt.completion_ids]
            yield Row.likelihood(pair.attempt.id, ids, len(prompt))
    if not found:
        raise ValueError("no attempt is right: nothing to fine-tune on")


@reads(CORRECTIONS, REWARDS)
def teacher_solution_rows(data: JoinedWithTeacher) -> Iterator[Row]:
    """The rows of imitation, with the teacher's whole solution in place of each correction.

    A corrected attempt gives a row for the likelihood of what the teacher writes on its problem
    without seeing it, all tokens with weight 1. Right attempts have the rows of `pair_rows`. So it
    is a control of what the corrections owe to their nearness to the attempt. Raises ValueError if
    the teacher writes no whole solutions.
    """
    if data.solve is None:
        raise ValueError("the teacher writes no whole solutions: it has no method `solve`")
    codec = data.prompts.codec
    for pair in data.pairs:
        if pair.attempt.is_right:
            yield from map(trim, rows_of(pair))
        elif pair.target_ids:
            text = data.solve(data.problems[pair.attempt.problem_id])
            if text:
                prompt = pair.attempt.prompt_ids
                ids = [*prompt, *codec.completion(text)]
                yield Row.likelihood(f"{pair.attempt.id}/solved", ids, len(prompt))


@reads(OLD_LOGPROBS)
def advantage_rows(
    data: JoinedWithDraws, *, right: AnyFloat = 1.0, wrong: AnyFloat = -1.0, center: bool = True
) -> Iterator[Row]:
    """One row per drawn attempt, with the same reward (its advantage) on all its tokens.

    The advantage is `right` or `wrong`, by the attempt's verdict; with `center`, the mean over the
    problem's attempts is subtracted. An attempt with advantage 0 has no row, so a centred problem
    whose attempts are all right or all wrong has none. There is no imitation. An attempt that was
    drawn several times has as many rows. Wrong attempts without a correction are included if
    `policy.keep_uncorrected` is on.

    Source: the group mean of GRPO, arXiv 2402.03300, section 4.1, without the division by the
    standard deviation.
    """
    values: dict[str, list[float]] = {}
    for pair in data.pairs if center else ():
        value = right if pair.attempt.is_right else wrong
        drawn = data.draws.get(pair.attempt.id, 1)
        values.setdefault(pair.attempt.problem_id, []).extend([value] * drawn)

    for pair in data.pairs:
        advantage = right if pair.attempt.is_right else wrong
        if center:
            advantage -= float(np.mean(values[pair.attempt.problem_id]))
        if advantage:
            yield from _with_advantage(pair, advantage, data.draws)


@reads(OLD_LOGPROBS)
def group_advantage_rows(data: JoinedThatCounts, *, divide_by_std: bool = True) -> Iterator[Row]:
    """One row per drawn attempt, with its advantage over its group on all its tokens (GRPO).

    A group is the attempts at one problem, with r = 1 for a right and r = 0 for a wrong one. The
    advantage of an attempt is (r - mean) / (std + STD_EPSILON), where `std` is the standard
    deviation of the group's r with the group's size as divisor. Without `divide_by_std` it is
    r - mean. There is no imitation.

    A group whose attempts are all right or all wrong gives no gradient: its attempts have no row
    and are counted as `group_all_right` or `group_all_wrong`. An attempt that was drawn several
    times counts as often in its group and has as many rows. Wrong attempts without a correction are
    included if `policy.keep_uncorrected` is on.

    Source: GRPO, arXiv 2402.03300, section 4.1.2; without the standard deviation Dr. GRPO, arXiv
    2503.20783.
    """
    size = Counter[str]()  # drawn attempts at each problem
    right = Counter[str]()  # right ones among them
    stored = Counter[str]()  # without repeats
    for pair in data.pairs:
        drawn = data.draws.get(pair.attempt.id, 1)
        size[pair.attempt.problem_id] += drawn
        right[pair.attempt.problem_id] += drawn * pair.attempt.is_right
        stored[pair.attempt.problem_id] += 1

    for problem_id, count in stored.items():
        if right[problem_id] == size[problem_id]:
            data.leave_out("group_all_right", count)
        elif not right[problem_id]:
            data.leave_out("group_all_wrong", count)

    for pair in data.pairs:
        mean = right[pair.attempt.problem_id] / size[pair.attempt.problem_id]
        advantage = pair.attempt.is_right - mean
        if divide_by_std:
            advantage /= math.sqrt(mean * (1 - mean)) + STD_EPSILON  # r is 0 or 1
        if advantage:
            yield from _with_advantage(pair, advantage, data.draws)


@reads(CORRECTIONS, OLD_LOGPROBS)
def correction_preferences(data: JoinedWithStart, *, likelihood: bool = False) -> Iterator[Row]:
    """One preference row per corrected attempt: its correction is preferred to it.

    With `likelihood` the correction's tokens have imitation weight 1. The correction's
    log-probabilities before training come from `data.start_logprobs`. Raises ValueError if they are
    missing.
    """
    for pair in data.pairs:
        id_ = pair.attempt.id
        if pair.attempt.is_right or not pair.target_ids:
            continue
        if id_ not in data.start_logprobs:
            raise ValueError(
                f"attempt {id_!r}: the log-probs of its correction before training are missing; "
                "set policy.score_corrections=true"
            )
        start = data.start_logprobs[id_]
        yield _preference(id_, pair, pair.target_ids, start, likelihood)


@reads(OLD_LOGPROBS)
def attempt_preferences(
    data: Joined, *, most_per_problem: AtMost | None = None, likelihood: bool = False
) -> Iterator[Row]:
    """One preference row per wrong attempt: a right attempt of its problem is preferred to it.

    The right attempts of a problem take turns. At most `most_per_problem` wrong attempts per
    problem have a row (None: all), and a problem without a right attempt has none. With
    `likelihood` the right attempt's tokens have imitation weight 1. Wrong attempts without a
    correction are included if `policy.keep_uncorrected` is on. All pairs are in memory meanwhile,
    because the attempts at a problem may be anywhere in the table.
    """
    wrong_of: dict[str, list[Pair]] = {}
    right_of: dict[str, list[Pair]] = {}
    for pair in data.pairs:
        wrong_of.setdefault(pair.attempt.problem_id, [])  # problems keep the order of the pairs
        side = right_of if pair.attempt.is_right else wrong_of
        side.setdefault(pair.attempt.problem_id, []).append(pair)

    for problem_id, wrong in wrong_of.items():
        right = right_of.get(problem_id, [])
        if not right:
            continue
        for at, loser in enumerate(wrong[:most_per_problem]):
            winner = right[at % len(right)]
            id_ = f"{winner.attempt.id}>{loser.attempt.id}"
            ids = winner.attempt.completion_ids
            yield _preference(id_, loser, ids, winner.old_logprobs, likelihood)


def _with_advantage(pair: Pair, advantage: float, draws: Mapping[str, int]) -> Iterator[Row]:
    """The row of an attempt with one reward on all its tokens, as often as it was drawn."""
    ids = pair.attempt.completion_ids
    rewards = np.full(len(ids), advantage)  # [n]
    old = pair.old_logprobs
    row = trim(_rewarded(pair.attempt.id, pair.attempt.prompt_ids, ids, rewards, old))
    yield row
    for again in range(1, draws.get(pair.attempt.id, 1)):
        yield replace(row, id=f"{row.id}/again{again}")


def _preference(
    id_: str, loser: Pair, preferred: list[int], logprobs: Logprobs, likelihood: bool
) -> Row:
    """The tree of the completion `preferred`, with its `logprobs`, and the loser's own.

    With `likelihood` all tokens of `preferred` have weight 1, also those that both begin with.
    """
    prompt = loser.attempt.prompt_ids
    rejected = loser.attempt.completion_ids
    shared = 0
    while shared < min(len(preferred), len(rejected)) and preferred[shared] == rejected[shared]:
        shared += 1

    chosen = np.where(np.arange(len(preferred)) < shared, 0.0, 1)  # [preferred]
    refused = np.where(np.arange(len(rejected)) < shared, 0.0, -1)  # [rejected]
    weight = 1.0 if likelihood else 0.0
    pair = [
        _rewarded(f"{id_}/preferred", prompt, preferred, chosen, logprobs, weight),
        _rewarded(f"{id_}/rejected", prompt, rejected, refused, loser.old_logprobs),
    ]
    return replace(trim(merge(id_, pair)), whole=True)


def _rewarded(
    id_: str,
    prompt: list[int],
    ids: list[int],
    rewards: np.ndarray,
    logprobs: Logprobs,
    weight: float = 0.0,
) -> Row:
    """A flat row with rewards, and with one imitation weight for all its tokens."""
    weights = np.full(len(ids), weight, dtype=np.float32)  # [n]
    return Row.flat(id_, [*prompt, *ids], len(prompt), rewards, np.asarray(logprobs), weights)
