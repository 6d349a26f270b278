"""Memory of this process: the peak of a stage, and giving back what a stage has freed.

A chain is one process. What a stage frees stays with the C library's allocator, so that a process
grows with its stages although no object is left; on Linux it is given back to the system.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
from pathlib import Path

import torch

LARGE = 2**30
"""Bytes of a peak below which giving back would take longer than it is worth."""

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


def begin_peak() -> None:
    """Begins to measure the peak anew, on the device and, where Linux allows it, of the process."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        _RESET.write_text("5", encoding="ascii")  # resets VmHWM


def peak() -> int | None:
    """Bytes in use at most since `begin_peak`: of the GPU if there is one, else of the process.

    None where the system does not tell.
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
        line = next(line for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return None
    return 1024 * int(line.split()[1])


def give_back() -> None:
    """Returns freed memory to the system: that of Python's objects, the GPU's cache, the heap."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
