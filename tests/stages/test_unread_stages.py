"""What no policy of a run reads is not made, and the report does without it."""

import json
from pathlib import Path

import pytest
from small_runs import run, start_model

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
    facts = dict(json.loads((folder / "table.json").read_text())["facts"])
    assert "trained" in facts
    assert ("teacher" in facts) == (name == "taught")
