"""Training rows from problems, pairs and corrections: what warm-up, policy and GRM see.

In: what the DataModule has joined. Out: `batching.Row`s with the credit of each completion token. A
function here is chosen in the configuration (`policy.rows`) by `_target_`. No disk, no model.
"""

from __future__ import annotations

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
    """What a row function may read: see `datamodule.SolutionPairDataModule`."""

    prompts: Prompts
    problems: dict[str, Problem]

    @property
    def pairs(self) -> list[Pair]: ...

    @property
    def max_length(self) -> int: ...

    @property
    def max_tokens(self) -> int | None: ...


def reference_rows(data: Joined) -> list[Row]:
    """Plain likelihood of the reference solutions (warm-up, and continued SFT as a comparison).

    Raises ValueError where no problem has a reference solution.
    """
    rows = []
    for problem in data.problems.values():
        if problem.solution is not None:
            prompt = data.prompts.policy(problem)
            target = data.prompts.codec.completion(problem.solution)
            rows.append(Row.likelihood(problem.id, [*prompt, *target], len(prompt)))
    if not rows:
        raise ValueError("no problem has a reference solution: nothing to train on")
    return rows


def pair_rows(data: Joined) -> list[Row]:
    """One row a pair. A right attempt: its rewards and imitation at once. A wrong one: a tree of
    what attempt and correction have in common, the attempt's rewards and the correction's edit
    weights. Rows are trimmed; a pair whose tree has more tokens than a micro-batch may have stays
    two rows, and one without any credit is no row."""
    rows: list[Row] = []
    for pair in data.pairs:
        rows += _packed(pair.attempt.id, _rows_of(pair), data.max_tokens)
    return rows


def problem_rows(data: Joined) -> list[Row]:
    """As `pair_rows`, but neighbouring pairs of one problem share a row as long as it has at most
    `max_length` tokens: their prompt is computed once. Pays off where prompts are long."""
    limit = min(data.max_length, data.max_tokens or data.max_length)
    rows: list[Row] = []
    group: list[Row] = []
    name, problem = "", None
    for pair in data.pairs:
        own = _rows_of(pair)
        if not own:
            continue
        fits = problem == pair.attempt.problem_id and limit >= len(
            trim(merge(name, [*group, *own])).input_ids
        )
        if not fits:
            rows += _packed(name, group, data.max_tokens)
            group, name, problem = [], pair.attempt.id, pair.attempt.problem_id
        group += own
    return rows + _packed(name, group, data.max_tokens)


def separate_rows(data: Joined) -> list[Row]:
    """One row a right attempt, two a wrong one: the correction with its edit weights, the attempt
    with its rewards. The same loss as `pair_rows` for about twice the work."""
    return [trim(row) for pair in data.pairs for row in _rows_of(pair)]


def _rows_of(pair: Pair) -> list[Row]:
    """Flat rows of one pair: correction and attempt, where they have credit."""
    prompt, attempt = pair.attempt.prompt_ids, pair.attempt.completion_ids
    rows: list[Row] = []
    weights = np.zeros(len(attempt), dtype=np.float32)
    if pair.target_ids == attempt:
        weights = pair.edit_weights
    elif pair.target_ids and pair.edit_weights.any():
        zeros = np.zeros(len(pair.target_ids), dtype=np.float32)
        name, ids = f"{pair.attempt.id}/corrected", [*prompt, *pair.target_ids]
        row = Row.flat(name, ids, len(prompt), zeros, zeros, pair.edit_weights)
        own = 0 if pair.token_rewards.any() else len(attempt)  # else the attempt's row counts them
        rows.append(replace(row, attempt_tokens=own))
    if weights.any() or pair.token_rewards.any():
        ids, old = [*prompt, *attempt], pair.old_logprobs
        rows.append(Row.flat(pair.attempt.id, ids, len(prompt), pair.token_rewards, old, weights))
    return rows


def _packed(id_: str, rows: list[Row], most: int | None) -> list[Row]:
    """The rows as one, trimmed; as they are where that has more than `most` tokens."""
    if len(rows) > 1:
        row = trim(merge(id_, rows))
        if most is None or len(row.input_ids) <= most:
            return [row]
    return [trim(row) for row in rows]
