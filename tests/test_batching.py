"""Rows, padding, and the laws of the step plan."""

import time
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlmec.batching import Row, StepPlan, collate, pad_left, step_normalizers

FIXED = settings(derandomize=True, deadline=None, max_examples=100)


def row(id="r", ids=(1, 2, 3, 4), prompt=2, rewards=(0.5, 0.0), old=(-1.0, -2.0), w=(1.0, 0.5)):
    return Row(id, list(ids), prompt, np.array(rewards), np.array(old), np.array(w))


# --- rows ---


def test_a_row_holds_float32():
    made = row()
    assert [getattr(made, n).dtype for n in ("token_rewards", "old_logprobs", "weights")] == [
        np.float32
    ] * 3


def test_a_likelihood_row_has_weight_one_everywhere():
    made = Row.likelihood("x", [1, 2, 3, 4, 5], 2)
    assert made.weights.tolist() == [1.0] * 3
    assert made.token_rewards.tolist() == made.old_logprobs.tolist() == [0.0] * 3


@pytest.mark.parametrize("name", ["rewards", "old", "w"])
def test_a_row_of_another_length_is_refused_with_both_numbers(name):
    with pytest.raises(ValueError, match=r"row 'r': .* shape \(3,\), the completion has 2 tokens"):
        row(**{name: (0.0, 0.0, 0.0)})


@pytest.mark.parametrize("prompt", [0, 4, 5])
def test_a_row_needs_a_prompt_and_a_completion(prompt):
    with pytest.raises(ValueError, match=rf"row 'r': 4 ids, {prompt} of them prompt"):
        row(prompt=prompt)
    with pytest.raises(ValueError, match=rf"4 ids, {prompt} of them prompt"):
        Row.likelihood("r", [1, 2, 3, 4], prompt)


def test_a_row_refuses_numbers_that_would_reach_the_loss():
    nan = float("nan")
    for bad in ({"rewards": (nan, 0.0)}, {"w": (nan, 0.0)}, {"old": (nan, -1.0)}):
        with pytest.raises(ValueError, match=r"row 'r': .* not finite"):
            row(**bad)
    with pytest.raises(ValueError, match="row 'r': a weight is below 0"):
        row(w=(1.0, -0.5))
    assert np.isnan(row(old=(-1.0, nan)).old_logprobs[1])  # no reward there: never read


def test_normalizers_count_the_step():
    rows = [row(), row(rewards=(-0.1, -0.1), w=(0.0, 0.0)), Row.likelihood("x", [1, 2, 3], 1)]
    assert step_normalizers(rows) == (3.0, 4.0)  # 1 + 2 + 0 and 2 + 0 + 2
    assert step_normalizers([row(rewards=(0.0, 0.0), w=(0.0, 0.0))]) == (1.0, 1.0)
    assert step_normalizers([]) == (1.0, 1.0)


# --- padding ---


def test_collate_by_hand():
    long = Row("l", [5, 6, 7, 8, 9], 3, np.array([-0.1, 0.2]), np.array([-3, -4]), np.ones(2))
    made = collate([row(), long], 0, 3.0, 4.0, index=7)
    assert made["input_ids"].tolist() == [[1, 2, 3, 4, 0], [5, 6, 7, 8, 9]]
    assert made["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1] * 5]
    assert made["completion_mask"].int().tolist() == [[0, 0, 1, 1, 0], [0, 0, 0, 1, 1]]
    assert made["old_logprobs"].tolist() == [[0, 0, -1, -2, 0], [0, 0, 0, -3, -4]]
    assert made["weights"].tolist() == [[0, 0, 1, 0.5, 0], [0, 0, 0, 1, 1]]
    rewards = torch.tensor([[0, 0, 0.5, 0, 0], [0, 0, 0, -0.1, 0.2]])
    assert made["token_rewards"].equal(rewards)
    scalars = ("policy_normalizer", "imitation_normalizer", "index")
    assert [made[name].item() for name in scalars] == [3.0, 4.0, 7]
    types = {name: value.dtype for name, value in made.items()}
    assert types == {
        "input_ids": torch.int64,
        "attention_mask": torch.int64,
        "completion_mask": torch.bool,
        "token_rewards": torch.float32,
        "old_logprobs": torch.float32,
        "weights": torch.float32,
        "policy_normalizer": torch.float32,
        "imitation_normalizer": torch.float32,
        "index": torch.int64,
    }


def test_a_filler_is_attended_to_and_counts_for_nothing():
    made = collate([], 3, 5.0, 6.0, index=2)
    assert made["input_ids"].tolist() == [[3, 3]]
    assert made["attention_mask"].tolist() == [[1, 1]]
    assert not made["completion_mask"].any()
    for name in ("token_rewards", "old_logprobs", "weights"):
        assert made[name].tolist() == [[0.0, 0.0]]
    assert made.keys() == collate([row()], 3, 5.0, 6.0).keys()


def test_a_pad_id_outside_every_vocabulary_is_refused():
    with pytest.raises(ValueError, match="pad_id -1"):
        collate([row()], -1, 1.0, 1.0)


def test_pad_left_by_hand():
    ids, mask = pad_left([[1, 2, 3], [4]], 0)
    assert ids.tolist() == [[1, 2, 3], [0, 0, 4]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert ids.dtype == mask.dtype == torch.int64
    for bad in ([], [[1], []]):
        with pytest.raises(ValueError, match="sequences to pad"):
            pad_left(bad, 0)


# --- the plan ---

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=40)


def micro_batches(plan: StepPlan, step: int) -> list[list[int]]:
    return [
        plan.micro_batch(step, rank, index)
        for rank in range(plan.world_size)
        for index in range(plan.accumulate)
    ]


@FIXED
@given(LENGTHS, st.integers(1, 80), st.integers(1, 6), st.integers(1, 3), st.integers(0, 5))
def test_micro_batches_hold_each_row_of_the_step_once(lengths, tokens, steps, world, seed):
    plan = StepPlan(
        lengths,
        tokens,
        steps=steps,
        seed=seed,
        world_size=world,
        max_tokens_per_micro_batch=max(lengths) + 10,
    )
    assert plan.steps == steps
    for step in range(steps):
        parts = micro_batches(plan, step)
        assert sorted(chain.from_iterable(parts)) == sorted(plan.rows(step))
        for part in parts:
            sizes = [lengths[i] for i in part]
            assert len(sizes) * max(sizes, default=0) <= max(lengths) + 10


@FIXED
@given(LENGTHS, st.integers(1, 80), st.integers(1, 4), st.integers(0, 5))
def test_the_stream_is_whole_epochs_in_order(lengths, tokens, epochs, seed):
    plan = StepPlan(lengths, tokens, epochs=epochs, seed=seed)
    stream = list(chain.from_iterable(plan.rows(s) for s in range(plan.steps)))
    count = len(lengths)
    assert len(stream) == epochs * count
    for e in range(epochs):
        assert sorted(stream[e * count : (e + 1) * count]) == list(range(count))
    for step in range(plan.steps):
        sizes = [lengths[i] for i in plan.rows(step)]
        assert sum(sizes[:-1]) < tokens  # the last row is the one that reaches the goal
        assert sum(sizes) >= tokens or step == plan.steps - 1
    assert plan.epoch_at(0) == 0.0
    assert plan.epoch_at(plan.steps) == epochs


@FIXED
@given(LENGTHS, st.integers(20, 80), st.integers(1, 3), st.integers(1, 4))
def test_the_rows_of_a_step_do_not_depend_on_how_it_is_cut(lengths, tokens, world, accumulate):
    one = StepPlan(lengths, tokens, steps=3, seed=1)
    cut = StepPlan(lengths, tokens, steps=3, seed=1, world_size=world, accumulate=accumulate)
    assert [one.rows(s) for s in range(3)] == [cut.rows(s) for s in range(3)]
    assert cut.accumulate == accumulate


@FIXED
@given(LENGTHS, st.integers(20, 120), st.integers(1, 3))
def test_the_number_of_micro_batches_is_the_smallest_that_fits(lengths, tokens, world):
    limit = max(lengths) + 7
    options = {"steps": 3, "seed": 1, "world_size": world, "max_tokens_per_micro_batch": limit}
    plan = StepPlan(lengths, tokens, **options)
    assert StepPlan(lengths, tokens, **options, accumulate=plan.accumulate + 1).accumulate
    if plan.accumulate > 1:
        with pytest.raises(ValueError, match=f"but {plan.accumulate} micro-batches a rank"):
            StepPlan(lengths, tokens, **options, accumulate=plan.accumulate - 1)


def test_a_small_plan_by_hand():
    # One step of lengths 9 8 3 2. In two groups the least largest size is 18: {9, 8} and {3, 2},
    # 24 processed tokens. In four it is 9: {9} {8} {3, 2}; rank 0 takes 9, rank 1 takes 8, and 6
    # goes to rank 1, which has less work.
    lengths = [3, 9, 2, 8]
    plan = StepPlan(lengths, 22, epochs=1, accumulate=2)
    assert (plan.steps, micro_batches(plan, 0)) == (1, [[1, 3], [0, 2]])
    assert plan.padding_share() == pytest.approx(1 - 22 / 24)
    ranks = StepPlan(lengths, 22, epochs=1, world_size=2, accumulate=2)
    assert micro_batches(ranks, 0) == [[1], [], [3], [0, 2]]


def test_the_plan_is_a_pure_function_and_its_digest_says_so():
    lengths = np.random.default_rng(0).integers(5, 60, size=50)
    options = {"steps": 7, "seed": 3, "world_size": 2, "max_tokens_per_micro_batch": 128}
    plan, again = StepPlan(lengths, 400, **options), StepPlan(list(lengths), 400, **options)
    assert plan.digest == again.digest
    # asked in another order, the answers are the same
    backwards = {s: micro_batches(again, s) for s in reversed(range(7))}
    assert {s: micro_batches(plan, s) for s in range(7)} == backwards
    assert StepPlan(lengths, 400, **{**options, "steps": 8}).digest != plan.digest


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4},
        {"world_size": 2},
        {"accumulate": 3},
        {"epochs": 2},
        {"lengths": [11] * 8},  # the same stream, the same cuts
        {"tokens_per_step": 30},
    ],
)
def test_the_digest_covers_everything_that_defines_the_plan(change):
    options = {"lengths": [10] * 8, "tokens_per_step": 20, "epochs": 1, "seed": 3, "accumulate": 2}
    assert StepPlan(**options).digest != StepPlan(**{**options, **change}).digest


def test_the_digest_covers_the_cuts():
    # 8 rows of 10 tokens: 5 + 3 rows against 6 + 2, two steps of one stream in both plans.
    assert StepPlan([10] * 8, 50, epochs=1).digest != StepPlan([10] * 8, 60, epochs=1).digest


def test_every_epoch_has_its_own_order():
    plan = StepPlan([10] * 30, 300, epochs=3, seed=1)
    assert len({tuple(plan.rows(step)) for step in range(3)}) == 3


def test_accumulation_is_shared_by_the_ranks():
    # 5 rows of 10 tokens and at most 10 tokens a micro-batch: 5 on one rank, 3 on each of two.
    options = {"epochs": 1, "max_tokens_per_micro_batch": 10}
    assert StepPlan([10] * 5, 50, **options).accumulate == 5
    assert StepPlan([10] * 5, 50, **options, world_size=2).accumulate == 3


def test_no_rank_is_dealt_more_than_its_micro_batches(monkeypatch):
    # 9 against 1 + 1 + 1: the least work alone would give rank 1 three groups, one too many.
    plan = StepPlan([9, 1, 1, 1], 12, epochs=1, world_size=2, accumulate=2)
    groups = [np.array([i]) for i in range(4)]
    monkeypatch.setattr(plan, "_groups", lambda step: groups)
    assert micro_batches(plan, 0) == [[0], [3], [1], [2]]


def test_a_longer_plan_begins_like_a_shorter_one():
    lengths = np.random.default_rng(0).integers(5, 60, size=50)
    short, long = StepPlan(lengths, 300, steps=5), StepPlan(lengths, 300, steps=50)
    assert [short.rows(s) for s in range(5)] == [long.rows(s) for s in range(5)]
    assert long.epoch_at(50) > 1


def test_a_part_of_an_epoch():
    plan = StepPlan([10] * 8, 20, epochs=0.5)
    assert (plan.steps, plan.epoch_at(plan.steps)) == (2, 0.5)


def test_ranks_are_balanced_and_padding_is_low():
    lengths = np.random.default_rng(0).lognormal(5, 0.5, size=2000).astype(int) + 20
    options = {"steps": 20, "world_size": 4, "max_tokens_per_micro_batch": 4096}
    plan = StepPlan(lengths, 32768, **options)
    shares = []
    for step in range(plan.steps):
        parts = micro_batches(plan, step)
        costs = [len(m) * max(lengths[m]) if m else 0 for m in parts]
        work = np.reshape(costs, (4, plan.accumulate)).sum(axis=1)
        shares.append(work.max() / work.mean())
    assert np.mean(shares) < 1.1
    assert plan.padding_share() < 0.1


def test_a_hundred_thousand_rows_are_planned_fast():
    lengths = np.random.default_rng(0).integers(50, 400, size=100_000)
    start = time.perf_counter()
    options = {"steps": 10_000, "world_size": 8, "max_tokens_per_micro_batch": 8192}
    plan = StepPlan(lengths, 16384, **options)
    assert time.perf_counter() - start < 10.0  # about 0.3 s on an idle core
    assert plan.steps == 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "steps is None, epochs is None"),
        ({"steps": 2, "epochs": 1}, "steps is 2, epochs is 1"),
        ({"steps": 0}, "steps is 0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"steps": 1, "world_size": 0}, "world_size is 0"),
        ({"steps": 1, "accumulate": 0}, "accumulate is 0"),
        ({"steps": 1, "tokens_per_step": 0}, "tokens_per_step is 0"),
        ({"steps": 1, "lengths": []}, "0 rows to plan"),
        ({"steps": 1, "lengths": [3, 0]}, "2 rows to plan"),
        (
            {"steps": 3, "max_tokens_per_micro_batch": 8},
            "row 1 has 9 tokens, max_tokens_per_micro_batch is 8",
        ),
    ],
)
def test_a_plan_refuses_what_it_cannot_keep(arguments, message):
    with pytest.raises(ValueError, match=message):
        StepPlan(**{"lengths": [5, 9, 3], "tokens_per_step": 20, **arguments})


def test_a_plan_ends():
    plan = StepPlan([5, 9, 3], 20, steps=2)
    with pytest.raises(IndexError, match="step 2 of a plan with 2"):
        plan.rows(2)
    with pytest.raises(IndexError, match="rank 1 of 1, micro-batch 0 of 1"):
        plan.micro_batch(0, 1, 0)
