"""The row `plan`: how full planned batches are, and how evenly several ranks are loaded."""

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
    """Return three lines over all pairs, for packed rows planned for `ranks`.

    The lines are real over processed tokens; the padded tokens of the busiest rank over the mean of
    a step; and processed tokens per pair. The baseline shuffles rows, pads batches of four to their
    longest row, and gives the batches to its ranks in turn. This is arithmetic only; no network
    runs.
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

    # The last step of a plan may be incomplete, which says nothing about balance.
    real, loads = _loads(made, lengths)
    full = [s for s in range(made.steps) if len(made.rows(s)) >= sequences_per_step // 2]
    fill = float(real.sum() / loads.sum())
    even = float(_imbalance(loads[full]))
    processed = float(loads.sum()) / (epochs * len(pairs))

    plain = [(p.attempt.prompt_ids + p.attempt.completion_ids) for p in pairs]
    plain += [(p.attempt.prompt_ids + p.target_ids) for p in pairs]
    plain_lengths = [len(row) for row in plain]
    base_fill, base_even, base_total = _shuffled(
        plain_lengths, ranks, sequences_per_step, bench.seed
    )
    base_processed = base_total / len(pairs)

    case = f"{ranks} ranks, {sequences_per_step} pairs per step"
    return [
        Result(
            "plan",
            f"real/processed tokens, {case}",
            "",
            base_fill,
            fill,
            [fill / base_fill],
            promises=(at_least(fill_bound, fill),),
            note="plan: the ratio of the first line is ours over the baseline's",
        ),
        Result(
            "plan",
            "busiest rank / mean",
            "",
            base_even,
            even,
            [base_even / even],
            promises=(at_most(imbalance_bound, even),),
        ),
        Result(
            "plan",
            "processed tokens per pair",
            "tokens",
            base_processed,
            processed,
            [base_processed / processed],
        ),
    ]


def _loads(made: StepPlan, lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Real tokens per step [steps], and padded tokens per step and rank [steps, ranks]."""
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
    """The load of the busiest rank, for which a step waits, over the mean load; mean over steps."""
    return float((loads.max(1) / loads.mean(1)).mean())


def _shuffled(
    lengths: list[int], ranks: int, sequences: int, seed: int
) -> tuple[float, float, float]:
    """Real over processed tokens, imbalance, and processed tokens of shuffled batches of four."""
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
