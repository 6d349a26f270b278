"""Controls of what token rewards are worth: one sign alone, and penalties at other places.

A rule here changes the rewards of another rule, its setting `rule`, and is called as that rule is
(`method.rewards`). Together with `method=imitation_alone` and the rule itself these are the
placement control of RESULTS.md. Pure.
"""

from __future__ import annotations

import zlib
from typing import Literal, get_args

import numpy as np

from rlmec.ablations.rewards import rewards_of
from rlmec.method.rewards import RewardRule
from rlmec.settings.ranges import NonNegativeFloat

Places = Literal["even", "shuffled", "removed"]


def weighed_signs(
    grm_logprobs: np.ndarray,
    is_right: bool,
    removed: np.ndarray,
    first_edit: int | None,
    old_logprobs: np.ndarray | None = None,
    *,
    rule: RewardRule,
    positive: NonNegativeFloat,
    negative: NonNegativeFloat,
) -> np.ndarray:
    """The rewards of `rule`, times `positive` where they are above 0 and `negative` where below.

    Returns float32 [n]. 0 leaves a sign out. Raises ValueError for a negative factor.
    """
    if positive < 0 or negative < 0:
        raise ValueError(
            f"positive is {positive} and negative is {negative}: neither must be below 0"
        )
    own = rewards_of(rule, grm_logprobs, is_right, removed, first_edit, old_logprobs)  # [n]
    return (own * np.where(own > 0, positive, negative)).astype(np.float32)  # [n]


def moved_penalties(
    grm_logprobs: np.ndarray,
    is_right: bool,
    removed: np.ndarray,
    first_edit: int | None,
    old_logprobs: np.ndarray | None = None,
    *,
    rule: RewardRule,
    to: Places,
) -> np.ndarray:
    """The rewards of `rule`, with the penalties of an attempt moved to other tokens of it.

    Returns float32 [n]. The sum of an attempt's penalties stays. `to` says where they go:

    - "even": the same penalty on every token;
    - "shuffled": the same penalties at other places, drawn anew for every attempt and the same on
      every run;
    - "removed": the same penalty on every token that the correction removes, and on every token
      where it removes none.

    Rewards above 0 stay at their tokens, and the penalties go around them. Raises ValueError for
    another `to`.
    """
    if to not in get_args(Places):
        raise ValueError(f"to is {to!r}; it must be one of {', '.join(get_args(Places))}")
    own = rewards_of(rule, grm_logprobs, is_right, removed, first_edit, old_logprobs)  # [n]
    rewarded = own > 0  # [n]
    penalties = np.where(rewarded, 0, own)  # [n]
    if not penalties.any():
        return own

    places = np.flatnonzero(~rewarded)
    if to == "shuffled":
        seed = zlib.crc32(np.ascontiguousarray(own, dtype=np.float32).tobytes())
        moved = np.random.default_rng(seed).permutation(penalties[places])
    else:
        chosen = places[np.asarray(removed, dtype=bool)[places]] if to == "removed" else places
        places = chosen if len(chosen) else places
        moved = penalties.sum(dtype=np.float64) / len(places)

    out = np.where(rewarded, own, 0)  # [n]
    out[places] = moved
    return out.astype(np.float32)
