"""What is said about unfinished and finished work under another address."""

import pytest

from rlmec.store.artifacts import ArtifactStore
from rlmec.store.begun import begun_with, differences, other_work, read_record
from rlmec.store.locks import Uses

A, B, C = (digit * 20 for digit in "abc")
RECORD = {
    "version": 1,
    "settings": {"grm": {"seed": 1, "optimizer": {"lr": 0.1, "betas": [0.9, 0.95]}}, "task": None},
    "places": {"task.path": "/one/rows.jsonl"},
    "parents": {"sample": A},
    "inputs": {"task.path": "0" * 64},
    "sources": {"torch.optim.AdamW": "torch.optim.AdamW@2.13", "rlmec.x.Y": "1" * 64},
    "libraries": {"torch": "2.13.0"},
}


def changed(node, value, **changes):
    return RECORD | {node: RECORD[node] | changes} if node != "version" else RECORD | {node: value}


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(tmp_path)


def unfinished(store, fp, record):
    store.work("grm", fp).mkdir(parents=True)
    return begun_with(store.work("grm", fp), record)


def test_a_work_folder_keeps_the_record_that_it_was_begun_with(store):
    assert unfinished(store, A, RECORD) == RECORD
    work = store.work("grm", A)
    assert begun_with(work, RECORD | {"libraries": {"torch": "2.14.0"}}) == RECORD
    (work / "begun.json").write_text('{"version": 1, "sett')
    assert read_record(work) == {}
    assert begun_with(work, RECORD) == RECORD


@pytest.mark.parametrize(
    ("node", "value", "changes", "expected"),
    [
        ("version", 2, {}, ["version: 2 -> 1"]),
        (
            "settings",
            None,
            {"task": {"path": None}},
            ["settings.task: absent -> None", "settings.task.path"],
        ),
        ("parents", None, {"sample": B}, [f"parents.sample: {B} -> {A}"]),
        ("inputs", None, {"task.path": "2" * 64}, ["inputs.task.path"]),
        (
            "sources",
            None,
            {"torch.optim.AdamW": "torch.optim.AdamW@2.12"},
            ["sources.torch.optim.AdamW: torch.optim.AdamW@2.12 -> torch.optim.AdamW@2.13"],
        ),
        ("places", None, {"task.path": "/other/rows.jsonl"}, []),
        ("libraries", None, {"torch": "2.13.1"}, []),
    ],
)
def test_differences_name_what_counts(node, value, changes, expected):
    found = differences(changed(node, value, **changes), RECORD)
    assert [text.partition(": None")[0] for text in found] == expected


def test_the_nearest_unfinished_work_is_named_with_what_differs(store):
    assert other_work(store, "grm", C, RECORD) == []
    grm = {"grm": RECORD["settings"]["grm"] | {"seed": 2, "steps": 9}}
    unfinished(store, A, changed("settings", None, **grm))
    unfinished(store, B, changed("sources", None, **{"rlmec.x.Y": "2" * 64}))
    [line] = other_work(store, "grm", C, RECORD)
    assert str(store.work("grm", B)) in line
    assert "sources.rlmec.x.Y" in line
    assert other_work(store, "policy", C, RECORD) == []


def test_work_that_a_job_is_making_and_other_configurations_are_not_named(store):
    uses = Uses(store.root)
    uses.hold("grm", A)
    unfinished(store, A, changed("version", 2))
    far = {f"key{i}": i for i in range(6)}
    unfinished(store, B, changed("settings", None, **far))
    assert other_work(store, "grm", C, RECORD) == []
    del uses
    assert len(other_work(store, "grm", C, RECORD)) == 1


@pytest.mark.parametrize(
    ("node", "changes", "named"),
    [
        ("inputs", {"task.path": "2" * 64}, True),
        ("sources", {"torch.optim.AdamW": "torch.optim.AdamW@2.12"}, True),
        ("settings", {"task": 1}, False),  # asked for
        ("parents", {"sample": B}, False),  # said where the parent was made again
    ],
)
def test_a_finished_artifact_that_only_content_or_code_keeps_from_reuse(
    store, node, changes, named
):
    record = unfinished(store, A, changed(node, None, **changes))
    store.commit("grm", A, record, drop=("begun.json",))
    lines = other_work(store, "grm", C, RECORD)
    assert len(lines) == named
    if named:
        assert str(store.final("grm", A)) in lines[0]
        assert f"{node}.{next(iter(changes))}" in lines[0]
