"""How full the batches of a planned epoch are, and how evenly several ranks are loaded."""

from __future__ import annotations

import numpy as np

from benchmarks.authors import BATCH
from benchmarks.batches import LONGEST, planned
from benchmarks.bench import Bench
from benchmarks.credit import credited_pairs
from benchmarks.measurement import Result, at_least, at_most
from rlmec.data.step_plan import StepPlan


def plan(
    bench: Bench,
    *,
    ranks: int,
    sequences_per_step: int,
    tokens_per_micro_batch: int,
    epochs: float,
    fill_bound: float,
    imbalance_bound: float,
) -> list[Result]:
    """Three lines over all pairs there are: real / processed tokens of packed rows planned for
    `ranks`; the busiest rank's padded tokens over the mean of a step; processed tokens a pair.

    The baseline shuffles and pads batches of four to their longest row; for balance its ranks take
    batches in turn. Pure arithmetic: nothing is run.
    """
    samples = bench.samples.all
    pairs = credited_pairs(samples, None, punished_removed=0.8, punished_kept=0.05, seed=bench.seed)
    rows = planned(pairs, LONGEST).rows
    lengths = [len(row.input_ids) for row in rows]
    counts = [row.tokens for row in rows]
    made = StepPlan(
        lengths,
        round(sequences_per_step * float(np.mean(counts))),
        epochs=epochs,
        seed=bench.seed,
        world_size=ranks,
        max_tokens_per_micro_batch=tokens_per_micro_batch,
        counts=counts,
    )
    real, loads = _loads(made, lengths)
    full = [  # the last step of a plan may fall short
        s for s in range(made.steps) if len(made.rows(s)) >= sequences_per_step // 2
    ]
    ours = np.array([real.sum() / loads.sum(), _imbalance(loads[full])])
    plain = [(p.attempt.prompt_ids + p.attempt.completion_ids) for p in pairs]
    plain += [(p.attempt.prompt_ids + p.target_ids) for p in pairs]
    theirs = _shuffled([len(row) for row in plain], ranks, sequences_per_step, bench.seed)
    case = f"{ranks} ranks, {sequences_per_step} pairs a step"
    fill, even = float(ours[0]), float(ours[1])
    each = float(loads.sum()) / (epochs * len(pairs)), theirs[2] / len(pairs)
    return [
        Result(
            *("plan", f"real/processed tokens, {case}", "", theirs[0], fill, [fill / theirs[0]]),
            promises=(at_least(fill_bound, fill),),
            note="plan: the ratio of the first line is ours over the baseline's",
        ),
        Result(
            *("plan", "busiest rank / mean", "", theirs[1], even, [theirs[1] / even]),
            promises=(at_most(imbalance_bound, even),),
        ),
        Result("plan", "processed tokens a pair", "tokens", each[1], each[0], [each[1] / each[0]]),
    ]


def _loads(made: StepPlan, lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Real tokens of every step, and padded tokens of every step and rank."""
    real = np.zeros(made.steps)
    loads = np.zeros((made.steps, made.world_size))
    for step in range(made.steps):
        for rank in range(made.world_size):
            for index in range(made.accumulate):
                sizes = [lengths[i] for i in made.micro_batch(step, rank, index)]
                real[step] += sum(sizes)
                loads[step, rank] += len(sizes) * max(sizes, default=0)
    return real, loads


def _imbalance(loads: np.ndarray) -> float:
    """The busiest rank's load over the mean one, averaged over steps: what a step waits for."""
    return float((loads.max(1) / loads.mean(1)).mean())


def _shuffled(
    lengths: list[int], ranks: int, sequences: int, seed: int
) -> tuple[float, float, float]:
    """(real / processed tokens, imbalance, processed tokens) of shuffled batches of four."""
    order = np.random.default_rng((seed, 5)).permutation(len(lengths))
    padded = []
    for start in range(0, len(order) - BATCH + 1, BATCH):
        sizes = [lengths[i] for i in order[start : start + BATCH]]
        padded.append(BATCH * max(sizes))
    processed = float(sum(padded)) * len(lengths) / (len(padded) * BATCH)
    each = max(sequences * 2 // (BATCH * ranks), 1)  # batches of a rank and step
    steps = len(padded) // (each * ranks)
    loads = np.array(padded[: steps * each * ranks]).reshape(steps, ranks, each).sum(2)
    return sum(lengths) / processed, _imbalance(loads), processed
