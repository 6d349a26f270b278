"""Peak memory of a piece of work, by every allocation of torch, including those inside kernels.

In: a callable. Out: the largest number of bytes held at one time, above what was held before. On a
CPU the allocation events of the profiler are summed in their order; on a GPU the allocator's own
counter is read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from rlmec.pipeline.memory_use import begin_peak, process_bytes


def peak_bytes(work: Callable[[], Any], device: torch.device) -> int:
    """Return the most bytes that `work` holds at one time beyond those held at its start.

    Memory that was held before and is freed by `work` lowers the result.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    kineto: Any = profiler.profiler
    events = [e for e in kineto.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def peak_resident_bytes(work: Callable[[], Any]) -> int | None:
    """Return the peak growth of the process's resident memory, None without Linux's counters.

    This checks `peak_bytes` by another way: it counts all memory, in whole pages, including what
    the C allocator keeps after a free.
    """
    if not begin_peak():
        return None
    before = process_bytes("VmRSS")
    work()
    after = process_bytes("VmHWM")
    return None if before is None or after is None else after - before
