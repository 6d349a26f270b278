"""Memory of this process: the peak of a stage, and giving back what a stage has freed.

A chain is one process. What a stage frees stays with the C library's allocator, so that a process
grows with its stages although no object is left; on Linux it is given back to the system. A trained
or sampled network is part of a cycle of objects, which stays until it is collected.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
from pathlib import Path

import torch

LARGE = 2**30
"""Bytes of a process below which giving back would take longer than it is worth."""

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


def begin_peak() -> bool:
    """Begins to measure the peak again, on the device and of the process.

    Returns whether the system lets a process do so, as Linux does.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        _RESET.write_text("5", encoding="ascii")  # resets VmHWM
    except OSError:
        return False
    return True


def peak() -> int | None:
    """Bytes in use at most since `begin_peak`: of the GPU if there is one, else of the process.

    None where the system does not tell.
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return process_bytes("VmHWM")


def process_bytes(counter: str) -> int | None:
    """A counter of this process in bytes: VmRSS (now) or VmHWM (at most); None outside Linux."""
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line for line in lines if line.startswith(f"{counter}:")]
    return 1024 * int(found[0].split()[1]) if found else None


def give_back() -> None:
    """Returns freed memory to the system: that of Python's objects, the GPU's cache, the heap.

    A small process, below LARGE, is left as it is where there is no GPU: of the memory of one the
    process's size says nothing.
    """
    has_gpu = torch.cuda.is_available()
    held = process_bytes("VmRSS")
    if not has_gpu and held is not None and held < LARGE:
        return
    gc.collect()
    if has_gpu:
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
