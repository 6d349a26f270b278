"""The table of a comparison from summaries and artifacts written here."""

import csv
import json

import pytest

from benchmarks.method_table import (
    chosen_rates,
    comparison_table,
    mean_curve,
    read_jobs,
    write_comparison,
)
from rlmec.records import Attempt
from rlmec.store.tables import write_table

# right answers of four problems by method and seed: means 0.75 and 0.5; 0.5 and 0
RIGHT = {("rlmec", 11): "1110", ("rlmec", 12): "1010", ("rft", 11): "1100", ("rft", 12): "0000"}


def artifact(folder, **manifest):
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def job(root, name, method, seed, rate=0.001, dev=0.5, right=None, steps=10, extra=()):
    """A job's folder with its summary, its policy and, where it was judged, its attempts."""
    history = [{"step": 0, "dev/accuracy": 0.1}, {"step": steps, "dev/accuracy": dev}]
    policy = artifact(
        root / "artifacts" / f"policy-{name}",
        rows=steps,
        seconds=1.5,
        metrics={"history": history},
        settings={"policy": {"tokens_per_step": 100}},
    )
    stages = [
        {
            "name": "policy",
            "variant": "",
            "artifact": str(policy),
            "metrics": {"dev/accuracy": dev},
        }
    ]
    if right is not None:
        judged = artifact(root / "artifacts" / f"evaluate-{name}")
        attempts = [
            Attempt(
                f"p{i}/0", f"p{i}", [1], [2], [], "", "right" if c == "1" else "wrong", False, "t"
            )
            for i, c in enumerate(right)
        ]
        write_table(judged / "attempts.parquet", attempts, Attempt)
        stages.append({"name": "evaluate", "variant": "", "artifact": str(judged), "metrics": {}})
    overrides = [f"method={method}", f"policy.optimizer.lr={rate}", f"policy.seed={seed}", *extra]
    place = root / "jobs" / name
    place.mkdir(parents=True)
    (place / "summary.json").write_text(json.dumps({"overrides": overrides, "stages": stages}))


@pytest.fixture
def judged(tmp_path):
    for (method, seed), right in RIGHT.items():
        job(tmp_path, f"{method}-{seed}", method, seed, right=right)
    return tmp_path


def test_each_method_gets_the_rate_that_is_best_on_dev(tmp_path):
    tried = {"rlmec": {0.001: 0.7, 0.002: 0.8}, "rft": {0.001: 0.6, 0.002: 0.6}}
    for method, rates in tried.items():
        for rate, dev in rates.items():
            job(tmp_path, f"{method}-{rate}", method, 1, rate, dev)
    assert chosen_rates(read_jobs(tmp_path)) == {"rlmec": 0.002, "rft": 0.001}
    job(tmp_path, "more", "rft", 1, 0.004, 0.9)
    with pytest.raises(ValueError, match=r"unequal numbers of learning rates.*'rft': 3"):
        chosen_rates(read_jobs(tmp_path))


def test_the_table_by_hand(judged):
    """rlmec: 0.75 and 0.5, mean 0.625, sd 0.1767767. rft: 0.5 and 0, mean 0.25, sd 0.3535534.
    Differences -0.25 and -0.5: mean -0.375, sd 0.1767767, t = -3; with one degree of freedom
    p = 1 - 2/pi atan 3 = 0.2048328. One comparison: Holm changes nothing."""
    first, second = write_comparison(read_jobs(judged), "rlmec", judged)
    assert (first.method, first.accuracy, first.p_value) == ("rlmec", 0.625, None)
    assert first.deviation == pytest.approx(0.1767767)
    assert (second.method, second.accuracy, second.difference) == ("rft", 0.25, -0.375)
    assert second.deviation == pytest.approx(0.3535534)
    assert second.p_value == second.p_holm == pytest.approx(0.2048328, abs=1e-6)
    assert -1 <= second.low < -0.375 < second.high <= 0
    assert (second.seeds, second.problems, second.tokens, second.seconds) == (2, 4, 2000, 3.0)
    rows = list(csv.DictReader((judged / "comparison.csv").read_text().splitlines()))
    assert [row["method"] for row in rows] == ["rlmec", "rft"]
    assert float(rows[1]["p_holm"]) == second.p_holm
    page = (judged / "comparison.md").read_text()
    assert "| rft | 0.001 | 25.0 % | 35.4 | -37.5 |" in page
    assert (judged / "comparison.png").read_bytes()[:4] == b"\x89PNG"


def test_an_unfair_or_unfinished_comparison_is_refused(judged):
    jobs = read_jobs(judged)
    with pytest.raises(ValueError, match=r"rft has the seeds \[12\], rlmec has \[11, 12\]"):
        comparison_table([j for j in jobs if (j.method, j.seed) != ("rft", 11)], "rlmec")
    with pytest.raises(ValueError, match=r"'dpo'.*rft, rlmec"):
        comparison_table(jobs, "dpo")
    job(judged, "others", "rft", 13, right="1100000")
    job(judged, "mine", "rlmec", 13, right="1100")
    with pytest.raises(ValueError, match="rft, seed 13: judged on other problems"):
        comparison_table(read_jobs(judged), "rlmec")
    job(judged, "late", "rft", 14)
    with pytest.raises(ValueError, match="rft, seed 14: not judged yet"):
        comparison_table(read_jobs(judged), "rlmec")


def test_a_job_of_another_sweep_is_refused_and_one_that_failed_left_out(judged):
    path = judged / "jobs" / "rft-11" / "summary.json"
    summary = json.loads(path.read_text())
    path.write_text(json.dumps(summary | {"stages": []}))
    assert len(read_jobs(judged)) == 3
    path.write_text(json.dumps(summary | {"overrides": ["method=rft"]}))
    with pytest.raises(ValueError, match=r"rft-11.*no override of policy.optimizer.lr, policy.s"):
        read_jobs(judged)


def test_a_mean_curve_has_the_steps_that_all_have():
    assert mean_curve([[(0, 0.2), (5, 0.4), (9, 1.0)], [(0, 0.4), (5, 0.8)]]) == [
        (0, pytest.approx(0.3)),
        (5, pytest.approx(0.6)),
    ]
    assert mean_curve([]) == []
