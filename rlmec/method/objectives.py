"""Training objectives: from the log-probabilities of a batch's tokens to sums and metrics.

In: `TokenBatch`, one value per token of a micro-batch. Out: `ObjectiveSums`, the sums S_RL and S_IR
of the micro-batch. No sum is divided here. The caller divides by the counts of the whole optimizer
step, so that the loss does not depend on how the step was cut into micro-batches; the objective
only names the count. An objective is a function chosen in the configuration (`policy/objective`).
docs/method.md lists the rows that each objective needs.

A token with reward 0 or outside the mask is left out of the reinforcement term before anything is
exponentiated, so whatever its log-probabilities hold reaches neither the loss nor a gradient. The
same is true of a token with weight 0 in the imitation term. Half-precision log-probabilities are
summed in float32.

Departs from the paper: `rlmec_clipped` is differentiated through the ratio where the authors'
scripts detach it (`rlmec_authors`), and the log-ratio is limited to `MAX_LOG_RATIO`, so that no
ratio overflows.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from rlmec.settings.ranges import NonNegativeFloat, PositiveFloat, Share

MAX_LOG_RATIO = 20.0
"""The limit of |log rho| (rho = 4.9e8), far outside any clip range. Beyond it the gradient is 0."""


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """What an objective sees of a micro-batch: tensors of one shape, flat or [B, T].

    `logprobs` (with gradient) and `old_logprobs` are in nats. `mask` is bool, True on completion
    tokens. `row_ids` is int64, the row of each token; all tokens of a row are in one micro-batch.
    Raises ValueError if the shapes differ or the mask is not bool.
    """

    logprobs: Tensor
    old_logprobs: Tensor
    token_rewards: Tensor
    weights: Tensor
    mask: Tensor
    row_ids: Tensor | None = None

    def __post_init__(self) -> None:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        shapes = {name: tuple(v.shape) for name, v in values.items() if v is not None}
        if len(set(shapes.values())) > 1:
            shown = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise ValueError(f"tensors of one batch differ in shape: {shown}")
        if self.mask.dtype != torch.bool:
            raise ValueError(f"mask is {self.mask.dtype}, not torch.bool")


@dataclass(frozen=True, eq=False)
class ObjectiveSums:
    """S_RL (`policy`, with its coefficient) and S_IR (`imitation`, without its own), both 0-d.

    The loss of an optimizer step is S_RL / N + imitation_coef * S_IR / N_w, where S_RL and S_IR are
    summed over all its micro-batches. `divide_by` names N: "policy" is N_R, the step's tokens with
    a reward; "attempt" is all completion tokens of its attempts; "row" is its rows with a reward.
    N_w is the step's tokens with a weight.

    `metrics` are detached 0-d tensors. Those whose names end in `_max` are reduced by the maximum
    (0 where there is no token); all others are added up.
    """

    policy: Tensor
    imitation: Tensor
    imitation_coef: float
    metrics: dict[str, Tensor] = field(repr=False)
    divide_by: str = "policy"


@dataclass(frozen=True, eq=False)
class _RewardedTokens:
    """What the reinforcement term sees; tokens outside it have log-prob 0, ratio 1 and reward 0."""

    logprobs: Tensor
    old_logprobs: Tensor
    log_ratio: Tensor
    ratio: Tensor
    rewards: Tensor
    is_rewarded: Tensor


def weighted_likelihood(
    tokens: TokenBatch, *, imitation_coef: NonNegativeFloat = 1.0
) -> ObjectiveSums:
    """Imitation alone: S_IR = -sum_j w_j log pi(u_j), S_RL = 0.

    With all weights 1 this is plain likelihood training. Source: docs/method.md, L_IR of step 7.
    """
    imitation, metrics = _imitation(tokens)
    return ObjectiveSums(imitation.new_zeros(()), imitation, imitation_coef, metrics)


def rlmec_authors(
    tokens: TokenBatch,
    *,
    epsilon: Share = 0.3,
    imitation_coef: NonNegativeFloat = 1.0,
    policy_coef: NonNegativeFloat = 1.0,
    kl_coef: NonNegativeFloat = 0.0,
    per_attempt_token: bool = False,
) -> ObjectiveSums:
    """S_RL = -sum_j stopgrad[min(rho_j R_j, clip(rho_j, 1-eps, 1+eps) R_j)] log pi_j.

    rho = pi / pi_0. The bracket is a constant to the gradient: a clipped token keeps its gradient,
    and a punished token is pushed down without bound. `kl_coef` and `per_attempt_token` are those
    of `rlmec_clipped`. Source: docs/method.md, authors' form of step 7.
    """
    rewarded = _rewarded_tokens(tokens)
    clip = _clip_range(epsilon, None)
    weight = _surrogate(rewarded, clip).detach()  # like logprobs
    divergence = _kl_to_start(rewarded).sum()
    policy = -policy_coef * (weight * rewarded.logprobs).sum() + kl_coef * divergence
    divide_by = "attempt" if per_attempt_token else "policy"
    return _with_imitation(tokens, rewarded, policy, imitation_coef, clip, divide_by)


def rlmec_clipped(
    tokens: TokenBatch,
    *,
    epsilon: Share = 0.3,
    epsilon_high: NonNegativeFloat | None = None,
    imitation_coef: NonNegativeFloat = 1.0,
    policy_coef: NonNegativeFloat = 2.0,
    kl_coef: NonNegativeFloat = 0.0,
    per_attempt_token: bool = True,
) -> ObjectiveSums:
    """PPO's clipped surrogate: S_RL = -sum_j min(rho_j R_j, clip(rho_j, 1-eps, 1+eps_high) R_j).

    The gradient goes through rho, so a token that its reward has pushed past the clip range has
    none. `epsilon_high` is `epsilon` unless given. `kl_coef` adds that multiple of the sum of
    (rho - 1) - log rho over rewarded tokens. With `per_attempt_token` the divisor of S_RL is all
    completion tokens of the attempts instead of N_R, so that few rewards weigh less than many.
    Source: docs/method.md, clipped surrogate of step 7.
    """
    rewarded = _rewarded_tokens(tokens)
    clip = _clip_range(epsilon, epsilon_high)
    divergence = _kl_to_start(rewarded).sum()
    policy = -policy_coef * _surrogate(rewarded, clip).sum() + kl_coef * divergence
    divide_by = "attempt" if per_attempt_token else "policy"
    return _with_imitation(tokens, rewarded, policy, imitation_coef, clip, divide_by)


def sequence_ppo(
    tokens: TokenBatch, *, epsilon: Share = 0.2, kl_coef: NonNegativeFloat = 0.0
) -> ObjectiveSums:
    """One advantage A per attempt: S_RL = -sum_j min(rho_j A, clip(rho_j, 1-eps, 1+eps) A).

    This is PPO on sequences. A is the token reward of the rows, the same on all tokens of an
    attempt. S_RL is divided by all completion tokens of the attempts. There is no critic and no
    imitation term. Source: eq. 7 of Schulman et al., arXiv 1707.06347, on the stored attempts; the
    mean over all tokens of a step is that of DAPO, arXiv 2503.14476, eq. 12.
    """
    rewarded = _rewarded_tokens(tokens)
    clip = _clip_range(epsilon, None)
    policy = -_surrogate(rewarded, clip).sum() + kl_coef * _kl_to_start(rewarded).sum()
    return _with_imitation(tokens, rewarded, policy, 0.0, clip, "attempt")


def grpo(
    tokens: TokenBatch,
    *,
    epsilon: Share = 0.2,
    epsilon_high: NonNegativeFloat | None = None,
    kl_coef: NonNegativeFloat = 0.0,
    per_sequence_mean: bool = False,
) -> ObjectiveSums:
    """Group-relative policy optimisation: the clipped surrogate of an advantage A per attempt.

    A is the token reward of the rows (`data.baseline_rows.group_advantage_rows`), the same on all
    tokens of an attempt. S_RL = -sum_j min(rho_j A, clip(rho_j, 1-eps, 1+eps_high) A), divided by
    all completion tokens of the attempts (DAPO, arXiv 2503.14476, eq. 12). With
    `per_sequence_mean`, S_RL is the sum over attempts of the mean over the attempt's tokens,
    divided by the attempts (GRPO, arXiv 2402.03300, eq. 3). A token of a long attempt then weighs
    less than one of a short attempt.

    `kl_coef` adds that multiple of (rho - 1) - log rho to each token's term. It is 0 because no
    reference model is held; the divergence is that from the start, on the stored attempts. There is
    no imitation term. Raises ValueError for `per_sequence_mean` without `row_ids`.
    """
    rewarded = _rewarded_tokens(tokens)
    clip = _clip_range(epsilon, epsilon_high)
    terms = kl_coef * _kl_to_start(rewarded) - _surrogate(rewarded, clip)  # like logprobs
    if not per_sequence_mean:
        return _with_imitation(tokens, rewarded, terms.sum(), 0.0, clip, "attempt")

    if tokens.row_ids is None:
        raise ValueError("grpo takes the mean over each sequence: row_ids are needed")
    chosen = rewarded.is_rewarded
    _, place, counts = tokens.row_ids[chosen].unique(return_inverse=True, return_counts=True)
    policy = (terms[chosen] / counts[place]).sum()
    return _with_imitation(tokens, rewarded, policy, 0.0, clip, "row")


def dpo(
    tokens: TokenBatch, *, beta: PositiveFloat = 0.1, likelihood_coef: NonNegativeFloat = 0.0
) -> ObjectiveSums:
    """Direct preference optimisation: S_RL = -sum_i log sigmoid(beta m_i), divided by the rows.

    m_i = sum_j R_j (log pi_j - log pi_0j) over the tokens of row i, which holds a preferred
    completion (R = 1) and a rejected one (R = -1). Tokens that both completions begin with cancel
    and have R = 0. Source: eq. 7 of Rafailov et al., arXiv 2305.18290.

    `likelihood_coef` adds that multiple of the negative log-likelihood of the preferred completions
    per token: S_IR / N_w, where the weights are 1 on all their tokens (`policy.rows.likelihood`).
    Source: Pang et al., arXiv 2404.19733, section 2. They take the mean over each completion first;
    here it is the mean over the step's tokens, as everywhere in S_IR.

    Raises ValueError if beta is not above 0, the batch has no `row_ids`, or a likelihood is asked
    for and no token has a weight.
    """
    if beta <= 0:
        raise ValueError(f"beta is {beta}: it must be above 0")
    if tokens.row_ids is None:
        raise ValueError("dpo compares the completions of a row: row_ids are needed")

    rewarded = _rewarded_tokens(tokens)
    chosen = rewarded.is_rewarded  # like logprobs, bool
    terms = (rewarded.rewards * (rewarded.logprobs - rewarded.old_logprobs))[chosen]  # [n]
    rows, place = tokens.row_ids[chosen].unique(return_inverse=True)  # [rows], [n]
    margins = beta * terms.new_zeros(len(rows)).index_add(0, place, terms)  # [rows]
    policy = -F.logsigmoid(margins).sum()

    metrics = {
        "preference_count": chosen.new_tensor(len(rows), dtype=torch.int64),
        "margin_sum": margins.detach().sum(),
        "preferred_count": (margins.detach() > 0).sum(),
    }
    if not likelihood_coef:
        return ObjectiveSums(policy, policy.new_zeros(()), 0.0, metrics, "row")

    imitation, likelihood = _imitation(tokens)
    if len(rows) and not likelihood["imitation_count"]:
        raise ValueError(
            f"likelihood_coef is {likelihood_coef}, and none of {len(rows)} preferences has a "
            "token with a weight: set policy.rows.likelihood=true"
        )
    return ObjectiveSums(policy, imitation, likelihood_coef, metrics | likelihood, "row")


def _clip_range(epsilon: float, epsilon_high: float | None) -> tuple[float, float]:
    above = epsilon if epsilon_high is None else epsilon_high
    if not 0.0 <= epsilon <= 1.0 or above < 0.0:
        raise ValueError(
            f"epsilon {epsilon} is not in [0, 1], or the upper epsilon {above} is below 0"
        )
    return 1.0 - epsilon, 1.0 + above


def _rewarded_tokens(tokens: TokenBatch) -> _RewardedTokens:
    is_rewarded = tokens.mask & (tokens.token_rewards != 0)  # like logprobs, bool
    logprobs = _select(is_rewarded, tokens.logprobs)
    old = _select(is_rewarded, tokens.old_logprobs).detach()
    rewards = _select(is_rewarded, tokens.token_rewards).detach()
    log_ratio = (logprobs - old).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)  # like logprobs
    return _RewardedTokens(logprobs, old, log_ratio, log_ratio.exp(), rewards, is_rewarded)


def _select(chosen: Tensor, values: Tensor) -> Tensor:
    """The chosen values in at least float32, and 0 elsewhere.

    `where` gives the other tokens gradient 0; a product with a mask would give NaN for a value that
    is not finite.
    """
    wide = values.to(torch.promote_types(values.dtype, torch.float32))
    return torch.where(chosen, wide, torch.zeros_like(wide))


def _surrogate(rewarded: _RewardedTokens, clip: tuple[float, float]) -> Tensor:
    """min(rho_j R_j, clip(rho_j) R_j) of every token."""
    clipped = rewarded.ratio.clamp(*clip)
    return torch.minimum(
        rewarded.ratio * rewarded.rewards, clipped * rewarded.rewards
    )  # like logprobs


def _kl_to_start(rewarded: _RewardedTokens) -> Tensor:
    """(rho - 1) - log rho of every token, which is never negative; 0 where there is no reward.

    For tokens sampled from pi_0, each term is an unbiased estimate of KL(pi_0 || pi) with less
    variance than -log rho; its gradient with respect to log pi is rho - 1. Source: the estimator k3
    of Schulman, "Approximating KL divergence" (2020).
    """
    return torch.expm1(rewarded.log_ratio) - rewarded.log_ratio  # like logprobs


def _imitation(tokens: TokenBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """S_IR and its metrics."""
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
    rewarded: _RewardedTokens,
    policy: Tensor,
    imitation_coef: float,
    clip: tuple[float, float],
    divide_by: str,
) -> ObjectiveSums:
    """The sums and metrics of a reinforcement term (`policy`) and of the imitation term."""
    imitation, metrics = _imitation(tokens)
    metrics.update(_ratio_metrics(rewarded, *clip))
    return ObjectiveSums(policy, imitation, imitation_coef, metrics, divide_by)


def _ratio_metrics(rewarded: _RewardedTokens, low: float, high: float) -> dict[str, Tensor]:
    """Sums and maxima over tokens with a reward.

    A token counts as clipped where the clip binds: above the range with a positive reward (high),
    or below it with a negative reward (low). `approx_kl` is (rho - 1) - log rho per token,
    `ratio_deviation` is |rho - 1|.
    """
    chosen = rewarded.is_rewarded
    rewards = rewarded.rewards
    ratio = rewarded.ratio.detach()  # like logprobs, 1 where no reward
    log_ratio = rewarded.log_ratio.detach()  # like logprobs, 0 where no reward
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
