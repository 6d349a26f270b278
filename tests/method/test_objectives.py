"""Objectives against numbers worked by hand, finite differences and laws.

The last law also needs rows and a plan: the loss of a step does not depend on how it was cut.
"""

import math

import numpy as np
import pytest
import torch
from paper_objective import rlmec_clipped

from rlmec.data.collate import collate, step_normalizers
from rlmec.data.row import Row, step_sizes
from rlmec.data.step_plan import StepPlan
from rlmec.method.objectives import (
    ObjectiveSums,
    TokenBatch,
    dpo,
    grpo,
    rlmec_authors,
    sequence_ppo,
    weighted_likelihood,
)

RLMEC = [rlmec_authors, rlmec_clipped]
ALL = [weighted_likelihood, *RLMEC]


def batch(
    logprobs, old, rewards, weights=None, mask=None, dtype=torch.float64, row_ids=None
) -> TokenBatch:
    lp = torch.as_tensor(logprobs, dtype=dtype)
    lp = lp.clone().requires_grad_()
    return TokenBatch(
        lp,
        torch.as_tensor(old, dtype=dtype),
        torch.as_tensor(rewards, dtype=dtype),
        torch.zeros_like(lp) if weights is None else torch.as_tensor(weights, dtype=dtype),
        torch.ones_like(lp, dtype=torch.bool) if mask is None else torch.as_tensor(mask),
        None if row_ids is None else torch.as_tensor(row_ids),
    )


def loss(sums: ObjectiveSums) -> torch.Tensor:
    return sums.policy + sums.imitation_coef * sums.imitation


def gradient(objective, tokens: TokenBatch, **settings) -> torch.Tensor:
    return torch.autograd.grad(loss(objective(tokens, **settings)), tokens.logprobs)[0]


# Three tokens: pi = 0.5, 0.2, 0.3; pi_0 = 0.25, 0.25, 0.6, so rho = 2, 0.8, 0.5.
PI, OLD = [math.log(0.5), math.log(0.2), math.log(0.3)], [math.log(x) for x in (0.25, 0.25, 0.6)]
REWARDS = [0.4, -0.1, -0.1]
# With eps = 0.3 the range is [0.7, 1.3]. min(rho R, clip(rho) R):
#   token 1: min(2 * 0.4, 1.3 * 0.4) = 0.52 (clipped)
#   token 2: min(0.8 * -0.1, 0.8 * -0.1) = -0.08 (inside)
#   token 3: min(0.5 * -0.1, 0.7 * -0.1) = -0.07 (clipped)


def test_clipped_surrogate_by_hand():
    tokens = batch(PI, OLD, REWARDS)
    sums = rlmec_clipped(tokens, epsilon=0.3)
    # S_RL = -(0.52 - 0.08 - 0.07) = -0.37
    assert sums.policy.item() == pytest.approx(-0.37, abs=1e-12)
    # d(-rho R)/d log pi = -rho R where not clipped: token 2: 0.08; clipped tokens: 0.
    assert gradient(rlmec_clipped, tokens).tolist() == pytest.approx([0.0, 0.08, 0.0], abs=1e-12)


def test_authors_form_by_hand():
    tokens = batch(PI, OLD, REWARDS)
    sums = rlmec_authors(tokens, epsilon=0.3)
    # S_RL = -(0.52 log 0.5 - 0.08 log 0.2 - 0.07 log 0.3)
    #      = 0.360436533 - 0.128755033 - 0.084278096 = 0.147403404
    assert sums.policy.item() == pytest.approx(0.147403404, abs=1e-8)
    # The weight is a constant, so d/d log pi = -weight, clipped or not.
    expected = [-0.52, 0.08, 0.07]
    assert gradient(rlmec_authors, tokens).tolist() == pytest.approx(expected, abs=1e-12)


def test_imitation_by_hand():
    tokens = batch(PI, OLD, [0.0, 0.0, 0.0], weights=[1.0, 0.5, 0.0])
    for objective in ALL:
        sums = objective(tokens, imitation_coef=2.0)
        # S_IR = -(log 0.5 + 0.5 log 0.2) = 0.693147181 + 0.804718956 = 1.497866137
        assert sums.imitation.item() == pytest.approx(1.497866137, abs=1e-8)
        assert sums.policy.item() == 0.0
        assert sums.imitation_coef == 2.0
        assert sums.metrics["imitation_count"].item() == 2
        # unweighted: 0.693147181 + 1.609437912
        assert sums.metrics["imitation_nll_sum"].item() == pytest.approx(2.302585093, abs=1e-8)
        assert gradient(objective, tokens).tolist() == [-1.0, -0.5, 0.0]


def test_upper_epsilon_widens_one_side():
    # range [0.7, 2.5]: token 1 is inside with 2 * 0.4 = 0.8; S_RL = -(0.8 - 0.08 - 0.07) = -0.65
    sums = rlmec_clipped(batch(PI, OLD, REWARDS), epsilon=0.3, epsilon_high=1.5)
    assert sums.policy.item() == pytest.approx(-0.65, abs=1e-12)
    assert sums.metrics["clip_high_count"].item() == 0


@pytest.mark.parametrize("objective", RLMEC)
def test_policy_coef_scales_the_reinforcement_term_alone(objective):
    tokens = batch(PI, OLD, REWARDS, weights=[1.0, 0.5, 0.5])
    one, three = objective(tokens), objective(tokens, policy_coef=3.0)
    assert three.policy.item() == pytest.approx(3 * one.policy.item())
    assert three.imitation.item() == one.imitation.item()


@pytest.mark.parametrize("objective", RLMEC)
def test_gradient_by_finite_differences(objective):
    tokens = batch(PI, OLD, REWARDS, weights=[1.0, 0.5, 0.5])
    found = gradient(objective, tokens)
    step = 1e-6
    weight = -gradient(objective, batch(PI, OLD, REWARDS)).detach()
    for j in range(3):
        ends = []
        for sign in (1, -1):
            moved = torch.tensor(PI, dtype=torch.float64)
            moved[j] += sign * step
            sums = objective(batch(moved, OLD, REWARDS, weights=[1.0, 0.5, 0.5]))
            # the authors' weight is held where it was
            policy = -(weight * moved).sum() if objective is rlmec_authors else sums.policy
            ends.append((policy + sums.imitation).item())
        assert found[j].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-6)


def test_a_clipped_token_moves_in_the_authors_form_alone():
    tokens = batch([math.log(0.5)], [math.log(0.25)], [0.4])  # rho 2, reward > 0: clipped
    assert gradient(rlmec_clipped, tokens).item() == 0.0
    assert gradient(rlmec_authors, tokens).item() == pytest.approx(-0.52)


def test_the_clip_never_holds_a_token_on_its_way_back():
    # rho 2 with a negative reward, rho 0.5 with a positive one: not clipped, gradient -rho R.
    tokens = batch([math.log(0.5), math.log(0.3)], [math.log(0.25), math.log(0.6)], [-0.1, 0.4])
    assert gradient(rlmec_clipped, tokens).tolist() == pytest.approx([0.2, -0.2])
    metrics = rlmec_clipped(tokens).metrics
    assert metrics["clip_high_count"].item() == metrics["clip_low_count"].item() == 0


def test_metrics_by_hand():
    tokens = batch([*PI, -1.0], [*OLD, -9.0], [*REWARDS, 0.0])
    for objective in RLMEC:
        metrics = {k: v.item() for k, v in objective(tokens).metrics.items()}
        expected = {
            "reward_count": 3,
            "punished_count": 2,
            "reward_sum": 0.2,  # 0.4 - 0.1 - 0.1
            "ratio_sum": 3.3,  # 2 + 0.8 + 0.5
            "ratio_max": 2.0,
            "ratio_deviation_sum": 1.7,  # 1 + 0.2 + 0.5
            "ratio_deviation_max": 1.0,
            "clip_high_count": 1,
            "clip_low_count": 1,
            # (1 - ln 2) + (-0.2 - ln 0.8) + (-0.5 - ln 0.5) = 0.306853 + 0.023144 + 0.193147
            "approx_kl_sum": 0.523144,
            "imitation_count": 0,
            "imitation_nll_sum": 0,
        }
        assert metrics == pytest.approx(expected, abs=1e-6)
        assert not any(v.requires_grad for v in objective(tokens).metrics.values())


@pytest.mark.parametrize("objective", RLMEC)
def test_same_policy_has_ratio_one_and_the_policy_gradient(objective):
    tokens = batch(PI, PI, REWARDS)
    sums = objective(tokens)
    assert sums.metrics["ratio_max"].item() == 1.0
    assert sums.metrics["ratio_deviation_max"].item() == 0.0
    assert sums.metrics["approx_kl_sum"].item() == 0.0
    assert gradient(objective, tokens).tolist() == pytest.approx([-0.4, 0.1, 0.1])


@pytest.mark.parametrize("objective", ALL)
def test_no_reward_and_no_weight_is_loss_zero_with_zero_gradients(objective):
    junk = [float("nan"), float("inf"), -float("inf"), -1e30]
    tokens = batch([-1.0, -2.0, -1e30, -3.0], junk, [0.0] * 4, dtype=torch.float32)
    sums = objective(tokens)
    assert loss(sums).item() == 0.0
    assert gradient(objective, tokens).tolist() == [0.0] * 4
    assert all(math.isfinite(v.item()) for v in sums.metrics.values())


@pytest.mark.parametrize("objective", ALL)
def test_masked_tokens_reach_neither_loss_nor_gradient(objective):
    # two real tokens; the masked ones carry junk in every field
    nan, inf = float("nan"), float("inf")
    tokens = batch(
        [[PI[0], -inf, -1e30], [PI[1], nan, 0.0]],
        [[OLD[0], nan, -inf], [OLD[1], inf, 1e30]],
        [[0.4, 0.5, -0.1], [-0.1, 9.0, 9.0]],
        weights=[[1.0, 9.0, 9.0], [0.5, 9.0, 9.0]],
        mask=[[True, False, False], [True, False, False]],
        dtype=torch.float32,
    )
    bare = batch(PI[:2], OLD[:2], REWARDS[:2], weights=[1.0, 0.5], dtype=torch.float32)
    assert loss(objective(tokens)).item() == pytest.approx(loss(objective(bare)).item(), rel=1e-6)
    found = gradient(objective, tokens)
    assert found[:, 1:].tolist() == [[0.0, 0.0], [0.0, 0.0]]
    torch.testing.assert_close(found[:, 0], gradient(objective, bare))


@pytest.mark.parametrize("objective", RLMEC)
def test_a_ratio_that_would_overflow_stays_finite(objective):
    tokens = batch(
        [-0.1, -0.1, -200.0], [-200.0, -200.0, -0.1], [0.5, -0.1, 0.5], dtype=torch.float32
    )
    sums = objective(tokens)
    assert math.isfinite(sums.policy.item())
    assert gradient(objective, tokens).isfinite().all()
    assert all(math.isfinite(v.item()) for v in sums.metrics.values())


@pytest.mark.parametrize("objective", ALL)
def test_sums_add_up_over_a_split_of_the_batch(objective):
    g = torch.Generator().manual_seed(0)
    old = -torch.rand(40, generator=g, dtype=torch.float64) * 3
    lp = old + torch.randn(40, generator=g, dtype=torch.float64) * 0.5
    rewards = torch.randn(40, generator=g, dtype=torch.float64).clamp(-0.5, 0.5)
    weights = torch.rand(40, generator=g, dtype=torch.float64)
    whole = objective(batch(lp, old, rewards, weights))
    parts = [
        objective(batch(lp[s], old[s], rewards[s], weights[s]))
        for s in (slice(0, 7), slice(7, 31), slice(31, 31), slice(31, 40))
    ]
    assert whole.policy.item() == pytest.approx(sum(p.policy.item() for p in parts), abs=1e-12)
    assert whole.imitation.item() == pytest.approx(sum(p.imitation.item() for p in parts))
    for name, value in whole.metrics.items():
        merge = max if name.endswith("_max") else sum
        assert value.item() == pytest.approx(merge(p.metrics[name].item() for p in parts)), name


@pytest.mark.parametrize("objective", RLMEC)
def test_half_precision_log_probs_are_summed_in_float32(objective):
    tokens = batch(PI, OLD, REWARDS, weights=[1.0] * 3, dtype=torch.bfloat16)
    sums = objective(tokens)
    assert sums.policy.dtype == sums.imitation.dtype == torch.float32


@pytest.mark.parametrize("settings", [{"epsilon": -0.1}, {"epsilon": 1.5}, {"epsilon_high": -0.1}])
def test_a_clip_range_that_is_none_is_refused(settings):
    with pytest.raises(ValueError, match="epsilon"):
        rlmec_clipped(batch(PI, OLD, REWARDS), **settings)


def test_a_batch_of_unlike_shapes_is_refused():
    with pytest.raises(ValueError, match=r"logprobs \(3,\), old_logprobs \(2,\)"):
        batch(PI, OLD[:2], REWARDS)
    with pytest.raises(ValueError, match=r"mask is torch.int64, not torch.bool"):
        batch(PI, OLD, REWARDS, mask=[1, 1, 1])


# --- the penalty for leaving the start ---


@pytest.mark.parametrize("objective", [*RLMEC, sequence_ppo, grpo])
def test_kl_to_the_start_by_hand(objective):
    """(2 - 1 - ln 2) + (0.8 - 1 - ln 0.8) + (0.5 - 1 - ln 0.5) = 0.523144 (see the metrics), and
    d/d log pi = rho - 1: 1, -0.2, -0.5."""
    tokens = batch(PI, OLD, REWARDS)
    off, on = objective(tokens), objective(tokens, kl_coef=0.1)
    assert (on.policy - off.policy).item() == pytest.approx(0.0523144, abs=1e-6)
    found = gradient(objective, tokens, kl_coef=0.1) - gradient(objective, tokens)
    assert found.tolist() == pytest.approx([0.1, -0.02, -0.05])


@pytest.mark.parametrize("objective", RLMEC)
def test_a_term_names_the_count_it_is_divided_by(objective):
    tokens = batch(PI, OLD, REWARDS)
    assert objective(tokens).divide_by == "policy"
    assert objective(tokens, per_attempt_token=True).divide_by == "attempt"
    assert objective(tokens, per_attempt_token=True).policy.item() == objective(tokens).policy


# --- sequence rewards ---


def test_sequence_ppo_by_hand():
    """Advantage 1 for the three tokens of an attempt, -1 for the first token of another with
    rho 2; range [0.8, 1.2]. min(rho A, clip(rho) A): 1.2 (clipped), 0.8, 0.5 and -2.
    S = -(1.2 + 0.8 + 0.5 - 2) = -0.5; d/d log pi = -rho A where not clipped: 0, -0.8, -0.5, 2."""
    tokens = batch([*PI, PI[0]], [*OLD, OLD[0]], [1.0, 1.0, 1.0, -1.0], weights=[1.0] * 4)
    sums = sequence_ppo(tokens, epsilon=0.2)
    assert sums.policy.item() == pytest.approx(-0.5, abs=1e-12)
    assert (sums.divide_by, sums.imitation_coef) == ("attempt", 0.0)
    assert gradient(sequence_ppo, tokens).tolist() == pytest.approx([0, -0.8, -0.5, 2], abs=1e-12)


# --- group advantages ---

# Row 0 has the tokens of PI with advantage 1 (rho 2, 0.8, 0.5), row 4 one token with rho 2 and
# advantage -1. In the range [0.8, 1.2], min(rho A, clip(rho) A) is 1.2 (clipped), 0.8, 0.5 and -2.
GROUP = ([*PI, PI[0]], [*OLD, OLD[0]], [1.0, 1.0, 1.0, -1.0])


def test_grpo_per_token_by_hand():
    """S = -(1.2 + 0.8 + 0.5 - 2) = -0.5; d/d log pi = -rho A where not clipped."""
    tokens = batch(*GROUP, weights=[1.0] * 4, row_ids=[0, 0, 0, 4])
    sums = grpo(tokens, epsilon=0.2)
    assert sums.policy.item() == pytest.approx(-0.5, abs=1e-12)
    assert (sums.divide_by, sums.imitation_coef) == ("attempt", 0.0)
    assert gradient(grpo, tokens).tolist() == pytest.approx([0, -0.8, -0.5, 2], abs=1e-12)


def test_grpo_per_sequence_by_hand():
    """The mean of row 0 is 2.5 / 3, that of row 4 is -2: S = -(2.5 / 3 - 2) = 1.1666667, to be
    divided by two rows. d/d log pi is that of the sum, divided by 3 in row 0."""
    tokens = batch(*GROUP, row_ids=[0, 0, 0, 4])
    sums = grpo(tokens, epsilon=0.2, per_sequence_mean=True)
    assert sums.policy.item() == pytest.approx(3.5 / 3, abs=1e-12)
    assert sums.divide_by == "row"
    expected = [0, -0.8 / 3, -0.5 / 3, 2]
    found = gradient(grpo, tokens, per_sequence_mean=True).tolist()
    assert found == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ValueError, match="row_ids are needed"):
        grpo(batch(*GROUP), per_sequence_mean=True)


def test_grpo_with_a_divergence_is_averaged_like_the_surrogate():
    """Per sequence, the terms (rho - 1) - log rho of row 0 add up to 0.523144 (see the metrics) and
    are divided by 3; that of row 4 is 2 - 1 - ln 2 = 0.306853."""
    tokens = batch(*GROUP, row_ids=[0, 0, 0, 4])
    for per_sequence, expected in ((False, 0.0829997), (True, 0.0481234)):
        off = grpo(tokens, per_sequence_mean=per_sequence)
        on = grpo(tokens, per_sequence_mean=per_sequence, kl_coef=0.1)
        assert (on.policy - off.policy).item() == pytest.approx(expected, abs=1e-6)


def test_grpo_has_an_upper_epsilon():
    """Range [0.8, 2.5]: nothing is clipped above. S = -(2 + 0.8 + 0.5 - 2) = -1.3."""
    tokens = batch(*GROUP, row_ids=[0, 0, 0, 4])
    found = grpo(tokens, epsilon=0.2, epsilon_high=1.5)
    assert found.policy.item() == pytest.approx(-1.3, abs=1e-12)


def test_grpo_per_sequence_leaves_out_what_has_no_advantage_whatever_it_holds():
    nan = float("nan")
    junk = ([*GROUP[0], nan], [*GROUP[1], nan], [*GROUP[2], 0.0])
    tokens = batch(*junk, row_ids=[0, 0, 0, 4, 4])
    bare = grpo(batch(*GROUP, row_ids=[0, 0, 0, 4]), per_sequence_mean=True)
    assert grpo(tokens, per_sequence_mean=True).policy.item() == bare.policy.item()
    assert gradient(grpo, tokens, per_sequence_mean=True)[4].item() == 0.0
    empty = batch([], [], [], row_ids=torch.zeros(0, dtype=torch.int64))
    assert grpo(empty, per_sequence_mean=True).policy.item() == 0.0


# --- preferences ---

# Row 0 prefers tokens 1 and 2 to token 3: log rho = ln 2, ln 0.8, ln 0.5, so
#   m = ln 2 + ln 0.8 - ln 0.5 = ln 3.2 = 1.1631508.
# Row 4 prefers nothing to a token with rho 2: m = -ln 2 = -0.6931472.
PAIRS = ([*PI, PI[0]], [*OLD, OLD[0]], [1.0, 1.0, -1.0, -1.0])


def test_dpo_by_hand():
    """beta 0.5: margins 0.5815754 and -0.3465736 (sigmoid 0.6414299 and 0.4142136).
    S = -ln 0.6414299 - ln 0.4142136 = 0.4440554 + 0.8813736 = 1.3254291.
    dS/d log pi_j = -beta (1 - sigmoid) R_j: of row 0 0.5 * 0.3585701 = 0.1792850, of row 4
    0.5 * 0.5857864 = 0.2928932."""
    tokens = batch(*PAIRS, row_ids=[0, 0, 0, 4])
    sums = dpo(tokens, beta=0.5)
    assert sums.policy.item() == pytest.approx(1.3254291, abs=1e-6)
    assert (sums.imitation.item(), sums.divide_by) == (0.0, "row")
    expected = [-0.1792850, -0.1792850, 0.1792850, 0.2928932]
    assert gradient(dpo, tokens, beta=0.5).tolist() == pytest.approx(expected, abs=1e-6)
    metrics = {name: value.item() for name, value in sums.metrics.items()}
    # 0.5815754 - 0.3465736 = 0.2350018
    wanted = {"preference_count": 2, "margin_sum": 0.2350018, "preferred_count": 1}
    assert metrics == pytest.approx(wanted, abs=1e-6)


def test_dpo_by_finite_differences():
    tokens, step = batch(*PAIRS, row_ids=[0, 0, 0, 4]), 1e-6
    found = gradient(dpo, tokens)
    for j in range(4):
        moved = [torch.tensor(PAIRS[0], dtype=torch.float64) for _ in range(2)]
        moved[0][j] += step
        moved[1][j] -= step
        up, down = (dpo(batch(m, *PAIRS[1:], row_ids=[0, 0, 0, 4])).policy.item() for m in moved)
        assert found[j].item() == pytest.approx((up - down) / (2 * step), abs=1e-7)


def test_dpo_at_the_start_is_log_two_a_row_and_adds_up_over_rows():
    tokens = batch(PAIRS[1], PAIRS[1], PAIRS[2], row_ids=[0, 0, 0, 4])
    assert dpo(tokens).policy.item() == pytest.approx(2 * math.log(2))
    one = batch(*(x[:3] for x in PAIRS), row_ids=[7, 7, 7])
    other = batch(*(x[3:] for x in PAIRS), row_ids=[0])
    whole = dpo(batch(*PAIRS, row_ids=[0, 0, 0, 4])).policy.item()
    assert dpo(one).policy.item() + dpo(other).policy.item() == pytest.approx(whole)


def test_dpo_leaves_out_tokens_without_a_sign_whatever_they_hold():
    nan = float("nan")
    tokens = batch([*PAIRS[0], nan], [*PAIRS[1], nan], [*PAIRS[2], 0.0], row_ids=[0, 0, 0, 4, 9])
    bare = dpo(batch(*PAIRS, row_ids=[0, 0, 0, 4]))
    assert dpo(tokens).policy.item() == bare.policy.item()
    assert dpo(tokens).metrics["preference_count"].item() == 2
    assert gradient(dpo, tokens)[4].item() == 0.0
    empty = batch([], [], [], row_ids=torch.zeros(0, dtype=torch.int64))
    assert dpo(empty).policy.item() == 0.0


def test_dpo_refuses_what_it_cannot_use():
    with pytest.raises(ValueError, match="row_ids are needed"):
        dpo(batch(*PAIRS))
    with pytest.raises(ValueError, match="beta is 0"):
        dpo(batch(*PAIRS, row_ids=[0] * 4), beta=0)


def test_dpo_with_a_likelihood_term_is_the_plain_formula():
    """Row 0 has one more token that both completions begin with. The preferred completions are
    tokens 0, 1, 2 of row 0 and token 5 of row 4, so N_w is 4; the divisor of S_RL is 2 rows."""
    draw = np.random.default_rng(0)
    lp, old = -3 * draw.random(7), -3 * draw.random(7)
    signs = [0.0, 1.0, 1.0, -1.0, -1.0, 1.0, -1.0]
    preferred = [1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    tokens = batch(lp, old, signs, weights=preferred, row_ids=[0] * 5 + [4] * 2)
    sums = dpo(tokens, beta=0.3, likelihood_coef=0.7)
    found = sums.policy / 2 + sums.imitation_coef * sums.imitation / 4

    gains = lp - old
    margins = [
        0.3 * (gains[0] + gains[1] + gains[2] - (gains[0] + gains[3] + gains[4])),
        0.3 * (gains[5] - gains[6]),
    ]
    preference = np.mean([math.log1p(math.exp(-margin)) for margin in margins])
    likelihood = -np.mean([lp[0], lp[1], lp[2], lp[5]])
    assert found.item() == pytest.approx(preference + 0.7 * likelihood, abs=1e-12)


def test_dpo_without_a_likelihood_coefficient_is_plain_whatever_the_weights():
    bare = batch(*PAIRS, row_ids=[0, 0, 0, 4])
    weighted = batch(*PAIRS, weights=[1.0, 1.0, 0.0, 0.0], row_ids=[0, 0, 0, 4])
    assert loss(dpo(weighted)).item() == loss(dpo(bare)).item()
    assert gradient(dpo, weighted).tolist() == gradient(dpo, bare).tolist()


def test_dpo_refuses_a_likelihood_term_of_rows_without_weights():
    tokens = batch(*PAIRS, row_ids=[0, 0, 0, 4])
    with pytest.raises(ValueError, match=r"likelihood_coef is 0\.5.*policy\.rows\.likelihood"):
        dpo(tokens, likelihood_coef=0.5)
    empty = batch([], [], [], row_ids=torch.zeros(0, dtype=torch.int64))
    assert dpo(empty, likelihood_coef=0.5).policy.item() == 0.0  # a filler of another rank


def random_rows(count: int, seed: int) -> list[Row]:
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        prompt, n = int(rng.integers(1, 6)), int(rng.integers(1, 20))
        rewards = np.clip(rng.normal(size=n), -0.5, 0.5) * (rng.random(n) < 0.4)
        weights = rng.choice([0.0, 0.5, 1.0], size=n)
        ids = rng.integers(0, 11, size=prompt + n).tolist()
        rows.append(Row.flat(f"row-{i}", ids, prompt, rewards, -rng.random(n) * 3, weights))
    return rows


class Toy(torch.nn.Module):
    """Log-probs of each token from the one before it: an embedding and a linear head, float64."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(5)
        self.table = torch.nn.Parameter(torch.randn(11, 6, generator=g, dtype=torch.float64))
        self.head = torch.nn.Parameter(torch.randn(6, 11, generator=g, dtype=torch.float64))

    def forward(self, batch: dict[str, torch.Tensor]) -> TokenBatch:
        ids = batch["input_ids"].flatten()[batch["sources"]]  # [N]
        scores = (self.table[ids] @ self.head).log_softmax(-1)  # [N, V]
        logprobs = scores.gather(-1, batch["targets"][:, None])[:, 0]  # [N]
        credit = {k: batch[k] for k in ("old_logprobs", "token_rewards", "weights", "row_ids")}
        return TokenBatch(logprobs, **credit, mask=torch.ones_like(logprobs, dtype=torch.bool))


def step_gradients(objective, rows, world: int, accumulate: int) -> list[torch.Tensor]:
    """Gradients of every step as ranks, accumulation and their averages would make them."""
    lengths = [len(r.input_ids) for r in rows]
    plan = StepPlan(lengths, 120, epochs=2, seed=2, world_size=world, accumulate=accumulate)
    out = []
    for step in range(plan.steps):
        mine = [rows[i] for i in plan.rows(step)]
        normalizers, sizes = step_normalizers(mine), step_sizes(mine)
        model, total = Toy(), None
        for rank in range(world):
            model.zero_grad()
            for index in range(accumulate):
                picked = [rows[i] for i in plan.micro_batch(step, rank, index)]
                batch = collate(picked, 0, *normalizers, index=step, sizes=sizes)
                sums = objective(model(batch))
                scaled = sums.policy / batch[f"{sums.divide_by}_normalizer"].double()
                scaled = (
                    scaled
                    + sums.imitation_coef * sums.imitation / batch["imitation_normalizer"].double()
                )
                (
                    accumulate * world * scaled / accumulate
                ).backward()  # the caller's A W over the loop's A
            found = torch.cat([p.grad.flatten() for p in model.parameters()]) / world
            total = found if total is None else total + found
        out.append(total)
    return out


def penalised(tokens):
    return rlmec_clipped(tokens, kl_coef=0.1, per_attempt_token=True)


def grpo_per_sequence(tokens):
    return grpo(tokens, per_sequence_mean=True)


def dpo_likelihood(tokens):
    return dpo(tokens, likelihood_coef=0.5)


CUT = [rlmec_authors, rlmec_clipped, penalised, sequence_ppo, grpo, grpo_per_sequence]


@pytest.mark.parametrize("objective", [*CUT, dpo, dpo_likelihood])
def test_gradients_do_not_depend_on_ranks_and_accumulation(objective):
    rows = random_rows(17, seed=4)
    expected = step_gradients(objective, rows, world=1, accumulate=1)
    assert len(expected) > 3
    assert all(g.abs().max() > 1e-3 for g in expected)
    for world, accumulate in [(1, 3), (2, 1), (2, 3)]:
        found = step_gradients(objective, rows, world, accumulate)
        assert len(found) == len(expected)
        for a, b in zip(expected, found, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
