"""Training objectives: from the log-probs of a batch's tokens to un-normalised sums and metrics.

In: `TokenBatch`, per-token tensors of one micro-batch. Out: `ObjectiveSums`, the sums S_RL and S_IR
over the micro-batch. Nothing here divides by a count: the caller divides by the counts of the whole
optimizer step, so that the loss does not depend on how a step was cut; an objective only names the
count. It is a function chosen in the configuration (`_target_` with `_partial_: true`), its
settings flat keywords. Which rows an objective wants is said in docs/objectives.md.

A token with reward 0, or outside the mask, is left out of the reinforcement term before anything is
exponentiated: junk in its `old_logprobs` or `logprobs` reaches neither the loss nor a gradient. The
same holds for weight 0 in the imitation term. Half-precision log-probs are summed in float32.

Departs from the paper: `rlmec_clipped` is a form of our own choice (PPO's surrogate with the
gradient through the ratio), and the log-ratio is capped at `MAX_LOG_RATIO`, so that no ratio
overflows.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_LOG_RATIO = 20.0
"""|log rho| is capped here (rho = 4.9e8), far outside any clip range; no gradient beyond."""


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """What an objective sees of a micro-batch: tensors of one shape, flat or [B, T].

    `logprobs` (with gradient) and `old_logprobs` in nats; `mask` bool, True on completion tokens;
    `row_ids` int64, the row of each token: tokens of one row are always in one micro-batch.
    Different shapes raise ValueError.
    """

    logprobs: Tensor
    old_logprobs: Tensor
    token_rewards: Tensor
    weights: Tensor
    mask: Tensor
    row_ids: Tensor | None = None

    def __post_init__(self) -> None:
        given = {
            f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None
        }
        shapes = {name: tuple(value.shape) for name, value in given.items()}
        if len(set(shapes.values())) > 1:
            shown = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise ValueError(f"tensors of one batch differ in shape: {shown}")
        if self.mask.dtype != torch.bool:
            raise ValueError(f"mask is {self.mask.dtype}, not torch.bool")


@dataclass(frozen=True, eq=False)
class ObjectiveSums:
    """S_RL (`policy`, times its coefficient) and S_IR (`imitation`, not yet times its own), 0-d.

    The loss of an optimizer step is S_RL / N + imitation_coef * S_IR / N_w over all its
    micro-batches. `divide_by` names N: `policy` is N_R, the step's tokens with a reward, `attempt`
    all completion tokens of its attempts, `row` its rows with a reward. `metrics` are detached 0-d
    tensors: names that end in `_max` are reduced by the maximum (0 where there is no token), all
    others are added up.
    """

    policy: Tensor
    imitation: Tensor
    imitation_coef: float
    metrics: dict[str, Tensor] = field(repr=False)
    divide_by: str = "policy"


@dataclass(frozen=True, eq=False)
class _Rewarded:
    """The reinforcement term's view: tokens outside it have log-prob 0, ratio 1 and reward 0."""

    logprobs: Tensor
    old_logprobs: Tensor
    log_ratio: Tensor
    ratio: Tensor
    rewards: Tensor
    is_rewarded: Tensor


def weighted_likelihood(tokens: TokenBatch, *, imitation_coef: float = 1.0) -> ObjectiveSums:
    """Imitation alone: S_IR = -sum_j w_j log pi(u_j), S_RL = 0.

    Plain likelihood training where all weights are 1. Source: L_IR of method.md, step 7.
    """
    imitation, metrics = _imitation(tokens)
    return ObjectiveSums(imitation.new_zeros(()), imitation, imitation_coef, metrics)


def rlmec_authors(
    tokens: TokenBatch,
    *,
    epsilon: float = 0.3,
    imitation_coef: float = 1.0,
    policy_coef: float = 1.0,
    kl_coef: float = 0.0,
    per_attempt_token: bool = False,
) -> ObjectiveSums:
    """S_RL = -sum_j stopgrad[min(rho_j R_j, clip(rho_j, 1-eps, 1+eps) R_j)] log pi_j.

    The weight is a constant to the gradient, so a clipped token goes on moving and a punished one
    is pushed down without bound. rho = pi / pi_0. `kl_coef` and `per_attempt_token` as in
    `rlmec_clipped`. Source: "authors' form" of method.md, step 7.
    """
    seen = _rewarded(tokens)
    clip = _clip_range(epsilon, None)
    weight = _surrogate(seen, clip).detach()
    policy = -policy_coef * (weight * seen.logprobs).sum() + kl_coef * kl_to_start(seen)
    return _with_imitation(tokens, seen, policy, imitation_coef, clip, per_attempt_token)


def rlmec_clipped(
    tokens: TokenBatch,
    *,
    epsilon: float = 0.3,
    epsilon_high: float | None = None,
    imitation_coef: float = 1.0,
    policy_coef: float = 1.0,
    kl_coef: float = 0.0,
    per_attempt_token: bool = False,
) -> ObjectiveSums:
    """PPO's clipped surrogate: S_RL = -sum_j min(rho_j R_j, clip(rho_j, 1-eps, 1+eps_high) R_j).

    Differentiated through rho: a token past the bound its reward pushes it to has no gradient.
    `epsilon_high` is `epsilon` where not given. `kl_coef` adds that times `kl_to_start`. With
    `per_attempt_token` S_RL is divided by all completion tokens of the attempts instead of N_R, so
    that few penalties do not weigh as much as all positive rewards would. Source: "clipped
    surrogate" of method.md, step 7.
    """
    seen = _rewarded(tokens)
    clip = _clip_range(epsilon, epsilon_high)
    policy = -policy_coef * _surrogate(seen, clip).sum() + kl_coef * kl_to_start(seen)
    return _with_imitation(tokens, seen, policy, imitation_coef, clip, per_attempt_token)


def sequence_ppo(
    tokens: TokenBatch, *, epsilon: float = 0.2, kl_coef: float = 0.0
) -> ObjectiveSums:
    """PPO with one advantage A for all tokens of an attempt, the rows' token reward:
    S_RL = -sum_j min(rho_j A, clip(rho_j, 1-eps, 1+eps) A), divided by all attempts' tokens.

    No critic and no imitation. Source: eq. 7 of Schulman et al., arXiv 1707.06347, on the stored
    samples; the mean over all tokens of a step as in DAPO, arXiv 2503.14476, eq. 12.
    """
    seen = _rewarded(tokens)
    clip = _clip_range(epsilon, None)
    policy = -_surrogate(seen, clip).sum() + kl_coef * kl_to_start(seen)
    return _with_imitation(tokens, seen, policy, 0.0, clip, True)


def dpo(tokens: TokenBatch, *, beta: float = 0.1) -> ObjectiveSums:
    """Direct preference optimisation: S_RL = -sum_i log sigmoid(beta m_i) over rows i, divided by
    the number of rows; m_i = sum_j R_j (log pi_j - log pi_0j) over the tokens of row i.

    The rows hold a preferred sequence (R = 1 on its tokens) and a rejected one (R = -1); tokens
    that both begin with cancel and have R = 0. Raises ValueError for beta <= 0, or a batch that
    does not say which row a token is in. Source: eq. 7 of Rafailov et al., arXiv 2305.18290.
    """
    if beta <= 0:
        raise ValueError(f"beta is {beta}, more than 0 is needed")
    if tokens.row_ids is None:
        raise ValueError("dpo compares the sequences of a row: row_ids are needed")
    seen = _rewarded(tokens)
    chosen = seen.is_rewarded
    terms = (seen.rewards * (seen.logprobs - seen.old_logprobs))[chosen]  # [n]
    rows, place = tokens.row_ids[chosen].unique(return_inverse=True)  # [rows], [n]
    margins = beta * terms.new_zeros(len(rows)).index_add(0, place, terms)  # [rows]
    metrics = {
        "preference_count": chosen.new_tensor(len(rows), dtype=torch.int64),
        "margin_sum": margins.detach().sum(),
        "preferred_count": (margins.detach() > 0).sum(),
    }
    policy = -F.logsigmoid(margins).sum()
    return ObjectiveSums(policy, policy.new_zeros(()), 0.0, metrics, "row")


def _clip_range(epsilon: float, epsilon_high: float | None) -> tuple[float, float]:
    above = epsilon if epsilon_high is None else epsilon_high
    if not 0.0 <= epsilon <= 1.0 or above < 0.0:
        raise ValueError(
            f"epsilon {epsilon} is not in [0, 1], or the upper epsilon {above} is below 0"
        )
    return 1.0 - epsilon, 1.0 + above


def _rewarded(tokens: TokenBatch) -> _Rewarded:
    is_rewarded = tokens.mask & (tokens.token_rewards != 0)  # like logprobs, bool
    logprobs = _select(is_rewarded, tokens.logprobs)
    old = _select(is_rewarded, tokens.old_logprobs).detach()
    rewards = _select(is_rewarded, tokens.token_rewards).detach()
    log_ratio = (logprobs - old).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)  # like logprobs
    return _Rewarded(logprobs, old, log_ratio, log_ratio.exp(), rewards, is_rewarded)


def _select(chosen: Tensor, values: Tensor) -> Tensor:
    """Values where chosen, 0 elsewhere, float32 at least; the others get gradient 0, never NaN."""
    wide = values.to(torch.promote_types(values.dtype, torch.float32))
    return torch.where(chosen, wide, torch.zeros_like(wide))


def _surrogate(seen: _Rewarded, clip: tuple[float, float]) -> Tensor:
    clipped = seen.ratio.clamp(*clip)
    return torch.minimum(seen.ratio * seen.rewards, clipped * seen.rewards)  # like logprobs


def kl_to_start(seen: _Rewarded) -> Tensor:
    """Sum over rewarded tokens of (rho - 1) - log rho, never below 0; its gradient is rho - 1.

    For tokens drawn from pi_0 an unbiased estimate of KL(pi_0 || pi) a token, with less variance
    than -log rho. Source: the estimator k3 of Schulman, "Approximating KL divergence" (2020).
    """
    return (torch.expm1(seen.log_ratio) - seen.log_ratio).sum()


def _imitation(tokens: TokenBatch) -> tuple[Tensor, dict[str, Tensor]]:
    is_weighted = tokens.mask & (tokens.weights != 0)  # like logprobs, bool
    terms = _select(is_weighted, tokens.weights).detach() * _select(is_weighted, tokens.logprobs)
    unweighted = _select(is_weighted, tokens.logprobs).detach()
    metrics = {
        "imitation_count": is_weighted.sum(),
        "imitation_nll_sum": -unweighted.sum(),
    }
    return -terms.sum(), metrics


def _with_imitation(
    tokens: TokenBatch,
    seen: _Rewarded,
    policy: Tensor,
    imitation_coef: float,
    clip: tuple[float, float],
    per_attempt_token: bool,
) -> ObjectiveSums:
    imitation, metrics = _imitation(tokens)
    metrics.update(_ratio_metrics(seen, *clip))
    divide_by = "attempt" if per_attempt_token else "policy"
    return ObjectiveSums(policy, imitation, imitation_coef, metrics, divide_by)


def _ratio_metrics(seen: _Rewarded, low: float, high: float) -> dict[str, Tensor]:
    """Sums and maxima over tokens with a reward.

    A token counts as clipped where the clip binds: above the range with a positive reward (high),
    below it with a negative one (low). `approx_kl` is (rho - 1) - log rho a token,
    `ratio_deviation` |rho - 1|.
    """
    chosen, rewards = seen.is_rewarded, seen.rewards
    ratio, log_ratio = seen.ratio.detach(), seen.log_ratio.detach()
    held = torch.where(chosen, ratio, torch.zeros_like(ratio))  # like logprobs, 0 where no reward
    deviation = (ratio - 1.0).abs()  # like logprobs, 0 where no reward
    return {
        "reward_count": chosen.sum(),
        "punished_count": (rewards < 0).sum(),
        "reward_sum": rewards.sum(),
        "ratio_sum": held.sum(),
        "ratio_max": _largest(held),
        "ratio_deviation_sum": deviation.sum(),
        "ratio_deviation_max": _largest(deviation),
        "clip_high_count": ((ratio > high) & (rewards > 0)).sum(),
        "clip_low_count": ((ratio < low) & (rewards < 0)).sum(),
        "approx_kl_sum": (torch.expm1(log_ratio) - log_ratio).sum(),
    }


def _largest(values: Tensor) -> Tensor:
    return values.max() if values.numel() else values.new_zeros(())
