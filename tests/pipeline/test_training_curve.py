"""A fit leaves what it logged as rows beside its model."""

import json

from small_fits import credited_rows, data_of, fitted, run_of
from small_models import network

from rlmec.pipeline.chain import curve_of, warnings_of
from rlmec.store.artifacts import Artifact


def artifact(folder, **manifest):
    return Artifact("policy", "f", folder, {"metrics": {}, **manifest})


def test_a_fit_leaves_a_row_for_every_logged_step(tmp_path):
    net = network()
    rows = credited_rows(net)
    _, history = fitted(tmp_path, net, data_of(rows, steps=5), run=run_of(log_every=2))
    assert history == []
    found = curve_of(artifact(tmp_path))
    assert [row["step"] for row in found] == [2, 4, 5]  # and the last one
    assert all({"train/loss", "train/ratio/mean", "train/approx_kl"} <= set(row) for row in found)


def test_histories_of_validation_stand_among_the_rows(tmp_path):
    (tmp_path / "curve.jsonl").write_text(json.dumps({"step": 1.0, "train/loss": 2.0}) + "\n")
    history = [{"step": 0.0, "dev/accuracy": 0.1}]
    found = curve_of(artifact(tmp_path, metrics={"history": history}))
    assert found == [{"step": 1.0, "train/loss": 2.0}, *history]
    assert curve_of(artifact(tmp_path / "none")) == []


def test_a_variant_warns_of_nothing(tmp_path):
    bad = {f"policy/rewards/{s}": n for s, n in (("positive", 0), ("negative", 9), ("zero", 9))}
    assert [w.name for w in warnings_of(artifact(tmp_path, metrics=bad))]
    assert warnings_of(artifact(tmp_path, metrics=bad, variant="other")) == []


def test_every_judged_model_warns_under_its_name(tmp_path):
    cut = {"metrics": {"eval/t/clipped_rate": 0.5}, "variant": "start"}
    (found,) = warnings_of(Artifact("evaluate", "f", tmp_path, cut))
    assert found.name == "evaluation_clipped"
    assert found.text.startswith("start: 50.0% ")


def test_a_warning_of_a_later_round_says_which(tmp_path):
    bad = {f"policy/rewards/{s}": n for s, n in (("positive", 0), ("negative", 9), ("zero", 9))}
    first = warnings_of(artifact(tmp_path, metrics=bad, settings={}))
    later = warnings_of(artifact(tmp_path, metrics=bad, settings={"round": 2}))
    assert [w.text for w in later] == [f"round 2: {w.text}" for w in first] != []
