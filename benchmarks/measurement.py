"""Two ways to do the same work, timed alternately, and the result that goes into the table.

In: callables. Out: the seconds of every run, the ratio of every pair of neighbouring runs, and
`Result`s that know whether their promises are kept. The runs alternate so that both sides meet the
same load on a shared machine. A promise is about the median of the ratios; the table also shows
their range.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds of alternating runs; run i of `ours` followed run i of `baseline`."""

    baseline: list[float]
    ours: list[float]

    @property
    def ratios(self) -> list[float]:
        """Baseline over ours, per pair of runs."""
        return [b / o for b, o in zip(self.baseline, self.ours, strict=True)]


@dataclass(frozen=True)
class Promise:
    """A promise about a result, in words, and whether it is kept."""

    text: str
    kept: bool


def at_least(bound: float, value: float) -> Promise:
    """Return the promise that `value` is at least `bound`."""
    return Promise(f">= {bound:g}", value >= bound)


def at_most(bound: float, value: float, what: str = "") -> Promise:
    """Return the promise that `value` is at most `bound`; `what` is shown after the bound."""
    return Promise(f"<= {bound:g}{what}", value <= bound)


@dataclass(frozen=True)
class Result:
    """One line of the table.

    `baseline` and `ours` are medians in `unit`. `ratios` are baseline over ours, one per pair of
    runs, or a single one for a figure that does not vary, such as a count. `error` is the largest
    difference between the two results; the result is wrong if it exceeds `error_limit`. Both are
    None if there is nothing to compare. `more` has further figures by name (on a GPU tokens per
    second, share of the peak, and memory).
    """

    work: str
    case: str
    unit: str
    baseline: float
    ours: float
    ratios: Sequence[float]
    promises: tuple[Promise, ...] = ()
    error: float | None = None
    error_limit: float | None = None
    note: str = ""
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        return median(self.ratios)

    @property
    def is_equal(self) -> bool:
        """Whether both ways agree; an error of NaN does not."""
        if self.error is None or self.error_limit is None:
            return True
        return self.error <= self.error_limit

    @property
    def keeps_promises(self) -> bool:
        return all(promise.kept for promise in self.promises)


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Return the wall time of one call, until the device has finished it."""
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def alternate(
    baseline: Callable[[], Any],
    ours: Callable[[], Any],
    repeats: int,
    device: torch.device | None = None,
    *,
    warm: bool = True,
) -> Timing:
    """Time `repeats` runs of each side, alternately: baseline, ours, baseline, ours, ...

    With `warm`, each side first runs once without being timed. Garbage is collected before each
    pair of runs and not during it.
    """
    device = torch.device("cpu") if device is None else device
    if warm:
        seconds(baseline, device)
        seconds(ours, device)

    timing = Timing([], [])
    for _ in range(repeats):
        gc.collect()
        gc.disable()
        try:
            timing.baseline.append(seconds(baseline, device))
            timing.ours.append(seconds(ours, device))
        finally:
            gc.enable()
    return timing


def timed_result(
    work: str,
    case: str,
    timing: Timing,
    *,
    unit: str = "s",
    bound: float | None = None,
    **rest: Any,
) -> Result:
    """Return the result of wall times; `bound` is the smallest promised median ratio."""
    scale = {"s": 1.0, "ms": 1e3, "us": 1e6}[unit]
    promises = () if bound is None else (at_least(bound, median(timing.ratios)),)
    return Result(
        work,
        case,
        unit,
        median(timing.baseline) * scale,
        median(timing.ours) * scale,
        timing.ratios,
        promises + tuple(rest.pop("promises", ())),
        **rest,
    )


def wait(device: torch.device) -> None:
    """Wait until a GPU has finished what it was given; nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
