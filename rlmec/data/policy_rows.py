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

from rlmec.data.prefix_tree import merge, trim
from rlmec.data.row import Row
from rlmec.prompts import Prompts
from rlmec.records import (
    Pair,
    Problem,
)


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


def pair_rows(data: Joined) -> Iterator[Row]:
    """One row per pair, with rewards and imitation weights.

    The row of a right attempt is flat and has both. The row of a wrong attempt is the tree of the
    attempt, with its rewards, and the correction, with its edit weights. Rows are trimmed. A pair
    whose tree has more tokens than a micro-batch may hold becomes two rows; a pair without any
    credit has no row.
    """
    for pair in data.pairs:
        yield from _packed(pair.attempt.id, _rows_of(pair), data.max_tokens)


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
        own = _rows_of(pair)
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


def separate_rows(data: Joined) -> Iterator[Row]:
    """One flat row per right attempt and two per wrong one: its correction and itself.

    The loss is that of `pair_rows`, for about twice the work.
    """
    for pair in data.pairs:
        yield from map(trim, _rows_of(pair))


def _rows_of(pair: Pair) -> list[Row]:
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
