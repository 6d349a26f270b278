"""Reward rules: from the reward model's view of an attempt and its edits to one number a token.

A rule is a function chosen in the configuration (`_target_` with `_partial_: true`, its settings as
flat keywords) and called as `rule(grm_logprobs, is_right, removed) -> float32 [n]`:

- `grm_logprobs` float [n]: raw log-probabilities (nats) of the attempt's own tokens under the GRM's
  rewriting view; -inf is probability 0;
- `is_right`: the attempt's verdict;
- `removed` bool [n]: True where the attempt's correction removes the token; all False for right
  attempts.

A reward of exactly 0 takes the token out of the reinforcement term. Rules read raw values, so that
changing one scores nothing anew. Departs from the paper in nothing by default; pivot and bounds are
settings.
"""

from __future__ import annotations

import numpy as np

ROUNDING = 1e-4
"""Log-probs up to this far above 0 are rounding of a log-softmax in float32, and count as 0."""


def clipped_probability(
    grm_logprobs: np.ndarray,
    is_right: bool,
    removed: np.ndarray,
    *,
    pivot: float = 0.5,
    right_low: float = 0.0,
    right_high: float = 0.5,
    wrong_low: float = -0.1,
    wrong_high: float = 0.0,
) -> np.ndarray:
    """R_j = clip(p_j - pivot, low, high), p_j = exp(grm_logprob_j); the verdict picks the bounds.

    Float32 [n]; a token at the pivot gets 0. NaN or positive log-probs, masks of another length and
    bounds the wrong way round raise ValueError. Source: method.md, step 6.
    """
    logprobs, _ = _checked(grm_logprobs, is_right, removed)
    low, high = (right_low, right_high) if is_right else (wrong_low, wrong_high)
    if low > high:
        raise ValueError(f"the lower bound {low} of a reward is above the upper bound {high}")
    if np.isnan(logprobs).any() or (logprobs > ROUNDING).any():
        at = int(np.flatnonzero(np.isnan(logprobs) | (logprobs > ROUNDING))[0])
        raise ValueError(f"token {at} has the log-probability {logprobs[at]}: not in [-inf, 0]")
    probability = np.exp(np.minimum(logprobs, 0.0))  # [n]
    return np.clip(probability - pivot, low, high).astype(np.float32)  # [n]


def edit_labels(
    grm_logprobs: np.ndarray,
    is_right: bool,
    removed: np.ndarray,
    *,
    reward: float = 0.5,
    penalty: float = 0.1,
) -> np.ndarray:
    """`reward` on all of a right attempt, -`penalty` on the tokens that a correction removes.

    The GRM's values are not looked at (only their number). Kept tokens of a wrong attempt get 0,
    and so does all of an attempt whose correction only inserts. Defaults are the largest rewards of
    `clipped_probability`. Float32 [n]. Negative settings raise ValueError. Source: the edit labels
    of method.md, follow-up work.
    """
    if reward < 0 or penalty < 0:
        raise ValueError(f"reward {reward} and penalty {penalty} are sizes: not below 0")
    _, mask = _checked(grm_logprobs, is_right, removed)
    if is_right:
        return np.full(len(mask), reward, dtype=np.float32)  # [n]
    return np.where(mask, -penalty, 0.0).astype(np.float32)  # [n]


def no_reward(grm_logprobs: np.ndarray, is_right: bool, removed: np.ndarray) -> np.ndarray:
    """All zero, float32 [n]: imitation alone."""
    return np.zeros(len(removed), dtype=np.float32)


def _checked(
    grm_logprobs: np.ndarray, is_right: bool, removed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    logprobs = np.asarray(grm_logprobs, dtype=np.float64)  # [n]
    mask = np.asarray(removed, dtype=bool)  # [n]
    if logprobs.ndim != 1 or logprobs.shape != mask.shape:
        raise ValueError(
            f"log-probs of shape {logprobs.shape} and removed tokens of shape {mask.shape} "
            "are not one attempt's"
        )
    if is_right and mask.any():
        raise ValueError(f"a right attempt has {int(mask.sum())} removed tokens, not 0")
    return logprobs, mask
