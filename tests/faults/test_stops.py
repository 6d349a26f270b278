"""Six stops of the real command: the short form of `make faults`."""

import re
import subprocess
import sys

import pytest

from .forks import ROOT

pytestmark = pytest.mark.slow


def test_stopped_commands_go_on_to_the_same_bytes(tmp_path):
    """Stopped by Ctrl-C to all processes, loader workers too, and in generation, by SIGTERM in a
    validation; killed in a save and in writing a part; a finished table torn."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", "--quick", "--root", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 stops in 3 cases: 0 cases differ, 0 rows lost or doubled, 0 of 1 torn" in done.stdout
    warmup = re.search(r"quick-warmup: .* went on from (.*): the same", done.stdout)
    assert warmup is not None
    assert warmup[1].split(", ") == ["step 3", "step 3", "step 3"]  # killed in saving 4
