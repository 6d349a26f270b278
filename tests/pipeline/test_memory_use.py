"""The peak of a stage, and memory given back."""

import sys

import numpy as np
import pytest

from rlmec.pipeline import memory_use

MIB = 2**20

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak is Linux's")


def peak() -> int:
    found = memory_use.peak()
    assert found is not None
    return found


def test_the_peak_is_that_since_the_last_beginning():
    memory_use.begin_peak()
    before = peak()
    big = np.ones(200 * MIB, dtype=np.uint8)
    del big
    memory_use.give_back()
    high = peak()
    memory_use.begin_peak()
    after = peak()
    assert high - before > 190 * MIB
    assert high - after > 150 * MIB, "the peak stays that of the block before"


def test_many_small_freed_blocks_go_back_to_the_system():
    """Blocks below the size from which the allocator asks the system for each by itself."""
    kept = [bytearray(60_000) for _ in range(4000)]
    last = bytearray(60_000)  # the heap cannot shrink from its end
    memory_use.begin_peak()
    full = peak()
    del kept
    memory_use.give_back()
    memory_use.begin_peak()
    freed = peak()
    assert len(last) == 60_000
    assert full - freed > 150 * MIB
