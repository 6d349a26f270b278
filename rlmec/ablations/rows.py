"""Policy rows that did not do better than `data.policy_rows.pair_rows`, and rows of controls.

In: the joined data that a row function reads. Out: rows. See `data.policy_rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from rlmec.data.policy_rows import Joined, pair_rows
from rlmec.data.row import Row
from rlmec.method.alignment import edit_script
from rlmec.on_demand import Made
from rlmec.records import Pair, hash_share
from rlmec.settings.ranges import Seed, Share


def first_fix_rows(data: Joined) -> Iterator[Row]:
    """The rows of `pair_rows`, with a correction imitated only up to its first fix.

    The first fix ends with the line of the correction that holds its first edit; where that edit is
    a deletion, with the line in which the deletion falls. What follows has weight 0. Source: InT,
    arXiv 2601.14209.
    """
    is_break = _line_breaks(data)
    return pair_rows(_OtherPairs(data, lambda pair: _until_first_fix(pair, is_break)))


def withheld_rows(data: Joined, *, share: Share = 0.1, seed: Seed = 1) -> Iterator[Row]:
    """The rows of `pair_rows`, with the corrections imitated at a `share` of the problems alone.

    The other corrections only say which tokens they remove. Rewards stay, and so do the imitation
    weights of right attempts. The problems are chosen by `seed` and their ids.
    """

    def withheld(pair: Pair) -> Pair:
        chosen = hash_share(seed, "withheld", pair.attempt.problem_id) < share
        if pair.attempt.is_right or chosen:
            return pair
        return replace(pair, edit_weights=np.zeros_like(pair.edit_weights))

    return pair_rows(_OtherPairs(data, withheld))


def balanced_rows(data: Joined) -> Iterator[Row]:
    """The rows of `pair_rows`, with penalties as large in sum as the rewards above 0.

    One factor over all attempts does it. Raises ValueError if no token has a penalty.
    """
    mass = _mass(data)
    if not mass.negative:
        raise ValueError("no token has a penalty: there is nothing to balance the rewards with")
    factor = mass.positive / mass.negative

    def balanced(pair: Pair) -> Pair:
        rewards = pair.token_rewards * np.where(pair.token_rewards < 0, factor, 1.0)
        return replace(pair, token_rewards=rewards.astype(np.float32))

    return pair_rows(_OtherPairs(data, balanced))


def centred_rows(data: Joined) -> Iterator[Row]:
    """The rows of `pair_rows`, less the mean reward over all tokens of all attempts.

    So tokens without a reward get a penalty, as with a baseline in policy gradients.
    """
    mass = _mass(data)
    mean = (mass.positive - mass.negative) / max(mass.tokens, 1)

    def centred(pair: Pair) -> Pair:
        return replace(pair, token_rewards=(pair.token_rewards - mean).astype(np.float32))

    return pair_rows(_OtherPairs(data, centred))


class _Mass(NamedTuple):
    """Sums over all attempts: rewards above 0, penalties (their absolute values), and tokens."""

    positive: float
    negative: float
    tokens: int


def _mass(data: Joined) -> _Mass:
    positive = negative = 0.0
    tokens = 0
    for pair in data.pairs:
        rewards = np.asarray(pair.token_rewards, dtype=np.float64)  # [n]
        positive += float(rewards[rewards > 0].sum())
        negative -= float(rewards[rewards < 0].sum())
        tokens += len(rewards)
    return _Mass(positive, negative, tokens)


def _until_first_fix(pair: Pair, is_break: Callable[[int], bool]) -> Pair:
    attempt = pair.attempt.completion_ids
    target = pair.target_ids
    changes = [op for op in edit_script(attempt, target).opcodes if op.tag != "equal"]
    if not target or not changes:
        return pair

    # A deletion has an empty target range, so the line is looked for from its start.
    last = max(changes[0].target_end - 1, changes[0].target_start)
    stop = next((i for i in range(last, len(target)) if is_break(target[i])), len(target) - 1)
    within = np.arange(len(target)) <= stop  # [target]
    return replace(pair, edit_weights=np.where(within, pair.edit_weights, 0).astype(np.float32))


def _line_breaks(data: Joined) -> Callable[[int], bool]:
    """Whether a token's text holds a line break; each token is decoded once."""
    known: dict[int, bool] = {}

    def is_break(token: int) -> bool:
        if token not in known:
            known[token] = "\n" in data.prompts.codec.decode([token])
        return known[token]

    return is_break


class _OtherPairs:
    """The joined data with other pairs."""

    def __init__(self, data: Joined, change: Callable[[Pair], Pair]) -> None:
        self.prompts = data.prompts
        self.problems = data.problems
        self.pairs = Made(len(data.pairs), lambda at: change(data.pairs[at]))
        self.max_length = data.max_length
        self.max_tokens = data.max_tokens
