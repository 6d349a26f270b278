"""Reward rules: one reward per token from the GRM's view of an attempt and from its edits.

A rule is a function chosen in the configuration (`policy/reward`). It is called as
`rule(grm_logprobs, is_right, removed) -> float32 [n]`:

- `grm_logprobs` float [n]: raw log-probabilities (nats) of the attempt's own tokens under the GRM's
  rewriting prompt; -inf is probability 0;
- `is_right`: whether the attempt's final answer is right;
- `removed` bool [n]: True where the attempt's correction removes the token; all False for a right
  attempt.

A rule may have two more parameters, which it is then given by name: `old_logprobs` float [n], the
attempt's log-probabilities under the policy before training; and `first_edit`, the position of the
attempt's token at which its correction first differs (n where the correction only appends, None for
right attempts and for attempts without a correction).

A reward of exactly 0 takes the token out of the reinforcement term. Rules read raw values, so
another rule needs no new scores. `clipped_probability` with its defaults is the rule of the paper
(docs/method.md, step 6).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from rlmec.settings.ranges import AnyFloat, NonNegativeFloat
from rlmec.settings.reads import CORRECTIONS, reads

RewardRule = Callable[..., np.ndarray]
"""(grm_logprobs, is_right, removed) -> token rewards, float32 [n]."""

ROUNDING = 1e-4
"""A float32 log-softmax may round a log-probability up to this far above 0: it counts as 0."""


def clipped_probability(
    grm_logprobs: np.ndarray,
    is_right: bool,
    removed: np.ndarray,
    *,
    pivot: AnyFloat = 0.5,
    right_low: AnyFloat = 0.0,
    right_high: AnyFloat = 0.5,
    wrong_low: AnyFloat = -0.1,
    wrong_high: AnyFloat = 0.0,
) -> np.ndarray:
    """R_j = clip(p_j - pivot, low, high), p_j = exp(grm_logprobs_j); the verdict picks the bounds.

    Returns float32 [n]. Raises ValueError for NaN, a positive log-probability, a mask of another
    length, or a lower bound above its upper bound. Source: docs/method.md, step 6.
    """
    logprobs, _ = checked_attempt(grm_logprobs, is_right, removed)
    low, high = (right_low, right_high) if is_right else (wrong_low, wrong_high)
    if low > high:
        raise ValueError(f"the lower bound {low} of a reward is above the upper bound {high}")
    return np.clip(token_probability(logprobs) - pivot, low, high).astype(np.float32)  # [n]


@reads(CORRECTIONS)
def edit_labels(
    grm_logprobs: np.ndarray,
    is_right: bool,
    removed: np.ndarray,
    *,
    reward: NonNegativeFloat = 0.5,
    penalty: NonNegativeFloat = 0.1,
) -> np.ndarray:
    """`reward` on every token of a right attempt, -`penalty` on every removed token of a wrong one.

    Returns float32 [n]. The GRM's values are not used, only their number. Kept tokens of a wrong
    attempt get 0; so do all tokens of an attempt whose correction only inserts. The defaults are
    the largest rewards of `clipped_probability`. Raises ValueError for a negative setting.
    """
    if reward < 0 or penalty < 0:
        raise ValueError(f"reward is {reward} and penalty is {penalty}: neither must be below 0")
    _, mask = checked_attempt(grm_logprobs, is_right, removed)
    if is_right:
        return np.full(len(mask), reward, dtype=np.float32)  # [n]
    return np.where(mask, -penalty, 0.0).astype(np.float32)  # [n]


@reads()
def no_reward(grm_logprobs: np.ndarray, is_right: bool, removed: np.ndarray) -> np.ndarray:
    """0 for every token, float32 [n]: the reinforcement term is empty."""
    return np.zeros(len(removed), dtype=np.float32)


def accepted_arguments(rule: RewardRule, **offered: Any) -> dict[str, Any]:
    """Those of the `offered` arguments that the rule has a parameter for."""
    parameters = inspect.signature(rule).parameters
    return {name: value for name, value in offered.items() if name in parameters}


def token_probability(logprobs: np.ndarray) -> np.ndarray:
    """p_j = exp(log p_j), float64 [n]; raises ValueError for NaN or a positive log-probability."""
    is_bad = np.isnan(logprobs) | (logprobs > ROUNDING)  # [n]
    if is_bad.any():
        at = int(np.flatnonzero(is_bad)[0])
        raise ValueError(f"token {at} has the log-probability {logprobs[at]}: not in [-inf, 0]")
    return np.exp(np.minimum(logprobs, 0.0))  # [n]


def checked_attempt(
    grm_logprobs: np.ndarray, is_right: bool, removed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The arguments of a rule as float64 [n] and bool [n].

    Raises ValueError where the two differ in shape or a right attempt has removed tokens.
    """
    logprobs = np.asarray(grm_logprobs, dtype=np.float64)  # [n]
    mask = np.asarray(removed, dtype=bool)  # [n]
    if logprobs.ndim != 1 or logprobs.shape != mask.shape:
        raise ValueError(
            f"log-probs of shape {logprobs.shape} and removed tokens of shape {mask.shape} "
            "do not belong to one attempt"
        )
    if is_right and mask.any():
        raise ValueError(f"a right attempt has {int(mask.sum())} removed tokens, not 0")
    return logprobs, mask
