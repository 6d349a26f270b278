"""The rows `train_wrong` and `train_right`: a training step on pairs.

The baseline is the pattern of the authors' scripts. Ours packs a pair into one row with a shared
prefix and computes log-probs of the scored tokens only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch

from benchmarks import authors, networks
from benchmarks.batches import planned, policy_module, step_gradients
from benchmarks.bench import Bench
from benchmarks.credit import credited_pairs
from benchmarks.measurement import Result, alternate, timed_result
from benchmarks.memory import peak_bytes
from benchmarks.samples import Sample
from rlmec.records import Pair

GRADIENT_LIMIT = 1e-5
"""The allowed difference as a share of the largest gradient, in float32."""


def train_wrong(
    bench: Bench,
    *,
    pairs: int,
    tokens_per_micro_batch: int,
    punished_removed: float,
    punished_kept: float,
    optimizer: bool,
    bound: float,
) -> list[Result]:
    """Time a step on wrong attempts and corrections; `optimizer` adds clipping and AdamW."""
    credit = {"punished_removed": punished_removed, "punished_kept": punished_kept}
    chosen = bench.drawn(bench.samples.wrong, pairs, salt=1)
    return _train(bench, "train_wrong", chosen, tokens_per_micro_batch, credit, optimizer, bound)


def train_right(
    bench: Bench, *, pairs: int, tokens_per_micro_batch: int, optimizer: bool, bound: float
) -> list[Result]:
    """Time a step on right attempts, which are their own targets."""
    credit = {"punished_removed": 0.0, "punished_kept": 0.05}
    chosen = bench.drawn(bench.samples.right, pairs, salt=2)
    return _train(bench, "train_right", chosen, tokens_per_micro_batch, credit, optimizer, bound)


def _train(
    bench: Bench,
    name: str,
    samples: Sequence[Sample],
    micro_batch: int,
    credit: dict[str, float],
    optimizer: bool,
    bound: float,
) -> list[Result]:
    network = bench.network()
    pairs = credited_pairs(samples, network, seed=bench.seed, **credit)
    data = planned(pairs, micro_batch)
    module = policy_module(network)
    module.train()
    sides = {
        "baseline": partial(authors.training_step, network, pairs, bench.arithmetic),
        "ours": partial(step_gradients, module, data, bench.arithmetic),
    }

    # In half precision the two sides round differently, so only float32 is compared.
    error = None
    if bench.precision == "32-true":
        error = gradient_error(network, sides["baseline"], sides["ours"])

    finish = _optimizer_step(network) if optimizer else lambda: None
    steps = {key: partial(_step, network, side, finish) for key, side in sides.items()}
    timing = alternate(
        steps["baseline"], steps["ours"], bench.repeats, bench.device, warm=error is None
    )

    tokens = _tokens(pairs, data)
    more: dict[str, Any] = {}
    if bench.on_gpu:
        times = {"baseline": median(timing.baseline), "ours": median(timing.ours)}
        for key, side in sides.items():
            network.zero_grad(set_to_none=True)
            flops = networks.training_flops(network, tokens[key], tokens[f"{key} scored"])
            peak = peak_bytes(lambda side=side: side() and None, bench.device)
            more |= bench.gpu_figures(key, flops, tokens["baseline"], times[key], peak)

    more |= {"tokens through the layers": f"{tokens['baseline']} -> {tokens['ours']}"}
    more |= {"through the head": f"{tokens['baseline']} -> {tokens['ours scored']}"}
    result = timed_result(
        *(name, f"{len(pairs)} pairs", timing),
        bound=bound,
        error=error,
        error_limit=GRADIENT_LIMIT,
        more=more,
    )
    return [result]


def gradient_error(network: Any, baseline: Callable[[], float], ours: Callable[[], float]) -> float:
    """Return the larger of the relative differences of losses and gradients of two steps."""
    return gradient_difference(network, gradients(network, baseline), ours)


def gradients(network: Any, step: Callable[[], float]) -> tuple[float, list[torch.Tensor | None]]:
    """Return the loss of a step and the gradient of each parameter."""
    network.zero_grad(set_to_none=True)
    loss = step()
    kept = [p.grad for p in network.parameters()]
    network.zero_grad(set_to_none=True)
    return loss, kept


def gradient_difference(
    network: Any,
    reference: tuple[float, list[torch.Tensor | None]],
    step: Callable[[], float],
) -> float:
    """Return the larger of the relative differences of losses and gradients to the `reference`.

    Losses are compared relative to the loss, or to 1 if the loss is smaller; gradients relative to
    the largest gradient. A parameter with a gradient on one side only counts with that gradient.
    """
    first, kept = reference
    second, made = gradients(network, step)
    largest = max(float(g.abs().max()) for g in kept if g is not None)
    worst = 0.0
    for old, new in zip(kept, made, strict=True):
        if old is None or new is None:
            worst = max(worst, *(float(g.abs().max()) for g in (old, new) if g is not None), 0.0)
        else:
            worst = max(worst, float((old - new).abs().max()))
    return max(worst / largest, abs(first - second) / max(abs(first), 1.0))


def _optimizer_step(network: Any) -> Callable[[], None]:
    """Clipping and AdamW with learning rate 0.

    This does all of the arithmetic and leaves the weights unchanged, so both sides keep the same
    weights.
    """
    made = torch.optim.AdamW(network.parameters(), lr=0.0)

    def finish() -> None:
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        made.step()

    return finish


def _step(network: Any, side: Callable[[], float], finish: Callable[[], None]) -> None:
    network.zero_grad(set_to_none=True)
    side()
    finish()


def _tokens(pairs: Sequence[Pair], data: Any) -> dict[str, int]:
    """The tokens of each side through the layers and through the head, without padding."""
    plain = sum(
        2 * len(p.attempt.prompt_ids) + len(p.attempt.completion_ids) + len(p.target_ids)
        for p in pairs
    )
    return {
        "baseline": plain,
        "baseline scored": plain,
        "ours": sum(len(row.input_ids) for row in data.rows),
        "ours scored": sum(len(row.targets) for row in data.rows),
    }
