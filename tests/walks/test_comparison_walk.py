"""Methods on one finished chain: what lies upstream is shared, a comparison goes on and repeats."""

import csv
import json

import pytest
from walk import ROOT, done_well, finals, run

pytestmark = pytest.mark.slow
METHODS = ("rlmec", "rft", "dpo_corrections", "grpo")
REASONS = ("accepted", "no_proposal", "clipped", "unchanged", "not_right", "too_many_edits")


def test_every_kind_of_method_trains_on_one_set_of_scores(copied):
    """The start's log-probs of corrections pass the check of the ratio at step 0. Without the GRM's
    corrections as many more attempts are dropped as it corrected. With its corrections alone it
    rewrites all wrong attempts, and those that it fails to correct are dropped."""
    store = copied()
    before = {stage: len(found) for stage, found in finals(store).items()}
    done = done_well(
        run(store, "-m", f"method={','.join(METHODS)}", "stage=policy", "policy.steps=6")
    )
    assert [done.made(job) for job in range(len(METHODS))] == [["policy"]] * len(METHODS)
    after = {stage: len(found) for stage, found in finals(store).items()}
    assert after == before | {"policy": before["policy"] + len(METHODS)}
    figures = {name: done.metrics("policy", job) for job, name in enumerate(METHODS)}
    for name in ("dpo_corrections", "grpo"):  # they compute log-probs by parts
        assert not (done.artifact("policy", METHODS.index(name)) / "parts").exists()
    assert figures["dpo_corrections"]["policy/rewards/negative"] > 0
    assert "policy/rewards/negative" not in figures["rft"], "it reads no scores"
    whole = done.metrics("score", METHODS.index("rlmec"))

    line = ["-m", "ablation=teacher_only,grm_only", "stage=policy", "policy.steps=6"]
    others = done_well(run(store, *line))
    dropped = [
        at.metrics("policy", job)["policy/dropped/uncorrected"]
        for at, job in ((done, 0), (others, 0), (others, 1))
    ]
    assert dropped[1] - dropped[0] == whole["score/accepted"]
    alone = others.metrics("score", 1)
    shown = {job: sum(f[f"score/{r}"] for r in REASONS) for job, f in enumerate((whole, alone))}
    assert shown[1] == shown[0] + others.metrics("teach")["teach/accepted"]
    assert dropped[2] == shown[1] - alone["score/accepted"]


@pytest.mark.long
def test_a_comparison_makes_its_table_and_repeats_nothing(copied):
    store = copied()
    folder = store / "comparison"
    line = [str(folder), "--methods", "rlmec,rft", "--rates", "0.001,0.002", "--seeds", "11,12"]
    line += ["--chains", "2"]
    line.append("policy.steps=6")
    done_well(run(store, *line, program=ROOT / "benchmarks" / "compare.py"))
    before = {stage: len(found) for stage, found in finals(store).items()}
    rows = list(csv.DictReader((folder / "comparison.csv").read_text().splitlines()))
    assert [row["method"] for row in rows] == ["rlmec", "rft"]
    assert {row["seeds"] for row in rows} == {"2"}
    assert {row["problems"] for row in rows} == {"48"}
    chosen = json.loads((folder / "chosen.json").read_text())
    rates = {method: float(found["policy.optimizer.lr"]) for method, found in chosen.items()}
    assert {row["method"]: float(row["rate"]) for row in rows} == rates
    table = (folder / "comparison.csv").read_bytes()
    done_well(run(store, *line, program=ROOT / "benchmarks" / "compare.py"))
    assert {stage: len(found) for stage, found in finals(store).items()} == before
    assert (folder / "comparison.csv").read_bytes() == table
