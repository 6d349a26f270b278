"""Ready-made solutions: wildcards, labels, unknown problems, refusals, and the released file."""

import json
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest

from rlmec.records import Problem
from rlmec.tasks.gsm8k import Gsm8kTask
from rlmec.tasks.solution_files import Found, ImportedSolution, SolutionFile

PROBLEMS = [Problem("p1", "One?", "1"), Problem("p2", "Two?", "2")]


def write(path: Path, rows: list) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


def test_a_wildcard_takes_every_object_that_holds_the_field(tmp_path):
    rows = [
        {
            "question": "Two? ",
            "gpt-3.5": {"solution": "A: 2", "ok": True},
            "other": {"note": "x"},
            "b": {"solution": "A: 3", "ok": 0},
        },
        {"question": "Three?", "b": {"solution": "A: 3", "ok": True}},
        {"question": "One?", "b": {"solution": " ", "ok": False}},
        {"question": "One?", "b": {"solution": None, "ok": False}},
    ]
    file = SolutionFile(write(tmp_path / "s.jsonl", rows), PROBLEMS, "*.solution", "*.ok")
    assert list(file) == [
        ImportedSolution("p2", "A: 2", True, "gpt-3.5"),
        ImportedSolution("p2", "A: 3", False, "b"),
    ]
    assert file.found() == Found(solutions=2, rows=4, unknown_rows=1, blank_solutions=2)


def test_plain_and_nested_fields_and_ids(tmp_path):
    rows = [
        {"problem_id": "p1", "out": {"text": "A: 1"}},
        {"problem_id": "p9", "out": {"text": "A: 1"}},
    ]
    path = write(tmp_path / "s.jsonl", rows)
    file = SolutionFile(path, PROBLEMS, "out.text", clean=str.lower)
    assert list(file) == [("p1", "a: 1", None, "imported")]
    assert file.found().unknown_rows == 1
    assert list(SolutionFile(path, PROBLEMS, "out.*")) == [("p1", "A: 1", None, "text")]


@pytest.mark.parametrize(
    ("row", "text", "label", "message"),
    [
        ({"question": "One?"}, "text", None, "row 1: nothing matches 'text'; found question"),
        ({"question": "One?"}, "*.text", None, "row 1: nothing matches"),
        ({"question": "One?", "text": 5}, "text", None, "is a int; expected a text"),
        ({"question": "One?", "text": "x"}, "text", "ok", "label 'ok' of imported is missing"),
        (
            {"question": "One?", "text": "x", "ok": "yes"},
            "text",
            "ok",
            "is 'yes'; expected true or",
        ),
        ({"q": "One?", "text": "x"}, "text", None, "no field 'question'"),
        ({"question": "Nine?", "text": "x"}, "text", None, "none of 1 rows has a solution"),
        ({"question": "One?", "text": "x"}, "*.*", None, "at most one"),
        ({"question": "One?", "text": "x"}, "*.a", "b", "need the same"),
    ],
)
def test_bad_rows_and_fields_are_refused(tmp_path, row, text, label, message):
    with pytest.raises(ValueError, match=message):
        SolutionFile(write(tmp_path / "s.jsonl", [row]), PROBLEMS, text, label).found()


def test_a_file_is_read_anew_each_time(tmp_path):
    rows = [{"question": f"{q}?", "text": f"A: {i}"} for i, q in enumerate(["One", "Six", "Two"])]
    file = SolutionFile(
        write(tmp_path / "s.jsonl", [*rows, rows[0] | {"text": " "}]), PROBLEMS, "text"
    )
    assert file.found() == Found(solutions=2, rows=4, unknown_rows=1, blank_solutions=1)
    assert [s.text for s in file] == [s.text for s in file] == ["A: 0", "A: 2"]


def test_rejected_texts_of_preferences_are_attempts(tmp_path):
    turns = lambda role, text: [{"role": role, "content": text}]  # noqa: E731
    rows = [
        {"prompt": "One?", "chosen": "A: 1", "rejected": "A: 0"},
        {"prompt": turns("user", "One?"), "rejected": turns("assistant", "A: 2")},
        {"prompt": turns("system", "Two?") + turns("user", "One?"), "rejected": "A: 3"},
    ]
    where = {"text_field": "rejected", "question_field": "prompt"}
    file = SolutionFile(write(tmp_path / "p.jsonl", rows), PROBLEMS, **where)
    assert [(s.problem_id, s.text) for s in file] == [("p1", f"A: {i}") for i in (0, 2, 3)]
    bad = write(tmp_path / "b.jsonl", [{"prompt": "One?", "rejected": [{"content": 1}]}])
    with pytest.raises(ValueError, match=r"b\.jsonl, row 1: field 'rejected'.*role and content"):
        list(SolutionFile(bad, PROBLEMS, **where))


def test_a_file_of_any_length_is_read_in_the_same_memory(tmp_path):
    """4,000 rows have about 1 MB: read whole, the longer file would take four times as much. Other
    threads of the test process only add to a peak, so the least of three counts."""
    peaks = []
    for count in (500, 1000, 4000):  # the first one fills the caches
        rows = [{"question": "One?", "text": f"{'so ' * 60}A: {i}"} for i in range(count)]
        file = SolutionFile(write(tmp_path / f"{count}.jsonl", rows), PROBLEMS, "text")
        peaks.append(min(peak_of_reading(file, count) for _ in range(3)))
    assert peaks[2] < 1.2 * peaks[1], peaks


def peak_of_reading(file, count):
    """The most bytes that Python held while it read the file, which has `count` solutions."""
    tracemalloc.start()
    counts = Counter[str]()
    for solution in file.read(counts):
        assert solution.problem_id == "p1"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert counts["solutions"] == count
    return peak


def test_the_released_model_solutions_agree_with_their_labels(data: Path):
    path = str(data / "gsm8k" / "model_solutions_part.jsonl")
    task = Gsm8kTask(path={"test": path})
    problems = task.problems("test")
    file = SolutionFile(path, problems, "*.solution", "*.is_correct", clean=task.clean)
    known = {p.id: p for p in problems}
    found = file.found()
    assert (found.solutions, found.unknown_rows) == (2640, 0)
    for solution in file:
        verdict = task.judge(solution.text, known[solution.problem_id])
        assert (verdict == "right") == solution.label
        assert "<<" not in solution.text or solution.text.count("<<") > solution.text.count(">>")
