"""Training rows of the warm-up and the policy.

In: the problems and pairs that the DataModule has joined. Out: rows with the credit of each
completion token, one after the other. A row function is chosen in the configuration
(`policy/rows`). Pure.

Departs from the paper: an attempt and its correction share one row (docs/method.md, step 7).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from rlmec.data.prefix_tree import common_length, merge, trim
from rlmec.data.row import Row, Segment
from rlmec.prompts import Prompts
from rlmec.records import Pair, Problem
from rlmec.settings.reads import CORRECTIONS, REWARDS, reads


class Joined(Protocol):
    """What a row function may read of `datamodule.SolutionPairDataModule`."""

    prompts: Prompts
    problems: dict[str, Problem]

    @property
    def pairs(self) -> Sequence[Pair]:
        """Every attempt with a target, with the credit of its tokens."""
        ...

    @property
    def max_length(self) -> int:
        """The largest number of tokens of a sequence."""
        ...

    @property
    def max_tokens(self) -> int | None:
        """The largest number of tokens of a row, None for no limit."""
        ...


@reads()
def reference_rows(data: Joined) -> Iterator[Row]:
    """Rows for plain likelihood of the reference solutions: warm-up and continued SFT.

    Raises ValueError if no problem has a reference solution.
    """
    solved = [problem for problem in data.problems.values() if problem.solution is not None]
    if not solved:
        raise ValueError("no problem has a reference solution: nothing to train on")
    for problem in solved:
        prompt = data.prompts.policy(problem)
        target = data.prompts.codec.completion(problem.solution or "")
        yield Row.likelihood(problem.id, [*prompt, *target], len(prompt))


@reads(CORRECTIONS, REWARDS)
def pair_rows(data: Joined) -> Iterator[Row]:
    """One row per pair, with rewards and imitation weights.

    The row of a right attempt is flat and has both. The row of a wrong attempt is the tree of the
    attempt, with its rewards, and the correction, with its edit weights. Rows are trimmed. A pair
    whose tree has more tokens than a micro-batch may hold becomes two rows; a pair without any
    credit has no row.
    """
    for pair in data.pairs:
        if _has_two_rows(pair):
            tree = pair_tree(pair)
            if data.max_tokens is None or len(tree.input_ids) <= data.max_tokens:
                yield tree
                continue
        yield from map(trim, rows_of(pair))


@reads(CORRECTIONS, REWARDS)
def problem_rows(data: Joined) -> Iterator[Row]:
    """The rows of `pair_rows`, with consecutive pairs of one problem in one row.

    A row takes pairs while it has at most `max_length` tokens. The prompt of the problem is then
    computed once, which saves time where prompts are long.
    """
    limit = min(data.max_length, data.max_tokens or data.max_length)
    group: list[Row] = []  # flat rows of the row that is being filled
    name = ""
    problem = None

    for pair in data.pairs:
        own = rows_of(pair)
        if not own:
            continue

        # Whether the pair fits is known only of the trimmed tree, so it is built to be measured.
        fits = problem == pair.attempt.problem_id and limit >= len(
            trim(merge(name, [*group, *own])).input_ids
        )
        if not fits:
            yield from _packed(name, group, data.max_tokens)
            group = []
            name = pair.attempt.id
            problem = pair.attempt.problem_id
        group += own

    yield from _packed(name, group, data.max_tokens)


@reads(CORRECTIONS, REWARDS)
def separate_rows(data: Joined) -> Iterator[Row]:
    """One flat row per right attempt and two per wrong one: its correction and itself.

    The loss is that of `pair_rows`, for about twice the work.
    """
    for pair in data.pairs:
        yield from map(trim, rows_of(pair))


def pair_tree(pair: Pair) -> Row:
    """The trimmed tree of a correction and its attempt, where both have credit.

    It equals `trim(merge(...))` of the flat rows of both. Most rows of a training are of this kind,
    and this function is several times faster.
    """
    prompt = pair.attempt.prompt_ids
    attempt = np.asarray(pair.attempt.completion_ids)  # [n]
    target = np.asarray(pair.target_ids)  # [m]
    shared = common_length(attempt, target)
    start = len(prompt)
    fork = start + shared  # where the branches begin

    # The scored tokens: those of the correction, then those of the attempt behind the fork. A token
    # before the fork has the credit of both.
    none = np.zeros(len(target) - shared, dtype=np.float32)  # [m - shared]
    rewards = pair.token_rewards
    old = np.where(rewards[:shared] != 0, pair.old_logprobs[:shared], np.float32(0))  # [shared]
    credit = {
        "token_rewards": np.concatenate([rewards[:shared], none, rewards[shared:]]),  # [N]
        "old_logprobs": np.concatenate([old, none, pair.old_logprobs[shared:]]),  # [N]
        "weights": np.zeros(len(target) + len(attempt) - shared, dtype=np.float32),  # [N]
    }
    credit["weights"][: len(target)] = pair.edit_weights
    wanted = np.flatnonzero((credit["token_rewards"] != 0) | (credit["weights"] != 0))

    # A branch is needed up to its last source, the trunk whole if a branch is needed.
    of_target = int(np.searchsorted(wanted, len(target)))
    last_target = int(wanted[of_target - 1]) if of_target else 0
    last_attempt = int(wanted[-1]) - len(target) + shared if of_target < len(wanted) else 0
    first = target[shared : max(last_target, shared)]  # ids of the first branch
    second = attempt[shared : max(last_attempt, shared)]  # ids of the second branch
    is_forked = len(first) > 0 or len(second) > 0
    trunk = target[: shared if is_forked else max(last_target, last_attempt)]

    sources = np.arange(start - 1, start - 1 + len(credit["weights"]))  # [N]
    if len(attempt) > shared:
        behind = fork - 1 + len(first)  # the attempt's branch begins behind the first one
        sources[len(target) :] = np.arange(behind, behind + len(attempt) - shared)
        sources[len(target)] = fork - 1  # its first token is predicted in the trunk
    targets = np.concatenate([target, attempt[shared:]])  # [N]

    ids = np.concatenate([prompt, trunk, first, second])  # [T]
    segments: tuple[Segment, ...] = ()
    if len(first) and len(second):
        middle = fork + len(first)
        segments = (Segment(0, fork, -1), Segment(fork, middle, 0), Segment(middle, len(ids), 0))
    # Where one of the two begins with the whole other one, the untrimmed row does not branch.
    branches = shared < min(len(attempt), len(target))
    return Row(
        pair.attempt.id,
        ids,
        sources[wanted],
        targets[wanted],
        **{name: values[wanted] for name, values in credit.items()},
        segments=segments,
        tokens=len(ids) if branches else 2 * start + len(attempt) + len(target),
        attempt_tokens=len(attempt),
    )


def _has_two_rows(pair: Pair) -> bool:
    """Whether the correction and the attempt, which differ, both have credit."""
    if pair.attempt.is_right or pair.target_ids == pair.attempt.completion_ids:
        return False
    return bool(pair.edit_weights.any() and pair.token_rewards.any())


def rows_of(pair: Pair) -> list[Row]:
    """Flat rows of one pair: the correction and the attempt, each if it has credit."""
    prompt = pair.attempt.prompt_ids
    attempt = pair.attempt.completion_ids
    rows: list[Row] = []
    weights = np.zeros(len(attempt), dtype=np.float32)  # [n] of the attempt's own tokens

    if pair.target_ids == attempt:
        weights = pair.edit_weights
    elif pair.target_ids and pair.edit_weights.any():
        zeros = np.zeros(len(pair.target_ids), dtype=np.float32)  # [target]
        name = f"{pair.attempt.id}/corrected"
        ids = [*prompt, *pair.target_ids]
        row = Row.flat(name, ids, len(prompt), zeros, zeros, pair.edit_weights)
        # An attempt without a reward has no row of its own, and its tokens must be counted.
        own = 0 if pair.token_rewards.any() else len(attempt)
        rows.append(replace(row, attempt_tokens=own))

    if weights.any() or pair.token_rewards.any():
        ids = [*prompt, *attempt]
        old = pair.old_logprobs
        rows.append(Row.flat(pair.attempt.id, ids, len(prompt), pair.token_rewards, old, weights))
    return rows


def _packed(id_: str, rows: list[Row], max_tokens: int | None) -> list[Row]:
    """The rows trimmed, as one row unless that has more than `max_tokens` tokens."""
    if len(rows) > 1:
        row = trim(merge(id_, rows))
        if max_tokens is None or len(row.input_ids) <= max_tokens:
            return [row]
    return [trim(row) for row in rows]
