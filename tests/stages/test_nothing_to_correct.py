"""A round without anything to correct is a success: the policy stays, and the report says so."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file
from small_runs import settings_of, start_model

from rlmec.pipeline.chain import Run
from rlmec.records import Attempt, Correction
from rlmec.runtime.ranks import Ranks
from rlmec.stages import flow, grm, policy, train
from rlmec.store.artifacts import Artifact
from rlmec.store.tables import read_table, write_table


@pytest.fixture(scope="module")
def saturated(tmp_path_factory):
    """Two rounds: of round 1 every attempt is right (imported), of round 2 all are wrong, but there
    is no GRM to score them with."""
    root = tmp_path_factory.mktemp("saturated")
    model = start_model(root / "start")
    task = Run(settings_of(root, model), Ranks(), root).task
    right = [{"question": p.question, "solution": p.solution} for p in task.problems("train")]
    (root / "right.jsonl").write_text("".join(json.dumps(row) + "\n" for row in right))

    overrides = ["rounds=2", f"sample.path={root / 'right.jsonl'}", "policy.val_problems=4"]
    folder = root / "outputs" / "run"
    folder.mkdir(parents=True)
    metric = train(settings_of(root, model, *overrides), Ranks(), folder, overrides)
    entries = json.loads((folder / "summary.json").read_text())["stages"]
    stages = {(s["name"], s["round"]): s for s in entries if not s["variant"]}
    return model, metric, stages


def test_the_chain_ends_well_and_the_sweep_has_its_metric(saturated):
    _, metric, stages = saturated
    assert stages["sample", 1]["metrics"]["sample/accuracy"] == 1.0
    assert (stages["teach", 1]["rows"], stages["grm", 1]["rows"]) == (0, 0)
    assert stages["teach", 2]["rows"] > 0
    assert metric == stages["policy", 2]["metrics"]["dev/accuracy"] == 0.0


@pytest.mark.parametrize(
    ("number", "why"), [(1, "no attempt at a taught problem is wrong"), (2, "no correction was")]
)
def test_an_idle_round_hands_on_the_policy_that_it_got(saturated, number, why):
    model, _, stages = saturated
    entry = stages["policy", number]
    assert entry["metrics"]["policy/untrained"].startswith(why)
    assert entry["rows"] == 0
    assert any("policy_untrained" in warning for warning in entry["warnings"])
    ours = load_file(Path(entry["artifact"]) / "model" / "model.safetensors")
    start = load_file(model / "model.safetensors")
    assert {k: v.tolist() for k, v in ours.items()} == {k: v.tolist() for k, v in start.items()}


def test_the_report_is_made_and_says_so(saturated):
    _, _, stages = saturated
    folder = Path(stages["report", 1]["artifact"])
    table = (folder / "table.md").read_text()
    assert [f"Round {n}, policy_untrained" in table for n in (1, 2)] == [True, True]
    assert (folder / "index.html").is_file()
    lines = json.loads((folder / "table.json").read_text())["lines"]
    assert [line["updates"] for line in lines] == [None, 0, 0]


def grm_stage(root, model, *overrides):
    settings = settings_of(root, model, *overrides)
    return flow.rounds(Run(settings, Ranks(), root))[-1].grm


def parents_of(folder, attempts, corrections, accuracy):
    folder.mkdir(exist_ok=True)
    write_table(folder / "attempts.parquet", attempts, Attempt)
    write_table(folder / "corrections.parquet", corrections, Correction)
    metrics = {"sample/accuracy": accuracy}
    made = Artifact("sample", "f", folder, {"metrics": metrics, "rows": len(attempts)})
    return {"sample": made, "teach": made}


def records(saturated):
    """Wrong attempts and their accepted corrections, of round 2."""
    _, _, stages = saturated
    attempts = read_table(Path(stages["sample", 2]["artifact"]) / "attempts.parquet", Attempt)
    made = read_table(Path(stages["teach", 2]["artifact"]) / "corrections.parquet", Correction)
    return attempts, [c for c in made if c.accepted]


def test_a_teacher_that_is_always_refused_is_an_error_unless_hardly_any_attempt_is_wrong(
    saturated, tmp_path
):
    model, _, _ = saturated
    attempts, accepted = records(saturated)
    refused = [replace(c, reason="not_right") for c in accepted[:3]]
    stage = grm_stage(tmp_path, model)
    with pytest.raises(ValueError, match="none of 3 corrections"):
        stage.taught(parents_of(tmp_path / "half", attempts, refused, 0.5))
    few = parents_of(tmp_path / "few", attempts, refused, grm.ALL_RIGHT)
    assert not stage.taught(few).corrections


def test_a_few_corrections_are_not_all_held_out(saturated, tmp_path):
    model, _, _ = saturated
    attempts, accepted = records(saturated)
    stage = grm_stage(tmp_path, model, "grm.val_share=0.999")
    taught = stage.taught(parents_of(tmp_path / "few", attempts, accepted[:2], 0.5))
    held_out = len(taught.val_corrections), len(taught.val_attempts)
    assert (len(taught.corrections), held_out) == (2, (0, 0))


def test_a_round_with_corrections_and_a_grm_has_something_to_learn(tmp_path):
    def made(rows, **metrics):
        return Artifact("s", "f", tmp_path, {"rows": rows, "metrics": metrics})

    assert policy.nothing_to_learn({"teach": made(3), "score": made(9)}, asked=True) == ""
    assert policy.nothing_to_learn({"teach": made(0), "score": made(9)}, asked=True)
    assert policy.nothing_to_learn({"teach": made(0), "score": made(9)}, asked=False) == ""
    refused = made(3, **{"teach/accepted": 0})
    assert policy.nothing_to_learn({"teach": refused}, asked=True) == "no correction was accepted"
    assert policy.nothing_to_learn({"teach": made(3, **{"teach/accepted": 1})}, asked=True) == ""
    assert policy.nothing_to_learn({"teach": refused}, asked=False) == ""
    assert policy.nothing_to_learn({}, asked=True) == "", "a method that reads no corrections"
    untrained = made(9, **{"grm/untrained": 1})
    assert policy.nothing_to_learn({"teach": made(3), "score": untrained}, asked=True)
