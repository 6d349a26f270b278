"""The row `head`: peak memory and time of head and loss, against dense float32 logits."""

from __future__ import annotations

from statistics import median
from typing import Any

import torch
from torch import nn

from benchmarks.bench import Bench
from benchmarks.measurement import Result, alternate, at_least, at_most
from benchmarks.memory import peak_bytes, peak_resident_bytes
from benchmarks.networks import arithmetic


def head(
    bench: Bench,
    *,
    vocabulary_size: int,
    hidden_size: int,
    tokens: int,
    memory_bound: float,
    time_bound: float,
    mixed: bool = False,
) -> list[Result]:
    """Return two lines, memory and time; with `mixed` two more with products in bfloat16.

    `error` is the largest difference of log-probs or gradients, relative to the largest of each.
    Memory is the peak beyond the inputs: log-probs, gradients, and scratch space.
    """
    shape = (vocabulary_size, hidden_size, tokens)
    bounds = (memory_bound, time_bound)
    also = mixed and bench.precision == "32-true"
    out = _measured(bench, shape, bounds, bench.precision)
    return out + (_measured(bench, shape, bounds, "bf16-mixed") if also else [])


def _measured(
    bench: Bench, shape: tuple[int, int, int], bounds: tuple[float, float], precision: str
) -> list[Result]:
    from rlmec.lm.chunked_head import head_nll

    vocabulary_size, hidden_size, tokens = shape
    torch.manual_seed(bench.seed)
    kind = torch.bfloat16 if precision == "bf16-true" else torch.float32
    hidden = torch.randn(tokens, hidden_size, device=bench.device, dtype=kind)  # [N, d]
    hidden.requires_grad_()
    matrix = nn.Linear(hidden_size, vocabulary_size, bias=False, device=bench.device, dtype=kind)
    weight = matrix.weight  # [V, d]
    targets = torch.randint(vocabulary_size, (tokens,), device=bench.device)  # [N]
    coefficients = torch.randn(tokens, device=bench.device)  # [N]

    def baseline() -> torch.Tensor:
        return matrix(hidden).float().log_softmax(-1).gather(-1, targets[:, None])[:, 0]

    def ours() -> torch.Tensor:
        return -head_nll(matrix, hidden, targets)

    def whole(forward) -> list[Any]:
        hidden.grad = weight.grad = None
        with arithmetic(precision, bench.device):
            logprobs = forward()
        (logprobs * coefficients).sum().backward()
        return [logprobs.detach(), hidden.grad, weight.grad]

    error = max(
        float((a - b).abs().max() / b.abs().max())
        for a, b in zip(whole(ours), whole(baseline), strict=True)
    )
    # Rounding differs between the two sides, and more so in half precision.
    limit = 1e-5 if precision == "32-true" else 3e-2
    case = f"V={vocabulary_size}, d={hidden_size}, {tokens} tokens"
    case += "" if precision == "32-true" else f", {precision}"

    held = []
    resident: dict[str, float] = {}
    for name, side in (("baseline", baseline), ("ours", ours)):
        hidden.grad = weight.grad = None
        held.append(peak_bytes(lambda side=side: whole(side) and None, bench.device) / 2**20)
        if not bench.on_gpu:
            hidden.grad = weight.grad = None
            grown = peak_resident_bytes(lambda side=side: whole(side) and None)
            resident |= {} if grown is None else {f"{name} resident MiB": round(grown / 2**20, 1)}
    memory = held[0] / held[1]

    timing = alternate(lambda: whole(baseline), lambda: whole(ours), bench.repeats, bench.device)
    taken = [o / b for b, o in zip(timing.baseline, timing.ours, strict=True)]
    note = "gradients of hidden states and head matrix are part of the memory on both sides"
    first = Result(
        *("head", f"memory, {case}", "MiB", held[0], held[1], [memory]),
        promises=(at_least(bounds[0], memory),),
        note=note,
        more=resident,
    )
    second = Result(
        *("head", f"time, {case}", "s", median(timing.baseline), median(timing.ours)),
        timing.ratios,
        promises=(at_most(bounds[1], median(taken), "x the time"),),
        error=error,
        error_limit=limit,
    )
    return [first, second]
