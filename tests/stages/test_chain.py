"""What an artifact's address hangs on."""

import pytest
from small_runs import settings_of, start_model

from rlmec.stages import chain
from rlmec.stages.addressing import addresses


@pytest.mark.parametrize(
    ("target", "remade"),
    [
        ("rlmec.rewards.clipped_probability", {"policy", "evaluate", "report"}),
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
