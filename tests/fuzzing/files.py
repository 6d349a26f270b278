"""Spoiled files for what reads them: rows, tasks, imports, tables, parts, manifests, notes."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from rlmec.evaluation.stored_outputs import read_stored
from rlmec.export.model_folder import Origin, read_origin, write_origin
from rlmec.prompts import Templates
from rlmec.records import (
    VERDICTS,
    Alternatives,
    Attempt,
    Correction,
    Problem,
    Score,
)
from rlmec.settings.schema import PruneSettings
from rlmec.store.artifacts import MANIFEST, ArtifactError, ArtifactStore
from rlmec.store.inventory import list_entries
from rlmec.store.parts import PartFolder
from rlmec.store.prune import reasons_to_keep, removal_order
from rlmec.store.tables import (
    TableError,
    count_rows,
    read_table,
    write_table,
)
from rlmec.tasks.dataset import DatasetTask
from rlmec.tasks.gsm8k import Gsm8kTask
from rlmec.tasks.math import MathTask
from rlmec.tasks.mmlu import MmluTask
from rlmec.tasks.multiple_choice import OptionTask
from rlmec.tasks.rows import read_rows
from rlmec.tasks.solution_files import SolutionFile
from rlmec.tasks.svamp import SvampTask
from rlmec.teachers.server_calls import AnswerCache
from rlmec.teachers.services import Answer

from .mutations import spoiled_bytes, spoiled_rows, spoiled_text, spoiled_value
from .runner import Changed, Refused, refusing
from .seeds import ROWS

DIGEST = "ab" * 32
TASKS: dict[str, Callable[[str], Any]] = {
    "gsm8k": lambda path: Gsm8kTask(path={"test": path}),
    "svamp": lambda path: SvampTask(path={"test": path}),
    "mmlu": lambda path: MmluTask(path=path),
    "options": lambda path: OptionTask("options", path={"test": path}),
    "math": lambda path: MathTask(path={"test": path}),
    "dataset": lambda path: DatasetTask({"test": path}),
    "fields": lambda path: DatasetTask(
        {"test": path}, solution_field="solution", id_field="id", kind_field="kind", answers="text"
    ),
}


def _written(rng: random.Random, folder: Path, name: str) -> tuple[Path, bytes]:
    path, data = folder / f"{name}.jsonl", spoiled_rows(rng, ROWS[name])
    path.write_bytes(data)
    return path, data


def _unchanged(path: Path, data: bytes) -> None:
    if path.read_bytes() != data:
        raise Changed(f"{path} was written to")


def rows(rng: random.Random, folder: Path) -> None:
    name = rng.choice(sorted(ROWS))
    path, data = _written(rng, folder, name)
    with refusing(str(path)):
        for row in read_rows(str(path)):
            for field in row.values:
                row.text(field).encode()
    _unchanged(path, data)


def tasks(rng: random.Random, folder: Path) -> None:
    name = rng.choice(sorted(TASKS))
    path, data = _written(rng, folder, name)
    task = TASKS[name](str(path))
    with refusing(str(path)):
        problems = task.problems("test")
    _unchanged(path, data)
    for problem in problems:
        told = (problem.id, problem.question, problem.answer, problem.solution or "", problem.kind)
        "".join((*told, *problem.options)).encode()
        if name not in ("math", "dataset"):
            assert task.judge(problem.solution or "", problem) in VERDICTS
            assert task.judge(spoiled_text(rng, told[3]), problem) in VERDICTS
    assert all(len(line) < 1500 for line in task.left_out)


def imports(rng: random.Random, folder: Path) -> None:
    path, data = _written(rng, folder, "solutions")
    known = [Problem(f"p{n}", f"q{n}?", str(n)) for n in range(3)]
    fields = rng.choice(
        [("*.solution", "*.is_correct"), ("one.solution", None), ("question", None)]
    )
    if rng.random() < 0.1:
        fields = (spoiled_text(rng, "*.solution")[:50], fields[1])
    named = () if fields[0] != "*.solution" else (str(path),)
    with refusing(*named):
        file = SolutionFile(str(path), known, *fields)
        solutions, found = list(file), file.found()
        assert len(solutions) == found.solutions
        assert all(s.problem_id in {p.id for p in known} for s in solutions)
        "".join(s.text + s.source for s in solutions).encode()
    _unchanged(path, data)


def stored(rng: random.Random, folder: Path) -> None:
    path, data = _written(rng, folder, "solutions")
    known = [Problem(f"p{n}", f"q{n}?", str(n)) for n in range(3)]
    task = TASKS["dataset"](str(_good_problems(folder)))
    field = rng.choice(["one.solution", "question", "two"])
    with refusing(str(path)):
        found = read_stored(str(path), task, known, field, "question")
        assert all(output.verdict in VERDICTS for output in found)
    _unchanged(path, data)


def _good_problems(folder: Path) -> Path:
    path = folder / "good.jsonl"
    if not path.exists():
        path.write_text('{"question": "q?", "answer": 1}\n')
    return path


# ---- tables and parts -------------------------------------------------------------------------

RECORDS: dict[type, list[Any]] = {
    Attempt: [
        Attempt(f"p{i}/0", f"p{i}", [1, i], [5, 6], [-0.5, -0.25], "añ\n🙂", "right", False, "t")
        for i in range(4)
    ],
    Correction: [Correction("a", "p", [], "x", "wrong", 0.5, "no_proposal", "oracle", "t")] * 2,
    Score: [Score("a", [-0.5, -3.0], [-1.0, 0.0], "t")],
    Alternatives: [Alternatives("a", [3], [5, 6], [-0.5, -1.0], "t")],
    Problem: [Problem("p", "q?", "4", options=("a", "b")), Problem("q", "r?", "5", "s", "k")],
}


@cache
def _good_table(folder: Path, record: type) -> bytes:
    path = folder / "good.parquet"
    write_table(path, RECORDS[record], record)
    return path.read_bytes()


def tables(rng: random.Random, folder: Path) -> None:
    record = rng.choice(list(RECORDS))
    data = spoiled_bytes(rng, _good_table(folder, record))
    path = folder / "table.parquet"
    path.write_bytes(data)
    with refusing(str(path), kinds=(TableError,)):
        count = count_rows(path)
        found = read_table(path, record)
        if found != RECORDS[record] or count != len(found):
            raise Changed(f"other rows were read than were written: {str(found)[:200]}")
    _unchanged(path, data)


def parts(rng: random.Random, folder: Path) -> None:
    work = folder / "parts"
    shutil.rmtree(work, ignore_errors=True)
    made, good = PartFolder(work, 2), RECORDS[Attempt]
    for index in range(2):
        made.write(index, {"attempts": (good, Attempt)}, {"rows": len(good)})
    path = made.part(1) / rng.choice(("part.json", "attempts.parquet"))
    before = path.read_bytes()
    data = spoiled_bytes(rng, before)
    path.write_bytes(data)
    missing = made.missing()
    assert missing in ([], [1]), missing
    if missing:
        assert not made.part(1).exists()
        raise Refused("made again")
    if path.suffix == ".parquet" and data != before:
        raise Changed("a part with another table was taken for whole")
    assert made.merge("attempts", Attempt, folder / "merged.parquet") == 2 * len(good)
    assert read_table(folder / "merged.parquet", Attempt) == [*good, *good]
    made.counts()


# ---- the store --------------------------------------------------------------------------------

CHAIN = {"sample": "a" * 20, "teach": "b" * 20, "policy": "c" * 20}


def _store(folder: Path) -> ArtifactStore:
    store, parents = ArtifactStore(folder / "store"), {}
    if not store.root.exists():
        for stage, fp in CHAIN.items():
            store.work(stage, fp).mkdir(parents=True)
            manifest = {"rows": 3, "metrics": {"x": 0.5}, "parents": dict(parents)}
            store.commit(stage, fp, manifest | {"settings": {"task": {"path": "x"}}})
            parents[stage] = fp
    return store


def manifests(rng: random.Random, folder: Path) -> None:
    """One manifest of a chain of three is spoiled, read, and put back."""
    store = _store(folder)
    stage = rng.choice(sorted(CHAIN))
    path = store.final(stage, CHAIN[stage]) / MANIFEST
    good = path.read_bytes()
    if rng.random() < 0.5:
        data = spoiled_bytes(rng, good)
    else:
        value = spoiled_value(rng, json.loads(good))
        data = json.dumps(value).encode() if rng.random() < 0.98 else b'{"a":' * 3000
    path.write_bytes(data)
    try:
        _looked_at(store, stage, path, data)
    finally:
        path.write_bytes(good)


def _looked_at(store: ArtifactStore, stage: str, path: Path, data: bytes) -> None:
    entries = {e.stage: e for e in list_entries(store.root)}
    assert set(entries) == set(CHAIN)
    now = time.time() + 40 * 86400
    prune = PruneSettings(keep_days=14.0, work_days=7.0, dry_run=True)
    kept = reasons_to_keep(list(entries.values()), [], [], prune, now)
    assert kept == {}
    assert len(removal_order(list(entries.values()))) == len(CHAIN)
    _unchanged(path, data)
    state = entries[stage].state
    assert all(e.state == "whole" for s, e in entries.items() if s != stage)
    with refusing(str(path.parent), kinds=(ArtifactError,)):
        found = store.find(stage, CHAIN[stage])
        assert state == "whole"
        assert found is not None
        assert dict(found.metrics) == found.metrics
        return
    assert state == "damaged"


def notes(rng: random.Random, folder: Path) -> None:
    """Small JSON files beside models and answers."""
    if rng.random() < 0.5:
        path = folder / "rlmec.json"
        write_origin(folder, Origin("policy", Templates("{question}", "r", "a", "l", "d"), "t", 9))
    else:
        path = folder / DIGEST[:2] / f"{DIGEST}.json"
        AnswerCache(folder).keep(DIGEST, {"a": 1}, Answer("text", 3, 4))
    good = path.read_bytes()
    if rng.random() < 0.5:
        data = spoiled_bytes(rng, good)
    else:
        data = json.dumps(spoiled_value(rng, json.loads(good))).encode()
    path.write_bytes(data)
    with refusing(str(path)):
        if path.name == "rlmec.json":
            read_origin(folder)
        else:
            AnswerCache(folder).find(DIGEST)
    _unchanged(path, data)
