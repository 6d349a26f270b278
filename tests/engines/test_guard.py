"""What is left of a killed process: its children end as well, unless it ends in good order."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import subprocess, sys, time
from rlmec.engines import guard
child = [sys.executable, "-c", "import time; time.sleep(60)"]
with guard.guarded():
    started = subprocess.Popen(child)
    print(started.pid, flush=True)
    sys.stdin.readline()
print("closed", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def process():
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as started:
        yield started
        started.kill()


def test_children_end_with_a_killed_process(process):
    child = psutil.Process(int(process.stdout.readline()))
    time.sleep(4)  # the guard has looked
    process.kill()
    child.wait(60)  # raises TimeoutExpired if the child lives on
    assert not child.is_running()


def test_children_outlive_the_guard(process):
    child = psutil.Process(int(process.stdout.readline()))
    process.stdin.write(b"\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"closed\n"
    process.kill()
    time.sleep(0.2)
    assert child.is_running()
    child.kill()
