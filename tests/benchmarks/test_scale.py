"""What the benchmarks of scale rest on: made-up files, edit scripts, what a command used."""

import json
import signal
import sys

import pytest

from benchmarks.edits import Edits, write
from benchmarks.process_usage import watched
from benchmarks.sweep import faults
from benchmarks.synthetic_solutions import write_files
from rlmec.records import Attempt, Correction
from rlmec.store.tables import read_table, write_table
from rlmec.tasks.gsm8k import Gsm8kTask
from rlmec.tasks.solution_files import SolutionFile


def test_the_made_up_solutions_are_right_where_they_say_so(tmp_path):
    known, made = write_files(tmp_path, 40, 400, seed=3)
    task = Gsm8kTask(path={"test": str(known)})
    problems = {p.id: p for p in task.problems("test")}
    file = SolutionFile(str(made), list(problems.values()), "solution", "right")
    found = file.found()
    assert (len(problems), found.rows, found.unknown_rows) == (40, 400, 0)
    verdicts = [task.judge(s.text, problems[s.problem_id]) for s in file]
    assert [v == "right" for v in verdicts] == [s.label for s in file]
    assert 0.4 < verdicts.count("right") / 400 < 0.6
    assert verdicts.count("no_answer") > 4
    again = write_files(tmp_path / "again", 40, 400, seed=3)[1]
    assert again.read_bytes() == made.read_bytes()
    assert json.loads(made.read_text().split("\n")[0]).keys() == {"question", "solution", "right"}


def attempt(i, ids):
    return Attempt(f"p{i}/0", f"p{i}", [1], ids, [], "t", "wrong", False, "t")


def correction(i, ids, reason="accepted"):
    return Correction(f"p{i}/0", f"p{i}", ids, "t", "right", 0.1, reason, "oracle", "t")


def test_edit_scripts_go_from_table_to_table(tmp_path):
    """5 6 7 to 5 8 7 4: the second token is another one, the fourth is new."""
    attempts = [attempt(0, [5, 6, 7]), attempt(1, [5]), attempt(2, [1, 2])]
    corrections = [
        correction(0, [5, 8, 7, 4]),
        correction(1, [], "no_proposal"),
        correction(2, [2]),
    ]
    write_table(tmp_path / "a", attempts, Attempt)
    write_table(tmp_path / "c", corrections, Correction)
    assert write(tmp_path / "a", tmp_path / "c", tmp_path / "out") == 2
    made = read_table(tmp_path / "out", Edits)
    assert made == [Edits("p0/0", [1], [1, 3]), Edits("p2/0", [0], [])]
    write_table(tmp_path / "c", corrections[::-1], Correction)
    with pytest.raises(ValueError, match="'p1/0'"):
        write(tmp_path / "a", tmp_path / "c", tmp_path / "out")


HOLDS = "import subprocess, sys; a = bytearray(60 << 20); {more}"
SLEEPS = "import time; b = bytearray(60 << 20); time.sleep(1.5)"
CHILD = f"subprocess.run([sys.executable, '-c', '{SLEEPS}'])"


def test_memory_is_that_of_all_processes(tmp_path):
    alone = watched([sys.executable, "-c", HOLDS.format(more="")], tmp_path / "log")
    both = watched([sys.executable, "-c", HOLDS.format(more=CHILD)], tmp_path / "log")
    assert (alone.code, both.code) == (0, 0)
    assert both.memory - alone.memory > 55 << 20
    assert 0 < both.cpu_seconds <= 2 * both.seconds


def test_a_command_is_killed_when_it_is_time(tmp_path):
    sign = tmp_path / "sign"
    code = f"import time; open({str(sign)!r}, 'w'); time.sleep(60)"
    used = watched([sys.executable, "-c", code], tmp_path / "log", kill_when=sign.exists)
    assert used.code == -signal.SIGKILL
    assert used.seconds < 50


def test_a_sweep_with_faults_is_seen(tmp_path):
    """Two jobs that both say they made one artifact, one that is not there, one half made."""
    sample = tmp_path / "artifacts" / "sample" / "abc"
    sample.mkdir(parents=True)
    write_table(sample / "attempts.parquet", [attempt(0, [1])], Attempt)
    manifest = {"stage": "sample", "fingerprint": "abc", "rows": 2}
    (sample / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "artifacts" / "grm" / ".work-def").mkdir(parents=True)
    gone = tmp_path / "artifacts" / "policy" / "x"
    for job in ("0", "1"):
        stages = [
            {"artifact": str(sample), "made": True},
            {"artifact": str(gone), "made": job == "1"},
        ]
        (tmp_path / "outputs" / job).mkdir(parents=True)
        (tmp_path / "outputs" / job / "summary.json").write_text(json.dumps({"stages": stages}))
    found = "\n".join(faults(tmp_path, 2))
    assert "abc was made 2 times" in found
    assert "policy/x is gone" in found
    assert ".work-def is left over" in found
    assert "attempts.parquet has 1 rows, its manifest says 2" in found
    assert "0 artifacts of policy, not 2" in found
    (sample / "attempts.parquet").write_bytes(b"PAR1")
    assert "is not a whole Parquet file" in "\n".join(faults(tmp_path, 2))
