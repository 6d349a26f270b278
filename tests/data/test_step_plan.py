"""The laws of the step plan."""

import time
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlmec.data.step_plan import MOST_EXTRA, PASS_SHARE, StepPlan

FIXED = settings(derandomize=True, deadline=None, max_examples=100)


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


def fewest_groups(plan, lengths, limit):
    """Of every step: the fewest runs of its rows, longest first, with rows * longest <= limit."""
    for step in range(plan.steps):
        count = room = 0
        for length in sorted((lengths[i] for i in plan.rows(step)), reverse=True):
            if room == 0:
                count, room = count + 1, limit // length
            room -= 1
        yield count


@FIXED
@given(LENGTHS, st.integers(20, 120), st.integers(1, 3))
def test_micro_batches_fit_and_more_of_them_are_taken_only_to_waste_less(lengths, tokens, world):
    limit = max(lengths) + 7
    options = {"steps": 3, "seed": 1, "world_size": world, "max_tokens_per_micro_batch": limit}
    plan = StepPlan(lengths, tokens, **options)
    needed = -(-max(fewest_groups(plan, lengths, limit)) // world)
    least = StepPlan(lengths, tokens, **options, accumulate=needed)
    if needed > 1:
        with pytest.raises(ValueError, match=f"but {needed} micro-batches"):
            StepPlan(lengths, tokens, **options, accumulate=needed - 1)
    assert plan.accumulate - least.accumulate <= MOST_EXTRA
    assert cost(plan, limit) <= cost(least, limit) * (1 + 1e-9)


def cost(plan: StepPlan, limit: int) -> float:
    """Padded tokens of a rank and step in the mean, and what its passes cost besides."""
    tokens = sum(plan._lengths[plan._stream]) / plan.steps / plan.world_size
    return tokens / (1 - plan.padding_share()) + plan.accumulate * limit * PASS_SHARE


def test_a_step_with_one_badly_filled_micro_batch_is_cut_further():
    # Lengths 9 and 3 in one micro-batch process 18 tokens for 12; in two, 12 for 12, and a pass
    # more, which counts 3.
    plan = StepPlan([9, 3], 12, epochs=1, max_tokens_per_micro_batch=24)
    assert (plan.accumulate, plan.padding_share()) == (2, 0.0)
    assert StepPlan([9, 9], 18, epochs=1, max_tokens_per_micro_batch=24).accumulate == 1


def test_a_step_is_not_cut_where_a_pass_costs_more_than_its_padding():
    # A pass more counts 7 and saves 6.
    plan = StepPlan([9, 3], 100, epochs=1, max_tokens_per_micro_batch=56)
    assert plan.accumulate == 1
    assert plan.padding_share() == pytest.approx(1 / 3)


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


def test_counts_cut_the_steps_and_lengths_the_micro_batches():
    """Rows of 10 that count for 30 and 10: the same stream, steps of 60 by what they count for."""
    counts = [30, 10] * 4
    plan = StepPlan([10] * 8, 60, epochs=1, counts=counts, max_tokens_per_micro_batch=20)
    for step in range(plan.steps):
        mine = [counts[i] for i in plan.rows(step)]
        assert sum(mine[:-1]) < 60
        assert sum(mine) >= 60 or step == plan.steps - 1
        assert all(len(part) <= 2 for part in micro_batches(plan, step))
    plain = StepPlan([10] * 8, 60, epochs=1)
    streams = [[i for s in range(p.steps) for i in p.rows(s)] for p in (plan, plain)]
    assert streams[0] == streams[1]
    with pytest.raises(ValueError, match="7 counts of 8 rows"):
        StepPlan([10] * 8, 60, epochs=1, counts=counts[:7])


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
    monkeypatch.setattr(plan, "_groups", lambda step, accumulate: groups)
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
    start = time.process_time()
    options = {"steps": 10_000, "world_size": 8, "max_tokens_per_micro_batch": 8192}
    plan = StepPlan(lengths, 16384, **options)
    assert time.process_time() - start < 10.0  # about 0.3 s on an idle core
    assert plan.steps == 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "steps is None and epochs is None"),
        ({"steps": 2, "epochs": 1}, "steps is 2 and epochs is 1"),
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
