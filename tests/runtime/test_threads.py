"""The spinning of idle threads is bounded before torch loads its OpenMP."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlmec import programs
from rlmec.runtime.threads import CHOICES, SPIN_COUNT, bound_spinning

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("chosen", [{"OMP_WAIT_POLICY": "PASSIVE"}, {"GOMP_SPINCOUNT": "7"}])
def test_a_user_decides(chosen):
    found = dict(chosen)
    bound_spinning(found)
    assert found == chosen
    nothing = {}
    bound_spinning(nothing)
    assert nothing == {"GOMP_SPINCOUNT": SPIN_COUNT}


def test_a_program_sets_it_before_torch_is_there(monkeypatch):
    """OpenMP reads the variable when it is loaded; a later setting would do nothing."""
    code = "import sys, rlmec.programs; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr

    for name in CHOICES:
        monkeypatch.delenv(name, raising=False)
    seen = []
    monkeypatch.setattr(programs, "run_command_line", lambda *_: seen.append(dict(os.environ)))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    programs.start("train", ["stage=plan"])
    assert seen[0]["GOMP_SPINCOUNT"] == SPIN_COUNT
