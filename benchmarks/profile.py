"""What the time of a run goes into: python -m benchmarks.profile [key=value ...]

In: the configuration of train.py, with fewer problems and steps (SHORT); any of its keys can be
changed, also those. Out: a table, one line a stage: seconds, and the shares of matrix
multiplication, attention, the optimizer, torch's other operations, and what is neither (Python,
tokenizers, files). Every stage is made anew in a temporary folder. Shares are of the main thread:
an operation counts for as long as it takes, on however many cores.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose, initialize_config_dir

CONF = Path(__file__).resolve().parent.parent / "conf"
STAGES = ("warmup", "sample", "teach", "grm", "score", "policy", "evaluate")
SHORT = (
    *("task.train=300", "task.dev=100", "task.test=200", "warmup.target_accuracy=null"),
    *("warmup.steps=60", "warmup.val_problems=100", "grm.steps=30", "grm.val_every_steps=30"),
    *("grm.val_problems=20", "policy.steps=20", "policy.val_every_steps=20"),
    *("policy.val_problems=50", "sample.num_generations=4", "teach.max_edit_ratio=1.0"),
    "trainer.progress_bar=false",
)
KINDS = {  # the beginning of an operation's name: the kind it counts as
    "aten::mm": "matmul",
    "aten::addmm": "matmul",
    "aten::bmm": "matmul",
    "aten::baddbmm": "matmul",
    "aten::_scaled_dot_product": "attention",
    "aten::_flash_attention": "attention",
    "aten::_efficient_attention": "attention",
    "aten::lerp_": "optimizer",  # its step also runs the closure, so that its own mark is no help
    "aten::addcmul_": "optimizer",
    "aten::addcdiv_": "optimizer",
    "aten::_foreach": "optimizer",
    "aten::_fused_adam": "optimizer",
}
NO_OPERATION = "marks of autograd and of optimizers"
COLUMNS = ("matmul", "attention", "optimizer", "other operations", "outside torch")


class Event(NamedTuple):
    """An operation on a thread, from start to end in nanoseconds."""

    name: str
    thread: int
    start: int
    end: int


@dataclass(frozen=True)
class Stage:
    """Wall seconds of a stage, and seconds of each of COLUMNS."""

    name: str
    seconds: float
    kinds: dict[str, float]


def profiled(overrides: list[str]) -> list[Stage]:
    """Makes the stages one after the other, each under torch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    from rlmec.runtime.ranks import Ranks
    from rlmec.settings.check import check
    from rlmec.stages.run import train

    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name in STAGES:
            chosen = [*SHORT, *overrides, f"stage={name}", f"paths.artifacts={folder}/made"]
            chosen += [f"paths.outputs={folder}/outputs", f"logger.csv.save_dir={folder}/log"]
            with initialize_config_dir(str(CONF), version_base="1.3"):
                settings = check(compose("train", chosen), CONF)
            run_dir = Path(folder) / name
            run_dir.mkdir()
            with profile(activities=[ProfilerActivity.CPU]) as seen:
                start = time.perf_counter()
                train(settings, Ranks(), run_dir, chosen)
                seconds = time.perf_counter() - start
            profiler: Any = seen.profiler
            events = [
                Event(e.name(), e.start_thread_id(), e.start_ns(), e.start_ns() + e.duration_ns())
                for e in profiler.kineto_results.events()
            ]
            found.append(Stage(name, seconds, kinds(events, seconds)))
    return found


def kinds(events: Sequence[Event], seconds: float) -> dict[str, float]:
    """Seconds of each of COLUMNS: an operation counts without those that it calls; what is left of
    `seconds` is outside torch."""
    out: dict[str, float] = dict.fromkeys((*COLUMNS, NO_OPERATION), 0.0)
    open_: list[tuple[Event, str]] = []  # what the event is inside of, outermost first
    for event in sorted(events, key=lambda e: (e.thread, e.start, -e.end)):
        while open_ and (open_[-1][0].thread != event.thread or open_[-1][0].end <= event.start):
            open_.pop()
        kind = _kind(event.name)
        out[kind] += (event.end - event.start) / 1e9
        if open_:
            out[open_[-1][1]] -= (event.end - event.start) / 1e9
        open_.append((event, kind))
    found = {kind: out[kind] for kind in COLUMNS}
    return found | {"outside torch": max(seconds - sum(found.values()), 0.0)}


def _kind(name: str) -> str:
    if not name.startswith("aten::"):
        return NO_OPERATION
    return next((kind for start, kind in KINDS.items() if name.startswith(start)), COLUMNS[3])


def table(stages: list[Stage]) -> str:
    """One line a stage and one for all of them, as Markdown."""
    total = sum(stage.seconds for stage in stages)
    summed = {kind: sum(stage.kinds[kind] for stage in stages) for kind in COLUMNS}
    lines = [
        "| stage | seconds | of all | " + " | ".join(COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 3) + "|",
    ]
    for name, seconds, parts in [
        *((s.name, s.seconds, s.kinds) for s in stages),
        ("all", total, summed),
    ]:
        shares = [f"{parts[kind] / seconds:.0%}" for kind in COLUMNS]
        lines.append(f"| {name} | {seconds:.1f} | {seconds / total:.0%} | {' | '.join(shares)} |")
    return "\n".join(lines)


def main() -> None:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would talk to the terminal
    print("\n" + table(profiled(sys.argv[1:])))


if __name__ == "__main__":
    main()
