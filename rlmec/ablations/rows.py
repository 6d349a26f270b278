"""Policy rows that did not do better than `data.policy_rows.pair_rows`.

In: the joined data that a row function reads. Out: rows. See `data.policy_rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from rlmec.data.policy_rows import Joined, pair_rows
from rlmec.data.row import Row
from rlmec.method.alignment import edit_script
from rlmec.on_demand import Made
from rlmec.records import Pair


def first_fix_rows(data: Joined) -> Iterator[Row]:
    """The rows of `pair_rows`, with a correction imitated only up to its first fix.

    The first fix ends with the line of the correction that holds its first edit; where that edit is
    a deletion, with the line in which the deletion falls. What follows has weight 0. Source: InT,
    arXiv 2601.14209.
    """
    is_break = _line_breaks(data)
    return pair_rows(_OtherPairs(data, lambda pair: _until_first_fix(pair, is_break)))


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
