"""The table of a comparison from summaries and artifacts written here."""

import csv
import json

import pytest

from benchmarks.method_table import (
    comparison_table,
    dev_accuracies,
    mean_curve,
    read_jobs,
    updates_for_all_tokens,
    write_comparison,
)
from rlmec.records import Attempt, Correction, Score
from rlmec.store.tables import write_table

# right answers of four problems by method and seed: means 0.75 and 0.5; 0.5 and 0
RIGHT = {("rlmec", 11): "1110", ("rlmec", 12): "1010", ("rft", 11): "1100", ("rft", 12): "0000"}


def artifact(folder, **manifest):
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def job(root, name, method, seed, rate=0.001, dev=0.5, right=None, steps=10, chain=1):
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
    overrides = [
        f"method={method}",
        f"policy.optimizer.lr={rate}",
        f"policy.seed={seed}",
        f"seed={chain}",
    ]
    place = root / "jobs" / name
    place.mkdir(parents=True)
    (place / "summary.json").write_text(json.dumps({"overrides": overrides, "stages": stages}))


@pytest.fixture
def judged(tmp_path):
    for (method, seed), right in RIGHT.items():
        job(tmp_path, f"{method}-{seed}", method, seed, right=right)
    return tmp_path


def test_dev_accuracies_are_those_of_the_last_weights(tmp_path):
    """Two jobs at 0.001, with 0.7 and 0.5; one at 0.002, which was better before its end."""
    job(tmp_path, "a", "rlmec", 1, 0.001, 0.7)
    job(tmp_path, "b", "rlmec", 2, 0.001, 0.5)
    job(tmp_path, "c", "rlmec", 1, 0.002, 0.05)  # 0.1 at step 0
    found = dev_accuracies(tmp_path, "policy.optimizer.lr")
    assert found == pytest.approx({"0.001": 0.6, "0.002": 0.05})


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
    # One degree of freedom: t_0.975 = 12.7062, t_0.8 = 1.376382; the standard error is 0.125.
    assert (second.low, second.high) == pytest.approx((-1.963276, 1.213276), abs=1e-5)
    assert second.detectable == pytest.approx(1.760323, abs=1e-5)
    assert (second.chains, second.seeds, second.problems) == (1, 2, 4)
    assert (second.tokens, second.seconds) == (2000, 3.0)
    rows = list(csv.DictReader((judged / "comparison.csv").read_text().splitlines()))
    assert [row["method"] for row in rows] == ["rlmec", "rft"]
    assert float(rows[1]["p_holm"]) == second.p_holm
    page = (judged / "comparison.md").read_text()
    assert "| rft | 0.001 | 25.0 % | 35.4 | -37.5 |" in page
    assert "2 seeds on one chain: other chains are not covered" in page
    assert (judged / "comparison.png").read_bytes()[:4] == b"\x89PNG"


def test_the_unit_is_the_chain(tmp_path):
    """Shares of two seeds in each of three chains, of two problems. rlmec: (1, 0.5), (0.5, 0.5),
    (1, 1), so 0.75, 0.5, 1; rft: 0.5, 0.25, 0.25. Differences 0.25, 0.25, 0.75: mean 0.4166667, sd
    0.2886751, t = 2.5; with two degrees of freedom p = 1 - t / sqrt(2 + t^2) = 0.1296118."""
    right = {
        "rlmec": {1: ("11", "10"), 2: ("10", "01"), 3: ("11", "11")},
        "rft": {1: ("10", "10"), 2: ("10", "00"), 3: ("00", "01")},
    }
    for method, chains in right.items():
        for chain, (one, two) in chains.items():
            job(tmp_path, f"{method}-{chain}-1", method, 11, right=one, chain=chain)
            job(tmp_path, f"{method}-{chain}-2", method, 12, right=two, chain=chain)
    first, second = write_comparison(read_jobs(tmp_path), "rlmec", tmp_path)
    assert (first.chains, first.seeds, first.accuracy) == (3, 2, 0.75)
    assert first.deviation == pytest.approx(0.25)
    assert second.difference == pytest.approx(-0.4166667)
    assert second.p_value == pytest.approx(0.1296118, abs=1e-6)
    assert (
        "3 chains, each from its own start, with 2 trainings of"
        in (tmp_path / "comparison.md").read_text()
    )


def test_an_unfair_or_unfinished_comparison_is_refused(judged):
    jobs = read_jobs(judged)
    with pytest.raises(ValueError, match=r"rft has the \(chain, seed\) \[\(1, 12\)\], rlmec"):
        comparison_table([j for j in jobs if (j.method, j.seed) != ("rft", 11)], "rlmec")
    with pytest.raises(ValueError, match=r"'dpo'.*rft, rlmec"):
        comparison_table(jobs, "dpo")
    job(judged, "others", "rft", 13, right="1100000")
    job(judged, "mine", "rlmec", 13, right="1100")
    with pytest.raises(ValueError, match="chain 1, seed 13: judged on other problems"):
        comparison_table(read_jobs(judged), "rlmec")
    job(judged, "late", "rft", 14)
    with pytest.raises(ValueError, match="rft, chain 1, seed 14: not judged yet"):
        comparison_table(read_jobs(judged), "rlmec")


def test_a_job_of_another_sweep_is_refused_and_one_that_failed_left_out(judged):
    path = judged / "jobs" / "rft-11" / "summary.json"
    summary = json.loads(path.read_text())
    path.write_text(json.dumps(summary | {"stages": []}))
    assert len(read_jobs(judged)) == 3
    path.write_text(json.dumps(summary | {"overrides": ["method=rft"]}))
    with pytest.raises(ValueError, match=r"rft-11.*no override of policy.optimizer.lr, seed,"):
        read_jobs(judged)


def test_a_mean_curve_has_the_steps_that_all_have():
    assert mean_curve([[(0, 0.2), (5, 0.4), (9, 1.0)], [(0, 0.4), (5, 0.8)]]) == [
        (0, pytest.approx(0.3)),
        (5, pytest.approx(0.6)),
    ]
    assert mean_curve([]) == []


def test_all_tokens_pay_for_more_updates(tmp_path):
    """By hand: the policy had 10 * 100 tokens, the GRM 20 * 70 = 1400, it scored 3 + 2 and wrote 4;
    (1000 + 1409) / 1000 * 10 = 24.09."""
    policy = artifact(tmp_path / "policy", rows=10, settings={"policy": {"tokens_per_step": 100}})
    grm = artifact(tmp_path / "grm", rows=20, settings={"grm": {"tokens_per_step": 70}})
    score = artifact(tmp_path / "score")
    scores = [Score(f"p{n}/0", [0.0] * n, [0.0] * n, "t") for n in (3, 2)]
    write_table(score / "scores.parquet", scores, Score)
    made = Correction("p1/0", "p1", [1, 2, 3, 4], "", "right", 0.1, "accepted", "grm", "t")
    write_table(score / "corrections.parquet", [made], Correction)
    named = {"policy": policy, "grm": grm, "score": score}
    stages = [{"name": n, "variant": "", "artifact": str(a)} for n, a in named.items()]
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "summary.json").write_text(json.dumps({"stages": stages}))
    assert updates_for_all_tokens(tmp_path / "job") == 24
    with pytest.raises(ValueError, match=r"0 summary\.json"):
        updates_for_all_tokens(score)
