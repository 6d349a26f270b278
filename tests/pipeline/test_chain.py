"""What counts in an artifact's address, and what is found again under it."""

import re
from pathlib import Path

import pytest
from small_runs import run, settings_of, start_model

from rlmec.pipeline import chain
from rlmec.stages.run import addresses


@pytest.mark.parametrize(
    ("target", "remade"),
    [
        ("rlmec.method.rewards.clipped_probability", {"policy", "evaluate", "report"}),
        (
            "rlmec.teachers.oracle.OracleTeacher",
            {"teach", "grm", "score", "policy", "evaluate", "report"},
        ),
    ],
)
def test_edited_code_remakes_what_it_shapes(target, remade, tmp_path, monkeypatch):
    settings = settings_of(tmp_path, start_model(tmp_path / "model"))
    before = {(n.stage, n.fingerprint) for n in addresses(settings)}
    whole = chain.source_digest
    monkeypatch.setattr(chain, "source_digest", lambda t: "edited" if t == target else whole(t))
    after = {(n.stage, n.fingerprint) for n in addresses(settings)}
    assert {stage for stage, _ in before - after} == remade


def test_what_a_kill_right_behind_the_commit_left_is_removed(tmp_path, capsys):
    model = start_model(tmp_path / "model")
    artifact = Path(run(tmp_path, model, "stage=sample")["sample"]["artifact"])
    left = artifact / "parts"
    left.mkdir()
    (left / "one").write_bytes(b"1")
    assert not run(tmp_path, model, "stage=sample")["sample"]["made"]
    assert not left.exists()

    # Made again because a file has changed, and not because it was asked for: that is said.
    (model / "config.json").write_text((model / "config.json").read_text() + "\n")
    differs = f"{artifact} is not reused: it differs in inputs.model"
    with pytest.raises(FileNotFoundError, match=re.escape(differs)):
        run(tmp_path, model, "stage=sample", "resume=required")
    capsys.readouterr()
    assert run(tmp_path, model, "stage=sample")["sample"]["made"]
    assert differs in capsys.readouterr().out
