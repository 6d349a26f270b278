"""Stored outputs: formats, problems without a row, rows without a problem, the line per output."""

import gzip
import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from rlmec.evaluation.readings import figures
from rlmec.evaluation.stored_outputs import is_stored, read_stored, write_per_problem
from rlmec.tasks.dataset import DatasetTask

ROWS = [
    {"question": "1 + 1?", "answer": 2, "level": "easy"},
    {"question": "2 + 2?", "answer": 4, "level": "easy"},
    {"question": "3 + 3?", "answer": 6, "level": "hard"},
]
OUTPUTS = [
    {"in": {"q": "1 + 1?"}, "out": {"text": "So 2.\nThe answer is 2."}},
    {"in": {"q": "2 + 2?"}, "out": {"text": "It must be 4"}},
    {"in": {"q": "3 + 3?"}, "out": {"text": None}},
    {"in": {"q": "4 + 4?"}, "out": {"text": "The answer is 8"}},
]


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return DatasetTask({"test": str(path)}, kind_field="level")


def stored(path):
    path.write_text("".join(json.dumps(row) + "\n" for row in OUTPUTS))
    return str(path)


def test_rows_of_every_format_are_judged(task, tmp_path):
    problems = task.problems("test")
    plain = stored(tmp_path / "out.jsonl")
    (tmp_path / "out.json.gz").write_bytes(gzip.compress(json.dumps(OUTPUTS).encode()))
    parquet.write_table(pa.Table.from_pylist(OUTPUTS), tmp_path / "out.parquet")
    for path in (plain, tmp_path / "out.json.gz", tmp_path / "out.parquet"):
        assert is_stored(str(path))
        passed_over = []
        found = read_stored(f"{path}:out.text", task, problems, "no", "in.q", passed_over)
        assert [o.verdict for o in found] == ["right", "no_answer", "no_answer"]
        assert [o.id for o in found] == [f"{p.id}/0" for p in problems]
        assert len(passed_over) == 1
        assert "row 4" in passed_over[0]


def test_each_output_has_a_line_that_shows_its_verdict(task, tmp_path):
    problems = task.problems("test")
    outputs = read_stored(stored(tmp_path / "out.jsonl"), task, problems, "out.text", "in.q")
    path = tmp_path / "new" / "lines.jsonl"
    write_per_problem(path, outputs, problems, task)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["question"] for line in lines] == [row["question"] for row in ROWS]
    assert [line["text"] for line in lines] == [row["out"]["text"] or "" for row in OUTPUTS[:3]]
    assert [line["gold_answer"] for line in lines] == ["2", "4", "6"]
    assert [(line["answer"], line["lenient_answer"]) for line in lines[:2]] == [
        *(("2", "2"), (None, "4"))
    ]
    assert [line["verdict"] for line in lines] == ["right", "no_answer", "no_answer"]
    lenient = [line["lenient_verdict"] for line in lines]
    assert lenient == ["right", "right", "no_answer"]
    made = figures(outputs, problems, task, ["flexible"])
    assert made["accuracy_flexible"] == lenient.count("right") / 3
    assert lines[2]["kind"] == "hard"


def test_a_question_is_found_with_and_without_its_options(tmp_path):
    rows = [{"question": "Is it?", "options": ["no", "yes"], "answer": "yes"}]
    rows += [{"question": "Why?", "options": [a, "so"], "answer": "so"} for a in ("x", "y")]
    path, out = tmp_path / "problems.jsonl", tmp_path / "out.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = DatasetTask({"test": str(path)})
    problems = task.problems("test")
    asked = ["Is it?", problems[0].question, "Why?", problems[2].question]
    texts = [json.dumps({"question": q, "output": "The answer is B"}) for q in asked]
    out.write_text("\n".join(texts))
    passed_over = []
    found = read_stored(str(out), task, problems, "output", "question", passed_over)
    assert [o.problem_id for o in found] == [problems[n].id for n in (0, 0, 2)]
    assert "row 3" in passed_over[0]


def test_the_cases_with_options(data, tmp_path):
    """All 14 rows are judged, those with LaTeX options as well, and all 14 outputs are right."""
    cases = data.parent / "cases" / "data"
    if not cases.is_dir():
        pytest.skip(f"no folder {cases} with the cases")
    task = DatasetTask({"test": str(cases / "options_mixed.jsonl")})
    problems = task.problems("test")
    passed_over = []
    path = str(cases / "options_outputs.jsonl")
    found = read_stored(path, task, problems, "output", "question", passed_over)
    assert (len(problems), list(task.left_out), passed_over) == (14, [], [])
    assert [output.verdict for output in found] == ["right"] * 14
