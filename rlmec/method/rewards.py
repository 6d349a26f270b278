"""Reward rules: from the reward model's view of an attempt and its edits to one number a token.

A rule is a function chosen in the configuration (`_target_` with `_partial_: true`, its settings as
flat keywords) and called as `rule(grm_logprobs, is_right, removed) -> float32 [n]`:

- `grm_logprobs` float [n]: raw log-probabilities (nats) of the attempt's own tokens under the GRM's
  rewriting view; -inf is probability 0;
- `is_right`: the attempt's verdict;
- `removed` bool [n]: True where the attempt's correction removes the token; all False for right
  attempts.

A rule that has a parameter `old_logprobs` (float [n], the attempt's log-probs under the policy that
is trained, before training) or `first_edit` (the attempt's token at which its correction first
differs, n where it only appends, None for right and for uncorrected attempts) is given it by that
name. `good_prefix` and `bounded_penalty` change what another rule, their setting `rule`, gives.

A reward of exactly 0 takes the token out of the reinforcement term. Rules read raw values, so that
changing one scores nothing anew. Departs from the paper in nothing by default; pivot and bounds are
settings.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

Rule = Callable[..., np.ndarray]

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
    return np.clip(_probability(logprobs) - pivot, low, high).astype(np.float32)  # [n]


def continuous_probability(
    grm_logprobs: np.ndarray, is_right: bool, removed: np.ndarray, *, scale: float = 0.5
) -> np.ndarray:
    """R_j = scale (2 p_j - 1), between -scale and scale, whatever the verdict. Float32 [n].

    NaN, positive log-probs and a negative scale raise ValueError. Source: the continuous reward
    2D - 1 of TLCR, arXiv 2407.16574, with the GRM's probability for the discriminator's D.
    """
    if scale < 0:
        raise ValueError(f"scale {scale} is a size: not below 0")
    logprobs, _ = _checked(grm_logprobs, is_right, removed)
    return (scale * (2.0 * _probability(logprobs) - 1.0)).astype(np.float32)  # [n]


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


def verdict(
    grm_logprobs: np.ndarray,
    is_right: bool,
    removed: np.ndarray,
    *,
    right: float = 0.5,
    wrong: float = -0.1,
) -> np.ndarray:
    """One reward on all tokens of an attempt, by its verdict: a sequence reward. Float32 [n].

    Defaults are the largest rewards of `clipped_probability`.
    """
    _, mask = _checked(grm_logprobs, is_right, removed)
    return np.full(len(mask), right if is_right else wrong, dtype=np.float32)  # [n]


def no_reward(grm_logprobs: np.ndarray, is_right: bool, removed: np.ndarray) -> np.ndarray:
    """All zero, float32 [n]: imitation alone."""
    return np.zeros(len(removed), dtype=np.float32)


def good_prefix(
    grm_logprobs: np.ndarray,
    is_right: bool,
    removed: np.ndarray,
    first_edit: int | None,
    old_logprobs: np.ndarray | None = None,
    *,
    rule: Rule,
    reward: float = 0.1,
) -> np.ndarray:
    """As `rule`, with `reward` on the tokens of a wrong attempt before its first edit. Float32 [n].

    `rule` has the say from the first edit on, in right attempts and in uncorrected ones. A negative
    reward raises ValueError. Source: the good prefix of VPPO, arXiv 2601.18984, with the first
    difference from the correction for the first error.
    """
    if reward < 0:
        raise ValueError(f"reward {reward} is a size: not below 0")
    own = _call(rule, grm_logprobs, is_right, removed, first_edit, old_logprobs)  # [n]
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
    rule: Rule,
    bound: float = 1.0,
) -> np.ndarray:
    """As `rule`, but no penalty of token j is larger than `bound` times its own probability under
    the policy before training: R_j = max(R_j, -bound p_0j). Float32 [n].

    What the policy hardly ever says is hardly pushed down: bound p_0j grad log p_j is at the start
    `bound` times the gradient of the probability itself. Rewards above 0 stay. A negative bound
    raises ValueError.
    """
    if bound < 0:
        raise ValueError(f"bound {bound} is a size: not below 0")
    own = _call(rule, grm_logprobs, is_right, removed, first_edit, old_logprobs)  # [n]
    most = bound * _probability(np.asarray(old_logprobs, dtype=np.float64))  # [n]
    return np.maximum(own, -most).astype(np.float32)  # [n]


def asked(rule: Rule, **offered: Any) -> dict[str, Any]:
    """Of what is offered, that which the rule has a parameter for."""
    wanted = inspect.signature(rule).parameters
    return {name: value for name, value in offered.items() if name in wanted}


def _call(
    rule: Rule,
    grm_logprobs: np.ndarray,
    is_right: bool,
    removed: np.ndarray,
    first_edit: int | None,
    old_logprobs: np.ndarray | None,
) -> np.ndarray:
    more = asked(rule, first_edit=first_edit, old_logprobs=old_logprobs)
    return rule(grm_logprobs, is_right, removed, **more)


def _probability(logprobs: np.ndarray) -> np.ndarray:
    if np.isnan(logprobs).any() or (logprobs > ROUNDING).any():
        at = int(np.flatnonzero(np.isnan(logprobs) | (logprobs > ROUNDING))[0])
        raise ValueError(f"token {at} has the log-probability {logprobs[at]}: not in [-inf, 0]")
    return np.exp(np.minimum(logprobs, 0.0))  # [n]


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


def first_error_labels(
    grm_logprobs: np.ndarray,
    is_right: bool,
    removed: np.ndarray,
    first_edit: int | None,
    *,
    reward: float = 0.5,
    penalty: float = 0.1,
) -> np.ndarray:
    """`reward` on all of a right attempt, -`penalty` on the run of removed tokens that begins at
    the first edit; 0 elsewhere. Float32 [n].

    An attempt whose first edit inserts, and one without a correction, gets 0 throughout. The GRM's
    values are not looked at. Negative settings raise ValueError. Source: the edit labels of
    method.md, follow-up work, up to the first error as in VPPO, arXiv 2601.18984.
    """
    out = edit_labels(grm_logprobs, is_right, removed, reward=reward, penalty=penalty)  # [n]
    if not is_right and first_edit is not None:
        kept = np.flatnonzero(~np.asarray(removed[first_edit:], dtype=bool))  # [kept tokens]
        if len(kept):
            out[first_edit + kept[0] :] = 0.0
    return out
