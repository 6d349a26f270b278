"""What an artifact's address hangs on, and what is met again with it."""

from pathlib import Path

import pytest
from small_runs import run, settings_of, start_model

from rlmec.pipeline import chain
from rlmec.pipeline.chain import task_files
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


def test_what_a_kill_right_behind_the_commit_left_is_removed(tmp_path):
    model = start_model(tmp_path / "model")
    artifact = Path(run(tmp_path, model, "stage=sample")["sample"]["artifact"])
    left = artifact / "parts"
    left.mkdir()
    (left / "one").write_bytes(b"1")
    assert not run(tmp_path, model, "stage=sample")["sample"]["made"]
    assert not left.exists()


def test_every_file_behind_a_path_counts_for_the_address(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(name)
    (tmp_path / "README.md").write_text("x")
    one = task_files({"path": str(tmp_path / "a.jsonl")})
    assert list(one) == ["task.path"]
    listed = [f"{tmp_path}/a.jsonl", f"{tmp_path}/b.jsonl"]
    for path in (str(tmp_path), f"{tmp_path}/*.jsonl", listed):
        found = task_files({"path": path})
        assert list(found) == ["task.path.0", "task.path.1"]
        assert found["task.path.0"] == one["task.path"] != found["task.path.1"]
    split = task_files({"path": {"train": f"{tmp_path}/a.jsonl", "dev": None}})
    assert split == {"task.train": one["task.path"]}
    assert (
        task_files({"path": None}) == task_files(None) == task_files({"path": "none.jsonl"}) == {}
    )
