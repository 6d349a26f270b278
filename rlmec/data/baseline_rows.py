"""Rows of other trainings on the same pairs: rejection fine-tuning, preferences, sequence rewards.

In: what the DataModule has joined, as in `rows`. Out: `batching.Row`s. A function here is chosen in
the configuration (`policy.rows`) by `_target_`; which objective belongs to it is said in
docs/objectives.md. No disk, no model.

A preference row holds a preferred and a rejected completion of one prompt as a tree; its token
rewards are 1 and -1, and 0 on the tokens that both begin with, whose terms cancel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from rlmec.data.policy_rows import Joined
from rlmec.data.prefix_tree import merge, trim
from rlmec.data.row import Row
from rlmec.records import Pair

Logprobs = Sequence[float] | np.ndarray


class JoinedWithStart(Joined, Protocol):
    """`start_logprobs` maps an attempt's id to the log-probs (nats) of its correction under the
    start: there where `policy.score_corrections` is on."""

    start_logprobs: dict[str, list[float]]


def right_rows(data: Joined) -> list[Row]:
    """Plain likelihood of the right attempts alone (rejection fine-tuning, RFT).

    Identical attempts are there once; `policy.max_right_per_problem` caps their number. Raises
    ValueError where no attempt is right. Source: Yuan et al., arXiv 2308.01825.
    """
    rows = []
    for pair in data.pairs:
        if pair.attempt.is_right:
            prompt, ids = pair.attempt.prompt_ids, pair.attempt.completion_ids
            rows.append(Row.likelihood(pair.attempt.id, [*prompt, *ids], len(prompt)))
    if not rows:
        raise ValueError("no attempt is right: nothing to fine-tune on")
    return rows


def advantage_rows(
    data: Joined, *, right: float = 1.0, wrong: float = -1.0, center: bool = True
) -> list[Row]:
    """Every attempt with one reward on all its tokens: `right` or `wrong` by its verdict, with
    `center` less the mean over the problem's attempts (so a problem whose attempts are all alike
    gives no row). No imitation. Wrong attempts without a correction are there where
    `policy.keep_uncorrected` is on.

    Source: the group mean of GRPO, arXiv 2402.03300, section 4.1, without its division by the
    standard deviation.
    """
    values: dict[str, list[float]] = {}
    for pair in data.pairs:
        value = right if pair.attempt.is_right else wrong
        values.setdefault(pair.attempt.problem_id, []).append(value)
    rows = []
    for pair in data.pairs:
        value = right if pair.attempt.is_right else wrong
        if center:
            value -= float(np.mean(values[pair.attempt.problem_id]))
        if value:
            rows.append(trim(_signed(pair.attempt.id, pair, value)))
    return rows


def correction_preferences(data: JoinedWithStart) -> list[Row]:
    """A wrong attempt's correction preferred to the attempt: one row a corrected attempt.

    The correction's log-probs under the start come from `data.start_logprobs`; where they are
    missing, ValueError says how to get them.
    """
    rows = []
    for pair in data.pairs:
        id_ = pair.attempt.id
        if pair.attempt.is_right or not pair.target_ids:
            continue
        if id_ not in data.start_logprobs:
            raise ValueError(
                f"attempt {id_!r}: its correction has no log-probs under the start; set "
                "policy.score_corrections=true"
            )
        rows.append(_preference(id_, pair, pair.target_ids, data.start_logprobs[id_]))
    return rows


def attempt_preferences(data: Joined, *, most_per_problem: int | None = None) -> list[Row]:
    """Right attempts preferred to wrong ones of the same problem: every wrong attempt once, against
    the problem's right attempts in turn, at most `most_per_problem` of them. Wrong attempts without
    a correction are there where `policy.keep_uncorrected` is on."""
    by_problem: dict[str, tuple[list[Pair], list[Pair]]] = {}
    for pair in data.pairs:
        wrong_right = by_problem.setdefault(pair.attempt.problem_id, ([], []))
        wrong_right[pair.attempt.is_right].append(pair)
    rows = []
    for wrong, right in by_problem.values():
        for at, loser in enumerate(wrong[:most_per_problem] if right else []):
            winner = right[at % len(right)]
            id_ = f"{winner.attempt.id}>{loser.attempt.id}"
            ids = winner.attempt.completion_ids
            rows.append(_preference(id_, loser, ids, winner.old_logprobs))
    return rows


def _signed(id_: str, pair: Pair, reward: float) -> Row:
    """An attempt as a flat row with one reward on every token."""
    prompt, ids = pair.attempt.prompt_ids, pair.attempt.completion_ids
    return _flat(id_, prompt, ids, np.full(len(ids), reward), pair.old_logprobs)


def _preference(id_: str, loser: Pair, ids: list[int], logprobs: Logprobs) -> Row:
    """The tree of completion `ids` (preferred) and the loser's own."""
    prompt, others = loser.attempt.prompt_ids, loser.attempt.completion_ids
    shared = 0
    while shared < min(len(ids), len(others)) and ids[shared] == others[shared]:
        shared += 1
    signs = [np.where(np.arange(len(of)) < shared, 0.0, s) for of, s in ((ids, 1), (others, -1))]
    pair = [
        _flat(f"{id_}/preferred", prompt, ids, signs[0], logprobs),
        _flat(f"{id_}/rejected", prompt, others, signs[1], loser.old_logprobs),
    ]
    return replace(trim(merge(id_, pair)), whole=True)


def _flat(
    id_: str, prompt: list[int], ids: list[int], rewards: np.ndarray, logprobs: Logprobs
) -> Row:
    none = np.zeros(len(ids), dtype=np.float32)  # [n]
    return Row.flat(id_, [*prompt, *ids], len(prompt), rewards, np.asarray(logprobs), none)
