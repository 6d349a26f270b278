"""Optimizer steps under a real Trainer: the same however they are cut; the check of the ratio."""

import csv
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from paper_objective import rlmec_clipped
from small_fits import SGD, credited_rows, data_of, fitted, module_of, run_of, weights_of
from small_models import network
from transformers import get_cosine_schedule_with_warmup

from rlmec.data.prefix_tree import merge, trim
from rlmec.data.row import Row
from rlmec.lm.logprobs import TokenScorer, score_rows
from rlmec.method.objectives import (
    dpo,
    rlmec_authors,
    sequence_ppo,
    weighted_likelihood,
)
from rlmec.training.reward_model_module import RewardModelModule

DOCS = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
EPSILON = 0.3


@pytest.fixture(scope="module")
def rows():
    return credited_rows(network(seed=1))


def written_out(net, rows, plan, authors, lr=0.5):
    """The same training as a plain loop, row by row, from logits and the formulas of method.md."""
    optimizer = torch.optim.SGD(net.parameters(), lr)
    losses = []
    for step in range(plan.steps):
        mine = [rows[i] for i in plan.rows(step)]
        n_r = max(sum(int((row.token_rewards != 0).sum()) for row in mine), 1)
        n_w = max(sum(int((row.weights != 0).sum()) for row in mine), 1)
        loss = torch.zeros(())
        for row in mine:
            ids = torch.tensor(row.input_ids)
            all_ = net(ids[None]).logits[0].log_softmax(-1)  # [T, V]
            own = all_[row.prompt_length - 1 : -1].gather(1, ids[row.prompt_length :, None])[:, 0]
            reward = torch.from_numpy(row.token_rewards)
            ratio = (own - torch.from_numpy(row.old_logprobs)).exp()
            term = torch.minimum(ratio * reward, ratio.clamp(1 - EPSILON, 1 + EPSILON) * reward)
            policy = term.detach() * own if authors else term
            loss = loss - policy.sum() / n_r - (torch.from_numpy(row.weights) * own).sum() / n_w
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("form", ["clipped", "authors"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_step_is_the_same_however_it_is_cut(form, accumulate, rows, tmp_path):
    objective = {"clipped": rlmec_clipped, "authors": rlmec_authors}[form]
    data = data_of(rows, accumulate=accumulate)
    if accumulate > 1:  # some micro-batches are ragged, and all rows are there
        assert {len(data.plan.micro_batch(0, 0, i)) for i in range(3)} != {1}
    module, _ = fitted(tmp_path, network(seed=1), data, objective=objective, ratio_tolerance=1e-4)
    plain = network(seed=1)
    before = {name: p.detach().clone() for name, p in plain.named_parameters()}
    losses = written_out(plain, rows, data.plan, form == "authors")
    assert module.trainer.global_step == 3
    assert float(module.trainer.callback_metrics["train/loss"]) == pytest.approx(losses[-1], 1e-4)
    for name, value in plain.named_parameters():
        torch.testing.assert_close(weights_of(module)[name], value.detach(), rtol=0, atol=1e-6)
        assert not torch.allclose(before[name], value.detach(), rtol=0, atol=1e-5), name


def test_without_any_reward_the_policy_term_is_zero_and_gradients_are_finite(rows, tmp_path):
    """All rewards and weights 0, old log-probs junk: loss 0, and the network stays as it is."""
    junk = [
        replace(
            row,
            token_rewards=0 * row.weights,
            old_logprobs=-np.inf + row.weights,
            weights=0 * row.weights,
        )
        for row in rows
    ]
    module, _ = fitted(tmp_path, network(seed=1), data_of(junk, accumulate=3), ratio_tolerance=1e-4)
    assert float(module.trainer.callback_metrics["train/loss"]) == 0.0
    for name, value in network(seed=1).named_parameters():
        assert torch.equal(weights_of(module)[name], value.detach())


def test_without_any_reward_the_imitation_term_goes_on(rows, tmp_path):
    """RLMEC on rows without rewards is weighted likelihood, bit for bit."""
    plain = [replace(row, token_rewards=0 * row.weights) for row in rows]
    made = [
        fitted(tmp_path / name, network(seed=1), data_of(plain), objective=objective)[0]
        for name, objective in (("rlmec", rlmec_clipped), ("likelihood", weighted_likelihood))
    ]
    one, other = (weights_of(module) for module in made)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], network(seed=1).lm_head.weight)


# --- objectives that divide by another count ---


def sequence_logprob(net, row):
    """log pi of a flat row's completion tokens, from plain logits."""
    ids = torch.tensor(row.input_ids)
    all_ = net(ids[None]).logits[0].log_softmax(-1)  # [T, V]
    return all_[row.prompt_length - 1 : -1].gather(1, ids[row.prompt_length :, None])[:, 0]


def preferences(net, count=12, seed=3):
    """Rows of two sequences with a common prompt and first token, and the pairs they come from."""
    draw = np.random.default_rng(seed)
    rows, pairs = [], []
    for i in range(count):
        head = draw.integers(2, 200, draw.integers(2, 6)).tolist()
        tails = [
            [7, first, *draw.integers(2, 200, draw.integers(1, 9)).tolist()] for first in (8, 9)
        ]
        flat = [Row.likelihood(f"{i}", [*head, *tail], len(head)) for tail in tails]
        old = score_rows(TokenScorer(net), flat, 0)
        signed = [
            replace(
                row,
                token_rewards=np.array([0, *[sign] * (len(o) - 1)]),
                old_logprobs=np.array(o),
                weights=0 * row.weights,
            )
            for row, o, sign in zip(flat, old, (1.0, -1.0), strict=True)
        ]
        rows.append(replace(trim(merge(f"{i}", signed)), whole=True))
        pairs.append(flat)
    return rows, pairs


@pytest.mark.parametrize("accumulate", [1, 3])
def test_dpo_on_trees_is_dpo_on_whole_sequences(accumulate, tmp_path):
    """The formula over whole completions, their common tokens included, as a plain loop."""
    rows, pairs = preferences(network(seed=1))
    data = data_of(rows, accumulate=accumulate)
    module, _ = fitted(
        tmp_path,
        network(seed=1),
        data,
        objective=partial(dpo, beta=0.3),
        ratio_tolerance=1e-4,
        run=run_of(logs=tmp_path / "logs"),
    )
    plain, start = network(seed=1), network(seed=1)
    optimizer, losses = torch.optim.SGD(plain.parameters(), 0.5), []
    for step in range(data.plan.steps):
        mine = [pairs[i] for i in data.plan.rows(step)]
        assert len(mine) >= 3
        margins = []
        for preferred, rejected in mine:
            gains = [
                (sequence_logprob(plain, row) - sequence_logprob(start, row).detach()).sum()
                for row in (preferred, rejected)
            ]
            margins.append(0.3 * (gains[0] - gains[1]))
        loss = -torch.nn.functional.logsigmoid(torch.stack(margins)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    found = module.trainer.callback_metrics
    assert losses[0] == pytest.approx(np.log(2), abs=1e-5)
    assert float(found["train/policy_loss"]) == pytest.approx(losses[-1], 1e-4)
    share = sum(float(m.detach()) > 0 for m in margins) / len(margins)
    assert float(found["train/dpo/accuracy"]) == pytest.approx(share)
    mean = float(torch.stack(margins).mean().detach())
    assert float(found["train/dpo/margin"]) == pytest.approx(mean, rel=1e-3)
    for name, value in plain.named_parameters():
        torch.testing.assert_close(weights_of(module)[name], value.detach(), rtol=0, atol=2e-6)
    table = DOCS.read_text().split("## Preferences")[1].split("\n## ")[0]
    documented = set(re.findall(r"`(train/[\w/]+)`", table))
    assert documented == {"train/dpo/margin", "train/dpo/accuracy"}
    always = {"loss", "policy_loss", "imitation_loss", "tokens", "padding_share"}
    always |= {"learning_rate", "tokens_per_second"}
    assert set(logged(tmp_path / "logs")) == documented | {f"train/{name}" for name in always}


@pytest.mark.parametrize(
    "objective", [sequence_ppo, partial(rlmec_clipped, kl_coef=0.2, per_attempt_token=True)]
)
def test_a_loss_over_all_attempt_tokens_does_not_depend_on_the_cut(objective, rows, tmp_path):
    made = [
        fitted(tmp_path / f"{a}", network(seed=1), data_of(rows, accumulate=a), objective=objective)
        for a in (1, 3)
    ]
    one, other = (weights_of(module) for module, _ in made)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=1e-6)
    data = data_of(rows, steps=1)
    module, _ = fitted(tmp_path / "first", network(seed=1), data, objective=objective)
    mine = [rows[i] for i in data.plan.rows(0)]
    total = sum(float(row.token_rewards.sum()) for row in mine)
    count = sum(row.weights.size for row in mine)
    found = float(module.trainer.callback_metrics["train/policy_loss"])
    assert found == pytest.approx(-total / count, abs=1e-5)


# --- the ratio at step 0 ---


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("dropout", [False, True])
def test_scores_of_the_same_weights_pass_the_check(kind, dropout, tmp_path):
    net = network(kind, seed=1, dropout=dropout)
    data = data_of(credited_rows(net), steps=1, accumulate=3)
    module, _ = fitted(tmp_path, net, data, ratio_tolerance=1e-4)
    assert module.trainer.global_step == 1


@pytest.mark.parametrize("dropout", [False, True])
def test_scores_of_other_weights_are_refused_with_the_cause(dropout, rows, tmp_path):
    other = network(seed=2, dropout=dropout)
    with pytest.raises(RuntimeError, match=r"The scores were made with other weights.*stage=score"):
        fitted(tmp_path, other, data_of(rows), ratio_tolerance=1e-4)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("factor", [1.01, 0.99])
def test_one_old_logprob_off_by_a_hundredth_is_found_in_any_micro_batch(
    factor, accumulate, rows, tmp_path
):
    data = data_of(rows, accumulate=accumulate)
    of_the_step = [i for i in data.plan.rows(0) if rows[i].token_rewards.any()]
    for which in (of_the_step[0], of_the_step[-1]):
        changed = list(rows)
        old = rows[which].old_logprobs.copy()
        at = int(np.flatnonzero(rows[which].token_rewards)[-1])
        old[at] *= factor
        changed[which] = replace(rows[which], old_logprobs=old)
        off = abs(float(rows[which].old_logprobs[at] - old[at]))
        assert off > 0.01
        with pytest.raises(RuntimeError, match="step 0") as raised:
            fitted(
                tmp_path,
                network(seed=1),
                data_of(changed, accumulate=accumulate),
                ratio_tolerance=1e-4,
            )
        told = re.search(r"max (\S+) \(at most 5e-03\)", str(raised.value))
        assert told is not None
        assert float(told[1]) == pytest.approx(off, rel=0.02)


def test_an_old_logprob_without_a_reward_is_not_looked_at(rows, tmp_path):
    changed = [
        replace(row, old_logprobs=np.where(row.token_rewards == 0, np.nan, row.old_logprobs))
        for row in rows
    ]
    module, _ = fitted(tmp_path, network(seed=1), data_of(changed), ratio_tolerance=1e-4)
    assert module.trainer.global_step == module.steps


def test_later_steps_are_free_to_differ(rows, tmp_path):
    module, _ = fitted(tmp_path, network(seed=1), data_of(rows), ratio_tolerance=1e-4)
    assert abs(float(module.trainer.callback_metrics["train/ratio/mean"]) - 1) > 1e-3


@pytest.mark.parametrize(
    ("shift", "share", "refused"),
    [
        (9e-3, 1.0, False),  # every token within the bound of the mean
        (2e-2, 1.0, True),
        (8e-2, 0.05, False),  # few tokens far off: within 99 %, and the mean stays small
        (2e-1, 0.04, True),  # too far for the quantile
    ],
)
def test_the_error_is_judged_by_its_mean_and_its_quantile(shift, share, refused, rows, tmp_path):
    """Hand-worked with the tolerance 0.01: mean at most 0.01, 99 % at most 0.1."""
    rng = np.random.default_rng(0)
    changed = [
        replace(
            row,
            old_logprobs=row.old_logprobs + shift * (rng.random(len(row.old_logprobs)) < share),
        )
        for row in rows
    ]
    data = data_of(changed, steps=1, accumulate=3)
    if refused:
        with pytest.raises(RuntimeError, match="step 0"):
            fitted(tmp_path, network(seed=1), data, ratio_tolerance=1e-2)
    else:
        module, _ = fitted(tmp_path, network(seed=1), data, ratio_tolerance=1e-2)
        assert module.ratio_error["mean"] == pytest.approx(shift * share, rel=0.5)


def test_without_a_tolerance_nothing_is_checked(rows, tmp_path):
    module, _ = fitted(tmp_path, network(seed=2), data_of(rows, steps=1))
    assert module.trainer.global_step == 1


def test_rounded_rewards_are_refused(rows):
    """Precision bf16-true casts every float of a batch: a ratio off by up to 0.4 %."""
    data = data_of(rows)
    batch = next(iter(data.train_dataloader()))
    rounded = {k: v.bfloat16() if v.is_floating_point() else v for k, v in batch.items()}
    with pytest.raises(TypeError, match=r"came as torch.bfloat16.*bf16-mixed"):
        module_of(network(), data).token_batch(rounded)


# --- what is logged ---


def logged(folder):
    (path,) = folder.rglob("metrics.csv")
    lines = list(csv.DictReader(path.read_text().splitlines()))
    return {
        name: {int(line["step"]): float(line[name]) for line in lines if line[name]}
        for name in lines[0]
        if name != "step"
    }


def test_the_logged_names_are_those_of_the_documentation(rows, tmp_path):
    table = DOCS.read_text().split("## Training: `train/...`")[1].split("\n## ")[0]
    documented = set(re.findall(r"`(train/[\w/]+)`", table))
    assert len(documented) == 13
    fitted(tmp_path / "fit", network(seed=1), data_of(rows), run=run_of(logs=tmp_path / "logs"))
    assert set(logged(tmp_path / "logs")) == documented


def test_figures_stand_at_their_own_step_the_last_one_too(rows, tmp_path):
    """Five steps, logged every two: 2, 4 and the last. The rates fall by a tenth a step."""
    falling = partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda step: 1 - step / 10)
    data = data_of(rows, steps=5, accumulate=3)
    run = run_of(logs=tmp_path / "logs", log_every=2)
    fitted(tmp_path / "fit", network(seed=1), data, run=run, scheduler=falling)
    found = logged(tmp_path / "logs")
    assert all(sorted(values) == [2, 4, 5] for values in found.values())
    assert list(found["train/learning_rate"].values()) == pytest.approx([0.45, 0.35, 0.3])
    for step in (2, 4, 5):
        sizes = [len(rows[i].input_ids) for i in data.plan.rows(step - 1)]
        assert found["train/tokens"][step] == sum(sizes)
        groups = [data.plan.micro_batch(step - 1, 0, i) for i in range(3)]
        run_over = sum(len(g) * max(len(rows[i].input_ids) for i in g) for g in groups)
        assert found["train/padding_share"][step] == pytest.approx(1 - sum(sizes) / run_over)


def test_the_figures_of_the_first_step(rows, tmp_path):
    data = data_of(rows, steps=1, accumulate=3)
    fitted(tmp_path / "fit", network(seed=1), data, run=run_of(logs=tmp_path / "logs"))
    found = {name: values[1] for name, values in logged(tmp_path / "logs").items()}
    mine = [rows[i] for i in data.plan.rows(0)]
    rewards = np.concatenate([row.token_rewards for row in mine])
    rewards = rewards[rewards != 0]
    nll = sum(float((row.weights * -row.old_logprobs).sum()) for row in mine)
    weighted = sum(int((row.weights != 0).sum()) for row in mine)
    assert found["train/ratio/mean"] == pytest.approx(1, abs=1e-5)
    assert found["train/ratio/max"] == pytest.approx(1, abs=1e-4)
    assert found["train/approx_kl"] == pytest.approx(0, abs=1e-8)
    assert found["train/clip_ratio/high_mean"] == found["train/clip_ratio/low_mean"] == 0
    assert found["train/rewards/token/mean"] == pytest.approx(rewards.mean())
    assert found["train/policy_loss"] == pytest.approx(-rewards.mean(), abs=1e-5)
    assert found["train/imitation_loss"] == pytest.approx(nll / weighted, rel=1e-5)
    total = found["train/policy_loss"] + found["train/imitation_loss"]
    assert found["train/loss"] == pytest.approx(total)


def test_without_rewards_the_figures_of_the_policy_term_are_left_out(rows, tmp_path):
    plain = [replace(row, token_rewards=0 * row.weights) for row in rows]
    run = run_of(logs=tmp_path / "logs")
    fitted(tmp_path / "fit", network(seed=1), data_of(plain, steps=1), run=run)
    names = {name.removeprefix("train/") for name in logged(tmp_path / "logs")}
    always = {"loss", "imitation_loss", "tokens", "padding_share", "learning_rate"}
    assert names == always | {"tokens_per_second"}


# --- construction ---


def test_optimizer_and_scheduler_get_the_counts_of_the_fit(rows):
    """200 steps, 3 % of them warm-up: the rate rises for 6 steps, and is 0 after 200."""
    data = data_of(rows, steps=200)
    module = module_of(network(), data, scheduler=get_cosine_schedule_with_warmup)
    made = module.configure_optimizers()
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
    assert made["lr_scheduler"]["interval"] == "step"
    rates = []
    for _ in range(200):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[:8] == pytest.approx([0, 1 / 12, 2 / 12, 3 / 12, 4 / 12, 5 / 12, 0.5, 0.5], 1e-3)
    assert 0 < rates[-1] < 1e-3
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("optimizer", "fused"),
    [
        (partial(torch.optim.AdamW, lr=0.1), True),
        (partial(torch.optim.AdamW, lr=0.1, fused=False), False),
        (partial(torch.optim.Rprop, lr=0.1), None),
    ],
)
def test_an_optimizer_is_fused_if_it_can_be(rows, optimizer, fused):
    module = module_of(network(), data_of(rows), optimizer=optimizer)
    assert module.configure_optimizers()["optimizer"].defaults.get("fused") is fused


def test_parts_of_a_schedule_are_those_of_one_over_all(rows, recwarn):
    """Three fits of 10 steps with the rates of one of 30."""

    def rates(steps, **changes):
        data = data_of(rows, steps=steps)
        module = module_of(network(), data, scheduler=get_cosine_schedule_with_warmup, **changes)
        made = module.configure_optimizers()
        optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
        found = []
        for _ in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return found

    parts = [rate for part in (1, 2, 3) for rate in rates(10, schedule=(part, 3))]
    assert parts == pytest.approx(rates(30))
    assert parts[10] != parts[0]
    assert not [w for w in recwarn if "lr_scheduler" in str(w.message)]


def test_only_parameters_that_learn_are_optimized(rows):
    net = network()
    net.get_input_embeddings().requires_grad_(False)
    optimizer = module_of(net, data_of(rows)).configure_optimizers()["optimizer"]
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in net.parameters()} - {id(net.get_input_embeddings().weight)}


def test_a_loaded_network_is_put_into_training_mode(rows):
    net = network(dropout=True).eval()
    module = module_of(net, data_of(rows))
    assert all(m.training for m in module.net.modules())


@pytest.mark.parametrize("missing", ["optimizer", "scheduler", "objective"])
def test_a_module_for_prediction_does_not_train(missing, rows, tmp_path):
    with pytest.raises(ValueError, match="this module was made for prediction"):
        fitted(tmp_path, network(), data_of(rows), **{missing: None})


def test_both_modules_train_alike(rows, tmp_path):
    """The GRM's module on the same rows and objective ends with the same weights."""
    from small_fits import CONSTANT, fit_settings

    from rlmec.pipeline.fit import fit

    data = data_of(rows)
    grm = RewardModelModule(
        network(seed=1),
        pad_id=0,
        end_ids=(1,),
        objective=weighted_likelihood,
        optimizer=SGD,
        scheduler=CONSTANT,
        steps=3,
    )
    fit(run_of(), "grm", fit_settings(), tmp_path / "grm", grm, data, None)
    policy, _ = fitted(
        tmp_path / "policy", network(seed=1), data_of(rows), objective=weighted_likelihood
    )
    one, other = weights_of(grm), weights_of(policy)
    assert all(torch.equal(one[name], other[name]) for name in one)
