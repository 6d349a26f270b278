"""What no policy of a run reads is not made, and the report does without it."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from small_runs import run, settings_of, start_model

from rlmec.stages import flow
from rlmec.stages.run import _not_read

TAUGHT = ["method=imitation_alone", "policy.corrections=teacher"]
ALONE = "report.compare={continued_sft: null, imitation_alone: null}"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Stages of a run without a GRM and of one without a teacher, in one store."""
    root = tmp_path_factory.mktemp("unread")
    model = start_model(root / "start")
    return {
        "taught": run(root, model, *TAUGHT, ALONE),
        "continued_sft": run(root, model, "method=continued_sft", ALONE),
    }


def test_neither_grm_nor_score_is_made_where_the_teachers_corrections_are_imitated(made):
    stages = made["taught"]
    assert list(stages) == ["sample", "teach", "policy", "evaluate", "report"]
    accepted = stages["teach"]["metrics"]["teach/accepted"]
    right = stages["sample"]["metrics"]["sample/accuracy"] * stages["sample"]["rows"]
    assert stages["policy"]["metrics"]["policy/rows"] == accepted + round(right)
    assert "policy/rewards/zero" not in stages["policy"]["metrics"]
    assert not stages["policy"]["warnings"]


def test_references_alone_need_no_teacher(made):
    stages = made["continued_sft"]
    assert list(stages) == ["sample", "policy", "evaluate", "report"]
    assert stages["policy"]["rows"] == 2


@pytest.mark.parametrize("name", ["taught", "continued_sft"])
def test_the_report_says_nothing_of_token_rewards(made, name):
    folder = Path(made[name]["report"]["artifact"])
    assert not (folder / "tokens.html").exists()
    page = (folder / "index.html").read_text()
    assert not [word for word in ("tokens.html", "GRM", "unished", "#credit") if word in page]
    assert ("corrected wrong ones" in page) == (name == "taught")
    trained = {"taught": "pair_rows", "continued_sft": "reference_rows"}[name]
    said = f"The policy was trained on {trained} with the objective weighted_"
    assert said in (folder / "table.md").read_text()
    assert said in page
    facts = dict(json.loads((folder / "table.json").read_text())["facts"])
    assert "trained" in facts
    assert ("teacher" in facts) == (name == "taught")


def test_a_method_that_scores_for_itself_trains_as_from_scores(tmp_path, monkeypatch):
    """PPO with the verdict on all tokens, uncentred: all attempts of random weights are wrong."""
    model = start_model(tmp_path / "start")
    command = (model, "method=sequence_ppo", "policy.rows.center=false", "stage=policy")
    alone = run(tmp_path, *command)
    assert list(alone) == ["sample", "policy"]
    everything = ("sample", "teach", "score")
    monkeypatch.setattr(flow, "stages_read", lambda node: everything)
    scored = run(tmp_path, *command)
    assert {"grm", *everything} <= set(scored)

    assert alone["policy"]["metrics"]["policy/rewards/negative"] > 0
    assert alone["policy"]["metrics"]["policy/ratio_error/max"] < 1e-5
    names = ("policy/rows", "policy/rewards/negative", "policy/ratio_error/max")
    of_alone, of_scored = (found["policy"]["metrics"] for found in (alone, scored))
    assert [of_alone[name] for name in names] == [of_scored[name] for name in names]
    first, second = (
        load_file(Path(found["policy"]["artifact"]) / "model" / "model.safetensors")
        for found in (alone, scored)
    )
    assert {k: v.tolist() for k, v in first.items()} == {k: v.tolist() for k, v in second.items()}


def test_a_run_says_what_it_does_without(tmp_path):
    settings = settings_of(tmp_path, tmp_path)
    assert settings.teach.share == 0.8
    until = ["sample", "teach", "policy"]
    assert _not_read(settings, until) == (
        "not made, because this method reads nothing of it: grm, score; 20% of the problems are "
        "left uncorrected only to judge a GRM: teach.share=1 corrects all"
    )
    alone = "not made, because this method reads nothing of it: teach, grm, score"
    assert _not_read(settings, ["sample", "policy"]) == alone
    assert _not_read(settings_of(tmp_path, tmp_path, "teach.share=1.0"), until).endswith("score")
    assert _not_read(settings, ["sample", "teach", "grm", "score", "policy"]) == ""
    assert _not_read(settings, ["sample", "teach"]) == "", "the policy was not asked for"
