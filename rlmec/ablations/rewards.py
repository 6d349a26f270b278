"""Reward rules that did not do better than those of `method.rewards`.

A rule here is called as a rule there: `rule(grm_logprobs, is_right, removed) -> float32 [n]`, with
`old_logprobs` and `first_edit` as further arguments where the rule has parameters of these names.
`good_prefix` and `bounded_penalty` change the rewards of another rule, which is their setting
`rule`. RESULTS.md has the comparison ("Credit quality" and "Ablations of the default").
"""

from __future__ import annotations

import numpy as np

from rlmec.method.rewards import (
    RewardRule,
    accepted_arguments,
    checked_attempt,
    edit_labels,
    token_probability,
)
from rlmec.settings.ranges import AnyFloat, NonNegativeFloat
from rlmec.settings.reads import CORRECTIONS, reads


def continuous_probability(
    grm_logprobs: np.ndarray, is_right: bool, removed: np.ndarray, *, scale: NonNegativeFloat = 0.5
) -> np.ndarray:
    """R_j = scale (2 p_j - 1), in [-scale, scale], for right and wrong attempts alike.

    Returns float32 [n]. Raises ValueError for NaN, a positive log-probability or a negative scale.
    Source: the continuous reward 2D - 1 of TLCR, arXiv 2407.16574, with the GRM's probability in
    place of the discriminator's D.
    """
    if scale < 0:
        raise ValueError(f"scale is {scale}: it must not be below 0")
    logprobs, _ = checked_attempt(grm_logprobs, is_right, removed)
    return (scale * (2.0 * token_probability(logprobs) - 1.0)).astype(np.float32)  # [n]


@reads()
def verdict(
    grm_logprobs: np.ndarray,
    is_right: bool,
    removed: np.ndarray,
    *,
    right: AnyFloat = 0.5,
    wrong: AnyFloat = -0.1,
) -> np.ndarray:
    """One reward for all tokens of an attempt, chosen by its verdict (a sequence reward).

    Returns float32 [n]. The defaults are the largest rewards of `clipped_probability`.
    """
    _, mask = checked_attempt(grm_logprobs, is_right, removed)
    return np.full(len(mask), right if is_right else wrong, dtype=np.float32)  # [n]


@reads(CORRECTIONS)
def first_error_labels(
    grm_logprobs: np.ndarray,
    is_right: bool,
    removed: np.ndarray,
    first_edit: int | None,
    *,
    reward: NonNegativeFloat = 0.5,
    penalty: NonNegativeFloat = 0.1,
) -> np.ndarray:
    """`edit_labels` whose penalties end with the run of removed tokens at the first edit.

    Returns float32 [n]. A wrong attempt gets 0 throughout where its first edit is an insertion and
    where it has no correction. The GRM's values are not used. Raises ValueError for a negative
    setting. Source: the first error of VPPO, arXiv 2601.18984, found by the edits.
    """
    out = edit_labels(grm_logprobs, is_right, removed, reward=reward, penalty=penalty)  # [n]
    if is_right or first_edit is None:
        return out

    kept = np.flatnonzero(~np.asarray(removed[first_edit:], dtype=bool))  # [kept tokens]
    if len(kept):
        out[first_edit + kept[0] :] = 0.0
    return out


def good_prefix(
    grm_logprobs: np.ndarray,
    is_right: bool,
    removed: np.ndarray,
    first_edit: int | None,
    old_logprobs: np.ndarray | None = None,
    *,
    rule: RewardRule,
    reward: NonNegativeFloat = 0.1,
) -> np.ndarray:
    """The rewards of `rule`, but `reward` on the tokens of a wrong attempt before its first edit.

    Returns float32 [n]. Right attempts and attempts without a correction keep the rewards of
    `rule`. Raises ValueError for a negative reward. Source: the good prefix of VPPO, arXiv
    2601.18984, with the first edit in place of the first error.
    """
    if reward < 0:
        raise ValueError(f"reward is {reward}: it must not be below 0")
    own = rewards_of(rule, grm_logprobs, is_right, removed, first_edit, old_logprobs)  # [n]
    if is_right or first_edit is None:
        return own
    return np.where(np.arange(len(own)) < first_edit, reward, own).astype(np.float32)  # [n]


def bounded_penalty(
    grm_logprobs: np.ndarray,
    is_right: bool,
    removed: np.ndarray,
    old_logprobs: np.ndarray,
    first_edit: int | None = None,
    *,
    rule: RewardRule,
    bound: NonNegativeFloat = 1.0,
) -> np.ndarray:
    """The rewards of `rule`, with penalties limited by the token's own probability.

    R_j = max(R_j, -bound p_0j), where p_0j is the probability of token j under the policy before
    training. At the start of training, -bound p_0j grad log p_j is -bound times the gradient of the
    probability itself, so a token that the policy hardly ever samples is hardly pushed down.
    Rewards above 0 are kept. Returns float32 [n]. Raises ValueError for a negative bound.
    """
    if bound < 0:
        raise ValueError(f"bound is {bound}: it must not be below 0")
    own = rewards_of(rule, grm_logprobs, is_right, removed, first_edit, old_logprobs)  # [n]
    largest = bound * token_probability(np.asarray(old_logprobs, dtype=np.float64))  # [n]
    return np.maximum(own, -largest).astype(np.float32)  # [n]


def rewards_of(
    rule: RewardRule,
    grm_logprobs: np.ndarray,
    is_right: bool,
    removed: np.ndarray,
    first_edit: int | None,
    old_logprobs: np.ndarray | None,
) -> np.ndarray:
    """The rewards of a rule inside another one, which gets the optional arguments that it has."""
    more = accepted_arguments(rule, first_edit=first_edit, old_logprobs=old_logprobs)
    return rule(grm_logprobs, is_right, removed, **more)
