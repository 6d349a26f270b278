"""The time of a run by stage and kind of work: python -m benchmarks.profile [key=value ...]

In: the configuration of train.py with fewer problems and steps (SHORT); every key can be changed.
Out: a table with one line per stage: its seconds, and the shares of matrix multiplication,
attention, the optimizer, other operations of torch, and everything outside torch (Python,
tokenizers, files). Every stage is made in a temporary folder. The shares are of the main thread: an
operation counts for its duration, however many cores it uses.
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

from rlmec.runtime.display import markdown_table

CONF = Path(__file__).resolve().parent.parent / "conf"
STAGES = ("warmup", "sample", "teach", "grm", "score", "policy", "evaluate")
SHORT = (
    *("task.train=300", "task.dev=100", "task.test=200", "warmup.target_accuracy=null"),
    *("warmup.steps=60", "warmup.val_problems=100", "grm.steps=30", "grm.val_every_steps=30"),
    *("grm.val_problems=20", "policy.steps=20", "policy.val_every_steps=20"),
    *("policy.val_problems=50", "sample.num_generations=4", "teach.max_edit_ratio=1.0"),
    "trainer.progress_bar=false",
)

# The beginning of an operation's name: the kind it counts as. The optimizer's own mark is of no
# use, because its step also runs the closure with the forward and backward pass.
KINDS = {
    "aten::mm": "matmul",
    "aten::addmm": "matmul",
    "aten::bmm": "matmul",
    "aten::baddbmm": "matmul",
    "aten::_scaled_dot_product": "attention",
    "aten::_flash_attention": "attention",
    "aten::_efficient_attention": "attention",
    "aten::lerp_": "optimizer",
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
    """The wall seconds of a stage, and the seconds of each of COLUMNS."""

    name: str
    seconds: float
    kinds: dict[str, float]


def profiled(overrides: list[str]) -> list[Stage]:
    """Make the stages one after the other, each under torch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    from rlmec.runtime.ranks import Ranks
    from rlmec.settings.check import check
    from rlmec.settings.command_line import check_command_line, with_split_files
    from rlmec.stages.run import train

    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name in STAGES:
            chosen = [*SHORT, *overrides, f"stage={name}", f"paths.artifacts={folder}/made"]
            chosen += [f"paths.outputs={folder}/outputs", f"logger.csv.save_dir={folder}/log"]
            chosen = check_command_line(with_split_files(chosen), CONF, "train")
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
    """Return the seconds of each of COLUMNS.

    The time of an operation does not include the operations that it calls. The part of `seconds`
    without any operation is outside torch.
    """
    out: dict[str, float] = dict.fromkeys((*COLUMNS, NO_OPERATION), 0.0)
    enclosing: list[tuple[Event, str]] = []  # operations around the event, outermost first

    # Sorted by start, with longer ones first, an operation comes right before those that it calls.
    for event in sorted(events, key=lambda e: (e.thread, e.start, -e.end)):
        while enclosing and not _is_around(enclosing[-1][0], event):
            enclosing.pop()
        kind = _kind(event.name)
        duration = (event.end - event.start) / 1e9
        out[kind] += duration
        if enclosing:
            out[enclosing[-1][1]] -= duration
        enclosing.append((event, kind))

    found = {kind: out[kind] for kind in COLUMNS}
    return found | {"outside torch": max(seconds - sum(found.values()), 0.0)}


def _is_around(outer: Event, inner: Event) -> bool:
    return outer.thread == inner.thread and outer.end > inner.start


def _kind(name: str) -> str:
    if not name.startswith("aten::"):
        return NO_OPERATION
    known = (kind for start, kind in KINDS.items() if name.startswith(start))
    return next(known, "other operations")


def table(stages: list[Stage]) -> str:
    """Return a Markdown table with one line per stage and one for all of them."""
    total = sum(stage.seconds for stage in stages)
    summed = {kind: sum(stage.kinds[kind] for stage in stages) for kind in COLUMNS}
    rows = []
    for stage in [*stages, Stage("all", total, summed)]:
        shares = [f"{stage.kinds[kind] / stage.seconds:.0%}" for kind in COLUMNS]
        rows.append([stage.name, f"{stage.seconds:.1f}", f"{stage.seconds / total:.0%}", *shares])
    return markdown_table(["stage", "seconds", "of all", *COLUMNS], rows)


def main() -> None:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would write to the terminal
    print("\n" + table(profiled(sys.argv[1:])), end="")


if __name__ == "__main__":
    main()
