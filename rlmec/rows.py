"""Training rows from problems, pairs and corrections: what warm-up, policy and GRM see.

In: what the DataModule has joined. Out: `batching.Row`s with the credit of each completion token. A
function here is chosen in the configuration (`policy.rows`) by `_target_`. No disk, no model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from rlmec.batching import Row
from rlmec.packing import merge, trim
from rlmec.prompts import Prompts
from rlmec.records import Attempt, Correction, Pair, Problem


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


def hash_share(seed: int, what: str, id_: str) -> float:
    """A number in [0, 1) for an id: a fixed, evenly spread function of (seed, what, id).

    Numbers of different seeds or purposes are independent (those of a CRC differ by a constant
    only).
    """
    found = hashlib.sha256(f"{seed}/{what}/{id_}".encode()).digest()
    return int.from_bytes(found[:6], "big") / 2**48


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


def together(rows: Sequence[Row], group_of: Mapping[str, str], most: int, limit: int) -> list[Row]:
    """Flat rows of one group and first token as trees, up to `most` rows and `limit` tokens each,
    groups in the order of their first rows: what the rows have in common is computed once, every
    scored token stays. `group_of` has the group of a row by its id."""
    if most < 2:
        return list(rows)
    groups: dict[tuple[str, int], list[list[Row]]] = {}
    for row in rows:
        runs = groups.setdefault((group_of[row.id], row.input_ids[0]), [[]])
        if len(runs[-1]) == most or sum(len(r.input_ids) for r in [*runs[-1], row]) > limit:
            runs.append([])
        runs[-1].append(row)
    return [_counted(run) for runs in groups.values() for run in runs if run]


def _counted(run: list[Row]) -> Row:
    """The rows as one that counts for all of them: steps hold as many rows as without sharing."""
    row = trim(merge(run[0].id, run, join=False))
    return replace(row, tokens=sum(r.tokens for r in run))


def first_changed_line(attempt: str, correction: str) -> int:
    """Number of the attempt's first line that the correction lacks (its last line at most)."""
    ours, theirs = attempt.split("\n"), correction.split("\n")
    for i, line in enumerate(ours):
        if i >= len(theirs) or line != theirs[i]:
            return i
    return len(ours) - 1


def rewriting_row(
    prompts: Prompts, problem: Problem, attempt_ids: Sequence[int], target: Sequence[int], id_: str
) -> Row:
    """The GRM's view: rewriting prompt, then `target` (when scoring, the attempt itself)."""
    prompt = prompts.rewrite(problem, attempt_ids)
    return Row.likelihood(id_, [*prompt, *target], len(prompt))


def grm_rows(
    prompts: Prompts,
    problems: dict[str, Problem],
    attempts: Sequence[Attempt],
    corrections: Sequence[Correction],
    *,
    copy: float,
    locate: float,
    seed: int,
    most: int = 1,
    limit: int = 2048,
) -> list[Row]:
    """Rows of the GRM's training mixture over the given problems.

    Every accepted correction gives a rewriting row; `copy` and `locate` are the numbers of copying
    rows (of right attempts) and locating rows for each of them, chosen by a hash. Up to `most` rows
    of a problem, at most `limit` tokens, are put `together`: they begin with the same prompt.
    """
    wrong = {a.id: a for a in attempts if not a.is_right}
    taught = [c for c in corrections if c.accepted and c.attempt_id in wrong]
    rows = [
        rewriting_row(
            prompts,
            problems[c.problem_id],
            wrong[c.attempt_id].completion_ids,
            c.completion_ids,
            f"{c.attempt_id}/rewrite",
        )
        for c in taught
    ]
    right = [a for a in attempts if a.is_right]
    right.sort(key=lambda a: hash_share(seed, "copy", a.id))
    for a in right[: round(copy * len(taught))]:
        rows.append(
            rewriting_row(
                prompts, problems[a.problem_id], a.completion_ids, a.completion_ids, f"{a.id}/copy"
            )
        )
    taught.sort(key=lambda c: hash_share(seed, "locate", c.attempt_id))
    for c in taught[: round(locate * len(taught))]:
        attempt = wrong[c.attempt_id]
        prompt = prompts.locate(problems[c.problem_id], attempt.text)
        target = prompts.located(first_changed_line(attempt.text, c.text))
        rows.append(Row.likelihood(f"{attempt.id}/locate", [*prompt, *target], len(prompt)))
    problem_of = {a.id: a.problem_id for a in attempts}
    groups = {row.id: problem_of[row.id.rpartition("/")[0]] for row in rows}
    return together(rows, groups, most, limit)
