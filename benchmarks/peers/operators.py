"""The time of one run of a peer by kind of operation: products, attention, head, copies, and so on.

In: a job and a peer's work. Out: CPU milliseconds per kind, from torch's profiler. An operation
counts without those that it calls. Everything that has the vocabulary among its sizes, or is called
by the head's own functions, counts as `head`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from torch.profiler import ProfilerActivity, profile

from benchmarks.peers.base import Work
from benchmarks.peers.rotation import Job
from rlmec.runtime.display import markdown_table

# The first part of an operation's name that fits gives its kind.
KINDS = {
    "aten::_fused_adam": "optimizer",
    "aten::_foreach": "optimizer",
    "aten::linalg_vector_norm": "optimizer",
    "aten::mm": "products",
    "aten::addmm": "products",
    "aten::bmm": "products",
    "aten::copy_": "copies",
    "aten::cat": "copies",
    "aten::clone": "copies",
    "aten::index": "copies",
    "aten::embedding": "copies",
    "aten::fill_": "copies",
    "aten::zero": "copies",
}
HEAD_CALLS = ("_VocabularyParts", "aten::_log_softmax", "aten::nll_loss")
OUTSIDE = "outside torch"
COLUMNS = (
    *("products", "attention forward", "attention backward", "head", "copies", "optimizer"),
    *("other operations", OUTSIDE),
)


def operators(job: Job, work: Work, runs: int) -> dict[str, float]:
    """Return the CPU milliseconds of each of COLUMNS, the median of `runs`, after a first run."""
    job.timed(work)
    found = [_one_run(job, work) for _ in range(runs)]
    return {kind: median(each[kind] for each in found) for kind in COLUMNS}


def _one_run(job: Job, work: Work) -> dict[str, float]:
    size = job.network.get_output_embeddings().weight.shape[0]
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        wall = time.perf_counter()
        cpu = time.process_time()
        job.timed(work)
        cpu = time.process_time() - cpu
        wall = time.perf_counter() - wall

    found: dict[str, float] = dict.fromkeys(COLUMNS, 0.0)
    for event in seen.events() or ():
        found[kind_of(event, size)] += event.self_cpu_time_total / 1e3

    # The profiler's times are wall times. On a busy machine all kinds wait alike.
    inside = sum(value for name, value in found.items() if name != OUTSIDE)
    found[OUTSIDE] = max(1e3 * wall - inside, 0.0)
    return {name: value * cpu / wall for name, value in found.items()}


def kind_of(event: Any, vocabulary_size: int) -> str:
    """Return the kind of an operation of the profiler."""
    name = event.name
    if not name.startswith("aten::"):
        return OUTSIDE  # marks of autograd and of optimizers
    if "scaled_dot_product" in name or "flash_attention" in name:
        return "attention backward" if "backward" in name else "attention forward"
    kind = next((kind for start, kind in KINDS.items() if name.startswith(start)), "")
    if kind == "optimizer":
        return kind
    sizes = {size for shape in event.input_shapes or () for size in _flat(shape)}
    if vocabulary_size in sizes or any(each.startswith(HEAD_CALLS) for each in _names(event)):
        return "head"
    return kind or "other operations"


def _names(event: Any) -> Iterator[str]:
    """The names of an operation and of those that call it."""
    while event is not None:
        yield event.name
        event = event.cpu_parent


def _flat(shape: Any) -> Iterator[int]:
    for size in shape:
        if isinstance(size, int):
            yield size
        else:
            yield from _flat(size)


def as_table(found: dict[str, dict[str, float]]) -> str:
    """Return a Markdown table with one line per kind and one column per peer, in milliseconds."""
    lines: list[Sequence[str]] = [
        [kind, *(f"{figures[kind]:.0f}" for figures in found.values())] for kind in COLUMNS
    ]
    lines.append(["all", *(f"{sum(figures.values()):.0f}" for figures in found.values())])
    return markdown_table(["CPU ms", *found], lines)
