"""Importing and teaching stream: parts, a stop between them, memory that does not grow."""

import dataclasses
import json
import tracemalloc
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from small_runs import CONF, start_model

from rlmec.pipeline import import_solutions
from rlmec.pipeline.chain import Run
from rlmec.pipeline.sources import ModelSource
from rlmec.records import Attempt, Correction
from rlmec.runtime.ranks import Ranks
from rlmec.settings.check import check
from rlmec.settings.command_line import check_command_line
from rlmec.stages.sample import SampleStage
from rlmec.stages.teach import TeachStage
from rlmec.store import tables
from rlmec.store.artifacts import Artifact
from rlmec.store.parts import PartFolder
from rlmec.store.tables import read_table
from rlmec.tasks.dataset import DatasetTask
from rlmec.tasks.solution_files import SolutionFile

PROBLEMS = 20


class Stopped(Exception):
    pass


class Repeats:
    """A teacher that says what was said."""

    name = "repeats"

    def correct(self, problem, attempt):
        return attempt


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Of a run over small sums, whose oracle is the reference teacher."""
    root = tmp_path_factory.mktemp("importing")
    start_model(root / "model")
    rows = [
        {"question": f"What is {i} and {i}?", "answer": f"{2 * i}", "solution": solution(i, 0)}
        for i in range(PROBLEMS)
    ]
    write(root / "problems.jsonl", rows)
    overrides = [
        *(
            "task=dataset",
            f"++task.path.train={root}/problems.jsonl",
            "task.solution_field=solution",
        ),
        *("task.dev_share=0.0", "model=hf", f"model.path={root}/model", "logger=none"),
        *("teacher=reference", "teach.share=1.0", "teach.part_size=16", "trainer.threads=1"),
        *("trainer.progress_bar=false", f"sample.path={root}/none.jsonl"),
        *(f"paths.artifacts={root}/artifacts", f"paths.outputs={root}/outputs"),
    ]
    overrides = check_command_line(overrides, CONF, "train")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return check(compose("train", overrides=overrides), CONF)


def solution(i, off):
    return f"{i} + {i} = {2 * i + off}\nThe answer is {2 * i + off}."


def write(path: Path, rows: list) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def solutions(count: int) -> list[dict]:
    """Every third one is right, every tenth one says what the one ten before has said, for the
    same problem."""
    said = [(n % PROBLEMS, 0 if n % 3 == 0 else n // PROBLEMS + 1) for n in range(count)]
    said = [said[n - PROBLEMS] if n % 10 == 9 and n >= PROBLEMS else said[n] for n in range(count)]
    return [{"question": f"What is {i} and {i}?", "solution": solution(i, o)} for i, o in said]


def run_of(settings, path: str, root: Path) -> Run:
    sample = dataclasses.replace(settings.sample, path=path)
    return Run(dataclasses.replace(settings, sample=sample), Ranks(), root)


def imported(settings, path: str, work: Path):
    """What the stage makes of the file, and its table."""
    work.mkdir(parents=True, exist_ok=True)
    outcome = SampleStage(ModelSource(run_of(settings, path, work))).build(work, {})
    return outcome, work / "attempts.parquet"


def taught(settings, sample: Path, work: Path) -> Path:
    work.mkdir(parents=True, exist_ok=True)
    stage = TeachStage(ModelSource(run_of(settings, "", work)))
    stage.build(work, {"sample": Artifact("sample", "", sample, {})})
    return work / "corrections.parquet"


def test_parts_make_the_same_attempts_as_one(settings, tmp_path, monkeypatch):
    path = write(tmp_path / "s.jsonl", solutions(100))
    whole, table = imported(settings, path, tmp_path / "whole")
    monkeypatch.setattr(import_solutions, "PART", 7)
    cut, parts = imported(settings, path, tmp_path / "cut")
    assert len(list((tmp_path / "cut" / "parts").iterdir())) == 15
    assert cut == whole
    assert read_table(parts, Attempt) == read_table(table, Attempt)
    assert whole.metrics["sample/duplicates"] == 100 - whole.rows >= 8
    attempts = read_table(table, Attempt)
    assert len({(a.problem_id, tuple(a.completion_ids)) for a in attempts}) == len(attempts)
    assert [a.id.split("/")[1] for a in attempts if "3 + 3" in a.text][:2] == ["0", "1"]
    assert {a.is_right for a in attempts} == {True, False}


def stop_after(monkeypatch, parts: int) -> list[int]:
    """Stops the work when so many more parts are on disk; the indices written go to the list."""
    written, write_part = [], PartFolder.write

    def write(self, index, tables, counts):
        if len(written) == parts:
            raise Stopped
        write_part(self, index, tables, counts)
        written.append(index)

    monkeypatch.setattr(PartFolder, "write", write)
    return written


def test_stopped_between_parts_the_import_goes_on_there(settings, tmp_path, monkeypatch):
    path = write(tmp_path / "s.jsonl", solutions(100))
    monkeypatch.setattr(import_solutions, "PART", 16)
    judged = []
    judge = DatasetTask.judge
    monkeypatch.setattr(DatasetTask, "judge", lambda *a: judged.append(a[1]) or judge(*a))
    whole, table = imported(settings, path, tmp_path / "whole")
    assert len(judged) == 100
    with monkeypatch.context() as patched:
        assert stop_after(patched, 4) == []
        with pytest.raises(Stopped):
            imported(settings, path, tmp_path / "cut")
    assert len(list((tmp_path / "cut" / "parts").glob("part-*"))) == 4
    judged.clear()
    again, same = imported(settings, path, tmp_path / "cut")
    assert len(judged) == 100 - 4 * 16
    assert again == whole
    assert same.read_bytes() == table.read_bytes()


def test_stopped_between_parts_the_teacher_goes_on_there(settings, tmp_path, monkeypatch):
    path = write(tmp_path / "s.jsonl", solutions(100))
    imported(settings, path, tmp_path / "sample")
    table = taught(settings, tmp_path / "sample", tmp_path / "whole")
    with monkeypatch.context() as patched:
        stop_after(patched, 2)
        with pytest.raises(Stopped):
            taught(settings, tmp_path / "sample", tmp_path / "cut")
    written = stop_after(monkeypatch, 100)
    same = taught(settings, tmp_path / "sample", tmp_path / "cut")
    assert written[0] == 2
    assert same.read_bytes() == table.read_bytes()
    made = read_table(table, Correction)
    wrong = [a for a in read_table(tmp_path / "sample" / "attempts.parquet", Attempt) if a.is_wrong]
    assert [c.attempt_id for c in made] == [a.id for a in wrong]
    assert sum(c.accepted for c in made) > len(made) / 2


@pytest.mark.parametrize("change", ["a row more", "a part more", "a part less"])
def test_a_file_that_changes_while_it_is_read_is_refused(change, settings, tmp_path, monkeypatch):
    rows, found = solutions(44), SolutionFile.found
    path = write(tmp_path / "s.jsonl", rows)
    monkeypatch.setattr(import_solutions, "PART", 8)
    rest = {
        "a row more": [*rows, rows[0]],
        "a part more": rows + rows[:8],
        "a part less": rows[:32],
    }

    def counted(self):
        out = found(self)
        write(Path(path), rest[change])
        return out

    monkeypatch.setattr(SolutionFile, "found", counted)
    with pytest.raises(ValueError, match="has changed since its rows were counted"):
        imported(settings, path, tmp_path / "work")


def peak(work) -> int:
    """The most bytes of Python's own that the work holds at once."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_file(settings, tmp_path, monkeypatch):
    """Of 600 solutions more some bytes each are held (digests of what was said), where a solution
    alone takes more than 200, and an attempt some thousand."""
    monkeypatch.setattr(import_solutions, "PART", 32)
    monkeypatch.setattr(tables, "ROWS_AT_ONCE", 32)
    monkeypatch.setattr("rlmec.stages.teach.build", lambda node, task: Repeats())
    found = []
    for at, count in enumerate((32, 200, 800, 800)):  # the first one fills the caches
        path = write(tmp_path / f"{at}.jsonl", solutions(count))
        sample, teach = tmp_path / f"sample-{at}", tmp_path / f"teach-{at}"
        both = (
            peak(lambda p=path, s=sample: imported(settings, p, s)),
            peak(lambda s=sample, t=teach: taught(settings, s, t)),
        )
        found.append(both)
    _, few, *many = found
    grown = [(min(several) - one) / 600 for one, *several in zip(few, *many, strict=True)]
    assert max(grown) < 150, (grown, found)
