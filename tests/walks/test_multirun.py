"""Sweeps: what their jobs share is made once, each leaves a row, and a bad job fails alone."""

import csv
from collections import Counter

import pytest
from walk import TINY, done_well, finals, run

from benchmarks.sweep import artifacts, damage, made

pytestmark = pytest.mark.slow
UPSTREAM = ["warmup", "sample", "teach", "grm", "score"]


def table(store):
    """The one table of the sweep, as rows by column name."""
    (path,) = (store / "outputs").rglob("results.csv")
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("launcher", ["basic", pytest.param("joblib", marks=pytest.mark.long)])
def test_jobs_share_what_lies_upstream_and_leave_one_table(launcher, tmp_path):
    """With joblib the jobs run at once, and all but one wait for what the one makes."""
    overrides = ["-m", f"hydra/launcher={launcher}", "policy.objective.epsilon=0.1,0.2,0.3", *TINY]
    if launcher == "joblib":
        overrides.append("hydra.launcher.n_jobs=2")
    done = done_well(run(tmp_path, *overrides))

    assert [s["overrides"][-1] for s in done.summaries]
    stages = Counter(name for job in range(3) for name in done.made(job))
    assert {stage: stages[stage] for stage in UPSTREAM} == dict.fromkeys(UPSTREAM, 1)
    assert made(tmp_path) == dict.fromkeys(artifacts(tmp_path), 1)
    assert [fault for path in artifacts(tmp_path) if (fault := damage(path))] == []
    assert {stage: len(folders) for stage, folders in finals(tmp_path).items()} == {
        **dict.fromkeys(UPSTREAM, 1),
        "policy": 3,
        "evaluate": 4,  # the start's, and each policy's
        "report": 3,
    }
    policies = [done.artifact("policy", job) / "model" / "model.safetensors" for job in range(3)]
    assert len({path.read_bytes() for path in policies}) == 3

    rows = table(tmp_path)
    assert [row["job"] for row in rows] == ["0", "1", "2"]
    for row, epsilon in zip(rows, ("0.1", "0.2", "0.3"), strict=True):
        assert f"policy.objective.epsilon={epsilon}" in row["overrides"].split()
        assert 0 <= float(row["report/policy/accuracy"]) <= 1
        assert float(row["optimized_metric"]) >= 0


def test_a_bad_job_fails_alone_and_the_exit_code_tells(copied):
    """The second job's policy has no row short enough: it fails in the middle of its stage."""
    store = copied()
    before = len(finals(store)["policy"])
    done = run(store, "-m", "policy.max_length=512,3,500", "policy.steps=5")
    assert done.code == 1
    errors = [line for line in done.output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    _, overview = done.output.split("| job | status | max_length | ")  # once
    lines = [line.split(" | ")[:3] for line in overview.splitlines()[2:5]]
    assert lines == [["| 0", "finished", "512"], ["| 1", "failed", "3"], ["| 2", "finished", "500"]]
    assert "no row to train on" in errors[0]
    assert "longer_than_max_length" in errors[0]
    finished = {
        next(o for o in summary["overrides"] if "max_length" in o)
        for summary in done.summaries
        if summary["stages"][-1]["name"] == "report"
    }
    assert finished == {"policy.max_length=512", "policy.max_length=500"}
    rows = {row["job"]: row for row in table(store)}
    assert {job for job, row in rows.items() if row["report/policy/accuracy"]} == {"0", "2"}
    assert [rows[job]["status"] for job in "012"] == ["finished", "failed", "finished"]
    assert rows["1"]["optimized_metric"] == ""
    assert len(finals(store)["policy"]) == before + 2
    (traceback,) = (store / "outputs").rglob("error.txt")
    assert traceback.parent.name == "1"
