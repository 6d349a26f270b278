"""The task `dataset`: layouts found by themselves, named fields, kinds of answers, refusals."""

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

from rlmec.tasks.base import SPLITS, Task, check_references, left_out_summary
from rlmec.tasks.dataset import DatasetTask


@pytest.fixture
def cases(data: Path) -> Path:
    """Small inputs from the field, kept next to the public data sets."""
    folder = data.parent / "cases" / "data"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder} with the cases")
    return folder


CHAT = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "The answer is 2"}]
SHARED = [{"from": "human", "value": "1 + 1?"}, {"from": "gpt", "value": "The answer is 2"}]
STEPS = "1 + 1 = 2\n#### 2"


def write(path: Path, rows: list) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return str(path)


def read(tmp_path: Path, *rows: dict, **settings: Any) -> DatasetTask:
    return DatasetTask({"test": write(tmp_path / "rows.jsonl", list(rows))}, **settings)


# ---- layouts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "solution"),
    [
        ({"question": "1 + 1?", "answer": 2}, None),
        ({"question": "1 + 1?", "answer": "2", "solution": STEPS}, STEPS),
        ({"question": "1 + 1?", "answer": STEPS}, STEPS),
        ({"question": "1 + 1?", "answer": "#### 2"}, None),
        ({"question": "1 + 1?", "answer": "\\boxed{2}"}, None),
        ({"problem": "1 + 1?", "solution": "So \\boxed{2}."}, "So \\boxed{2}."),
        ({"prompt": "1 + 1?", "completion": STEPS}, STEPS),
        ({"prompt": CHAT[:1], "completion": CHAT[1:]}, "The answer is 2"),
        ({"prompt": "1 + 1?", "chosen": STEPS, "rejected": "The answer is 3"}, STEPS),
        ({"prompt": CHAT[:1], "chosen": CHAT, "rejected": CHAT[:1]}, "The answer is 2"),
        ({"messages": CHAT}, "The answer is 2"),
        ({"conversations": SHARED}, "The answer is 2"),
        ({"prompt": "1 + 1?", "messages": CHAT}, "The answer is 2"),
        ({"prompt": CHAT[:1], "reward_model": {"ground_truth": "2"}}, None),
        ({"instruction": "1 + 1?", "input": "", "output": STEPS}, STEPS),
        ({"query": "1 + 1?", "response": STEPS, "solution": None}, STEPS),
        ({"question": None, "problem": "1 + 1?", "answer": " ", "final_answer": 2}, None),
        ({"messages": [CHAT[0], {"role": "assistant", "content": [{"text": STEPS}]}]}, STEPS),
    ],
)
def test_the_usual_columns_are_found_by_themselves(tmp_path, row, solution):
    task = read(tmp_path, row)
    assert isinstance(task, Task)
    (problem,) = task.problems("test")
    assert (problem.question, problem.answer, problem.solution) == ("1 + 1?", "2", solution)
    assert task.judge("The answer is 2.0", problem) == "right"


def test_named_fields_come_first_and_may_be_paths(tmp_path):
    row = {"question": "no", "answer": 7, "in": {"q": "1 + 1?", "a": [{"v": 2}], "t": STEPS}}
    row |= {"key": {"n": 5}, "level": None}
    task = read(
        tmp_path,
        row,
        question_field="in.q",
        answer_field="in.a.0.v",
        solution_field="in.t",
        id_field="key.n",
        kind_field="level",
    )
    (problem,) = task.problems("test")
    assert (problem.id, problem.question, problem.answer) == ("5", "1 + 1?", "2")
    assert (problem.solution, problem.kind) == (STEPS, "")


def test_an_instruction_has_its_input(tmp_path):
    rows = {"instruction": "Add.", "input": "1 and 1", "output": STEPS}
    assert read(tmp_path, rows).problems("test")[0].question == "Add.\n\n1 and 1"


def test_conversations_of_several_questions_are_left_out_and_system_messages_noted(tmp_path):
    system = {"role": "system", "content": "Be brief."}
    task = read(tmp_path, {"messages": [*CHAT, *CHAT]}, {"messages": [system, *CHAT]})
    assert [p.question for p in task.problems("test")] == ["1 + 1?"]
    first, second = left_out_summary(task)
    assert "1 row left out" in first
    assert "row 1: a conversation of 2 questions and 2 replies" in first
    assert "system messages of 1 rows" in second
    with pytest.raises(ValueError, match=r"row 1: field 'messages' holds .*role"):
        read(tmp_path, {"messages": ["hi"]}).problems("test")


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"options": ["no", "yes"], "answer": "yes"}, "yes"),
        ({"options": ["no", "yes"], "answer": "B"}, "B"),
        ({"choices": ["no", "yes"], "answer": 1}, "yes"),
        ({"choices": [3, 1], "answer": 1}, "1"),
        ({"choices": {"text": ["no", "yes"], "label": ["1", "2"]}, "answerKey": "2"}, "yes"),
        ({"options": {"A": "no", "B": "yes"}, "answer": "B"}, "yes"),
    ],
)
def test_options(tmp_path, row, answer):
    task = read(tmp_path, {"question": "Is it?"} | row)
    (problem,) = task.problems("test")
    assert problem.answer == answer
    assert problem.question == "Is it?\nOptions:\n" + "\n".join(problem.options)
    assert [task.judge(f"The answer is {x}", problem) for x in ("(B)", "A")] == ["right", "wrong"]


def test_kinds_of_answers(tmp_path):
    rows = [{"question": "a?", "answer": a} for a in ("2", "2 days", "\\frac{1}{2}", "Yes")]
    rows = [row | {"question": f"{n}?"} for n, row in enumerate(rows)]
    verdicts = {
        "auto": ["right", "wrong", "right", "right"],
        "number": ["right", "right", "right", None],
        "text": ["right", "wrong", "wrong", "right"],
        "mathematics": ["right", None, "right", None],
    }
    texts = ["The answer is 2", "The answer is 2", "The answer is 0.5", "The answer is yes"]
    for kind, expected in verdicts.items():
        task = read(tmp_path, *rows, answers=kind)
        problems = task.problems("test")
        if kind == "number":
            assert "row 4: the answer 'Yes' is no number" in task.left_out[0]
        found = task.judge_many(texts[: len(problems)], problems)
        for verdict, right in zip(found, expected, strict=False):
            assert right is None or verdict == right, (kind, found)
        assert found == [task.judge(t, p) for t, p in zip(texts, problems, strict=False)]


# ---- what is missing --------------------------------------------------------------------------


def test_blank_null_and_missing_are_one_thing(tmp_path):
    rows = [{"question": f"{n}?", "answer": n} for n in range(4)]
    for row, solution in zip(rows, ("A: 0", " \n", None), strict=False):
        row["solution"] = solution
    path = write(tmp_path / "rows.jsonl", rows)
    for field in (None, "solution"):
        task = DatasetTask({"train": path}, solution_field=field, dev_share=0.0)
        problems = task.problems("train")
        assert [p.solution for p in problems] == ["A: 0", None, None, None]
        (line,) = check_references(task, problems).lines()
        assert "3 of 4 (75.0 %)" in line
        assert problems[1].id in line
    rows = [{"question": f"{n}?", "answer": a} for n, a in enumerate((1, " ", None))]
    task = read(tmp_path, *rows, {"question": "3?"}, {"question": " ", "answer": 1})
    assert len(task.problems("test")) == 1
    assert [line.split(", ")[1].split(":")[0] for line in task.left_out] == [
        *("row 2", "row 3", "row 4", "row 5")
    ]


def test_fields_that_no_row_has_are_refused_with_the_way_out(tmp_path):
    row = {"q": "1?", "meta": {"a": 1}}
    with pytest.raises(ValueError, match=r"row 1: .*found q, meta\.a; .*question_field"):
        read(tmp_path, row).problems("test")
    with pytest.raises(ValueError, match=r"is empty: .*found q, meta\.a; .*answer_field"):
        read(tmp_path, row, question_field="q").problems("test")
    with pytest.raises(ValueError, match="row 1: no field 'quest'"):
        read(tmp_path, row, question_field="quest").problems("test")
    path = write(tmp_path / "rows.jsonl", [{"question": "1?", "answer": 1}])
    task = DatasetTask({"train": path, "test": path}, solution_field="soluton", dev_share=0.0)
    assert task.problems("test")
    with pytest.raises(ValueError, match=r"none of 1 problems .*'soluton'"):
        task.problems("train")
    both: dict[str, Any] = {"path": path, "hub": "a/b"}
    for named in ({}, both):
        with pytest.raises(ValueError, match=r"task\.path=FILE.*task\.hub=NAME"):
            DatasetTask(**named)


def test_an_empty_split_says_why(tmp_path):
    rows = [{"question": f"{n}?", "answer": None} for n in range(3)]
    with pytest.raises(ValueError, match=r"3 rows left out, the first: .*row 1: no gold answer"):
        read(tmp_path, *rows).problems("test")
    (tmp_path / "none.jsonl").write_text("\n")
    with pytest.raises(ValueError, match=r"none\.jsonl has no rows"):
        DatasetTask({"test": str(tmp_path / "none.jsonl")}).problems("test")


def test_the_same_question_with_another_answer_is_said(tmp_path):
    task = read(tmp_path, *({"question": "1?", "answer": a} for a in (1, 2)))
    task.problems("test")
    assert task.left_out[0].endswith("same question and answers '1', not '2'")


# ---- where rows come from ---------------------------------------------------------------------


def test_a_folder_whose_names_tell_the_splits(tmp_path):
    for name, count in (("train-00000-of-00002", 9), ("train-00001-of-00002", 3), ("test", 2)):
        table = [{"question": f"{name} {n}?", "answer": n} for n in range(count)]
        parquet.write_table(pa.Table.from_pylist(table), tmp_path / f"{name}.parquet")
    (tmp_path / "README.md").write_text("About.")
    task = DatasetTask(str(tmp_path), dev_share=0.0)
    assert [len(task.problems(split)) for split in ("train", "test")] == [12, 2]
    write(tmp_path / "more.jsonl", [])
    with pytest.raises(ValueError, match=r"more\.jsonl.*task\.path\.train=FILE"):
        DatasetTask(str(tmp_path))


def test_a_folder_that_datasets_saved_with_its_splits(tmp_path):
    rows = {"train": range(5), "validation": range(5, 7), "test": range(7, 10)}
    tables = {
        split: datasets.Dataset.from_list([{"question": f"{n}?", "answer": n} for n in numbers])
        for split, numbers in rows.items()
    }
    datasets.DatasetDict(tables).save_to_disk(tmp_path / "saved")
    task = DatasetTask(str(tmp_path / "saved"))
    assert [len(task.problems(split)) for split in SPLITS] == [5, 2, 3]


def test_several_files_are_cut_as_one_would_be(tmp_path):
    rows = [{"question": f"{n}?", "answer": n} for n in range(100)]
    whole = DatasetTask(write(tmp_path / "rows.jsonl", rows))
    paths = [write(tmp_path / f"part{n}.jsonl", rows[50 * n : 50 * n + 50]) for n in range(2)]
    for path in (paths, f"{tmp_path}/part?.jsonl"):
        cut = DatasetTask(path)
        assert all(cut.problems(split) == whole.problems(split) for split in SPLITS)


def test_a_data_set_on_the_hub(monkeypatch):
    asked = []

    def load_dataset(name, config=None, *, split, revision=None):
        asked.append((name, config, split, revision))
        return [{"question": f"{n}?", "answer": n} for n in range(50)]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = DatasetTask(hub="a/b", hub_config="c", hub_revision="r", hub_splits={"whole": "train"})
    assert sum(len(task.problems(split)) for split in SPLITS) == 50
    assert asked == [("a/b", "c", "train", "r")]


# ---- the cases --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count", "settings"),
    [
        ("messages.jsonl", 50, {}),
        (
            "nested.jsonl",
            50,
            {"question_field": "meta.q", "answer_field": "meta.a", "solution_field": "sol.text"},
        ),
        ("rows.parquet", 2, {}),
        ("rows.jsonl.gz", 1, {}),
        ("pens.jsonl", 221, {}),
    ],
)
def test_the_cases_are_read(cases, name, count, settings):
    task = DatasetTask({"train": str(cases / name)}, dev_share=0.0, **settings)
    problems = task.problems("train")
    assert len(problems) + len(task.left_out) == count
    assert problems


def test_the_cases_that_are_refused_say_how(cases):
    with pytest.raises(ValueError, match=r"found meta\.q, meta\.a, sol\.text; .*question_field"):
        DatasetTask(str(cases / "nested.jsonl")).problems("train")
    with pytest.raises(ValueError, match=r"list_broken_line_4001\.json, line 4001: "):
        DatasetTask(str(cases / "list_broken_line_4001.json")).problems("train")


def test_references_that_contradict_the_gold_answers_are_counted(cases):
    path = {"train": str(cases / "pens.jsonl")}
    task = DatasetTask(path, dev_share=0.0, answers="text")
    problems = task.problems("train")
    check = check_references(task, problems)
    by_hand = [p.id for p in problems if task.judge(p.solution or "", p) == "wrong"]
    assert check.contradicting == by_hand
    assert len(by_hand) > len(problems) / 5
    (line,) = check.lines()
    assert f"{len(by_hand)} of {len(problems)}" in line
    assert by_hand[0] in line
    task = DatasetTask(path, dev_share=0.0, answers="number")
    assert len(check_references(task, task.problems("train")).contradicting) == 1
