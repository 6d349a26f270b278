"""Steps at shapes that were not met before: python -m benchmarks.fresh_shapes [preset=gpu_135m]

Rows have other lengths in every batch, and texts grow with each token. A library that compiles or
plans for a shape does so all the time, which a benchmark that repeats one batch does not show. Here
each step has new lengths: greedy decoding of random prompts, then gradients of pairs, each of which
is done a second time at the same lengths.

Prints milliseconds of a decoded token of all rows, and of the gradients of a micro-batch; on a GPU
also how long its kernels ran meanwhile: the rest is waiting for the CPU. Takes the settings of
`python -m benchmarks` and writes its table as JSON, too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch.profiler import ProfilerActivity, profile

from benchmarks.__main__ import CONF
from benchmarks.batches import planned, policy_module, step_gradients
from benchmarks.bench import Bench
from benchmarks.credit import credited_pairs
from benchmarks.measurement import seconds
from benchmarks.runner import Settings, written
from benchmarks.table import machine
from rlmec.lm.generation import Decoding, generate
from rlmec.runtime.display import markdown_table

TOKENS = 32
BATCHES = (64, 64, 512)
"""Rows of each batch that is decoded."""
PAIRS = (8, 10, 12, 32)
"""Pairs of each step whose gradients are computed."""
HEAD = ("work", "first", "again", "kernels")


def measured(bench: Bench, micro_batch: int) -> list[dict[str, Any]]:
    """Return a line per batch: what it was, and milliseconds the first time and the second."""
    lines = []
    for number, rows in enumerate(BATCHES):
        work = decoding(bench, rows, seed=number)
        lines.append({"work": f"decode {rows} rows, a token"} | _twice(work, bench, TOKENS))

    network = bench.network()
    module = policy_module(network)
    module.train()
    for number, count in enumerate(PAIRS):
        chosen = bench.drawn(bench.samples.wrong, count, salt=20 + number)
        pairs = credited_pairs(
            chosen, network, seed=number, punished_removed=0.8, punished_kept=0.05
        )
        data = planned(pairs, micro_batch)
        tokens = sum(len(row.input_ids) for row in data.rows)
        batches = data.plan.accumulate

        def gradients(data: Any = data) -> None:
            step_gradients(module, data, bench.arithmetic)

        name = f"train {count} pairs, {tokens} tokens, {batches} micro-batches"
        lines.append({"work": name} | _twice(gradients, bench, batches))
    return lines


def decoding(bench: Bench, rows: int, seed: int) -> Callable[[], None]:
    """Return greedy decoding of `rows` random prompts of 60 to 120 tokens by TOKENS tokens each."""
    draw = np.random.default_rng((bench.seed, 30, seed))
    lengths = draw.integers(60, 120, rows)
    prompts = [draw.integers(2, bench.vocabulary_size, n).tolist() for n in lengths]
    network = bench.network()

    def decode() -> None:
        with bench.arithmetic():
            generate(network, prompts, Decoding(TOKENS), end_ids=(-1,), pad_id=0)

    return decode


def _twice(work: Callable[[], None], bench: Bench, units: int) -> dict[str, float]:
    """Milliseconds per unit of the first and second run, and of a third run's kernels."""
    found = {name: 1e3 * seconds(work, bench.device) / units for name in ("first", "again")}
    if bench.on_gpu:
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            work()
            torch.cuda.synchronize(bench.device)
        total = sum(event.self_device_time_total for event in profiler.key_averages())
        found["kernels"] = total / 1e3 / units
    return found


def _cell(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.1f}"


def main(arguments: list[str]) -> int:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        tree = OmegaConf.to_container(compose("benchmark", arguments), resolve=True)
    chosen = Settings(**cast(dict[str, Any], tree))
    bench = chosen.bench()
    row = chosen.rows["train_wrong"] or {}
    lines = measured(bench, row["tokens_per_micro_batch"])

    shown = [h for h in HEAD if h in lines[0]]
    cells = [[_cell(line[h]) for h in shown] for line in lines]
    print(f"milliseconds, {chosen.preset} in {chosen.precision}\n")
    print(markdown_table(shown, cells))
    about = machine(bench.device) | {"preset": chosen.preset, "precision": chosen.precision}
    text = json.dumps(about | {"lines": lines}, indent=1) + "\n"
    written(Path(chosen.output), f"fresh_shapes-{chosen.preset}", text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
