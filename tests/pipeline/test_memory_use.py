"""The peak of a stage, and memory given back."""

import json
import subprocess
import sys

import pytest

MIB = 2**20

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak is Linux's")

MEASURED = """
import json
from rlmec.pipeline import memory_use

memory_use.LARGE = 0

def peak():
    memory_use.begin_peak()
    return memory_use.peak()

figures = {"before": peak()}
one_block = bytearray(b"1") * (200 * 2**20)
del one_block
memory_use.give_back()
figures["high"] = memory_use.peak()
figures["after"] = peak()

small_blocks = [bytearray(60_000) for _ in range(4000)]
last = bytearray(60_000)  # the heap cannot shrink from its end
figures["full"] = peak()
del small_blocks
memory_use.give_back()
figures["freed"] = peak()
assert len(last) == 60_000
print(json.dumps(figures))
"""
"""In a process of its own: the system may take pages back from one that did other things before."""


@pytest.fixture(scope="module")
def figures() -> dict[str, int]:
    """Bytes at each point of `MEASURED`."""
    command = [sys.executable, "-c", MEASURED]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_the_peak_is_that_since_the_last_beginning(figures: dict[str, int]):
    assert figures["high"] - figures["before"] > 190 * MIB
    assert figures["high"] - figures["after"] > 150 * MIB, "the peak stays that of the block before"


def test_many_small_freed_blocks_go_back_to_the_system(figures: dict[str, int]):
    """Blocks below the size from which the allocator asks the system for each by itself."""
    assert figures["full"] - figures["freed"] > 150 * MIB
