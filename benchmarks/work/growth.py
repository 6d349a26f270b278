"""The row `scaling`: the cost per pair must not grow with the number of pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from benchmarks.batches import LONGEST, planned, policy_module, step_gradients
from benchmarks.bench import Bench
from benchmarks.credit import credited_pairs
from benchmarks.measurement import Result, Timing, alternate, at_most, timed_result
from benchmarks.samples import Sample

CREDIT = {"punished_removed": 0.8, "punished_kept": 0.05}


def scaling(
    bench: Bench,
    *,
    pairs: int,
    times: Sequence[int],
    data_pairs: int,
    tokens_per_step: int,
    tokens_per_micro_batch: int,
    bound: float,
) -> list[Result]:
    """Return the milliseconds per pair at `times` as many pairs, against the first of `times`.

    The lines `data` measure alignment, rewards, rows, plan, and padding of `data_pairs`, in steps
    of `tokens_per_step`. The lines `train` measure the gradients of `pairs`. The same pairs are
    repeated, so nothing but their number grows.
    """
    network = bench.network()
    module = policy_module(network)
    module.train()
    first = bench.drawn(bench.samples.wrong, data_pairs, salt=8)
    some = bench.drawn(bench.samples.wrong, pairs, salt=9)

    def data(samples: Sequence[Sample]) -> Callable[[], None]:
        def run() -> None:
            credited = credited_pairs(samples, None, seed=bench.seed, **CREDIT)
            made = planned(credited, LONGEST, tokens_per_step=tokens_per_step)
            for _ in made.train_dataloader():
                pass

        return run

    def train(samples: Sequence[Sample]) -> Callable[[], None]:
        credited = credited_pairs(samples, None, seed=bench.seed, **CREDIT)
        made = planned(credited, tokens_per_micro_batch)

        def run() -> None:
            network.zero_grad(set_to_none=True)
            step_gradients(module, made, bench.arithmetic)

        return run

    return [
        _line(bench, name, work, chosen, times[0], more, bound)
        for name, work, chosen in (("data", data, first), ("train", train, some))
        for more in times[1:]
    ]


def _line(
    bench: Bench,
    name: str,
    work: Callable[[Sequence[Sample]], Callable[[], None]],
    samples: Sequence[Sample],
    once: int,
    more: int,
    bound: float,
) -> Result:
    one = len(samples) * once
    many = len(samples) * more
    timing = alternate(
        work(list(samples) * once), work(list(samples) * more), bench.repeats, bench.device
    )
    timing = Timing([t / one for t in timing.baseline], [t / many for t in timing.ours])
    grown = median(o / b for b, o in zip(timing.baseline, timing.ours, strict=True))
    return timed_result(
        "scaling",
        f"{name}, {one} -> {many} pairs",
        timing,
        unit="ms",
        promises=(at_most(bound, grown, "x per pair"),),
    )
