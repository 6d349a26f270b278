"""Problems from files: layouts, splits, what is left out, and every refusal by name."""

import json
from pathlib import Path

import pytest

from rlmec.tasks.base import SPLITS, Task
from rlmec.tasks.dataset import DatasetTask
from rlmec.tasks.gsm8k import Gsm8kTask
from rlmec.tasks.problem_tables import share_of
from rlmec.tasks.rows import iter_rows, read_rows


def write(path: Path, rows: list) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return str(path)


def gsm(n: int) -> dict:
    steps = f"{n} + 1 = <<{n}+1={n + 1}>>{n + 1}"
    return {"question": f"What is {n} + 1?", "answer": f"{steps}\n#### {n + 1}"}


def test_one_file_is_cut_by_a_hash_of_the_question(tmp_path):
    path = write(tmp_path / "all.jsonl", [gsm(n) for n in range(1000)])
    task = Gsm8kTask(path=path, dev_share=0.1, test_share=0.3)
    splits = {split: task.problems(split) for split in SPLITS}
    assert isinstance(task, Task)
    assert sum(map(len, splits.values())) == len({p.id for s in splits.values() for p in s}) == 1000
    # binomial: 300 +- 5 * 14.5, 100 +- 5 * 9.5
    assert 227 < len(splits["test"]) < 373
    assert 52 < len(splits["dev"]) < 148
    shuffled = write(tmp_path / "fewer.jsonl", [gsm(n) for n in reversed(range(500))])
    fewer = Gsm8kTask(path=shuffled, dev_share=0.1, test_share=0.3)
    for split in SPLITS:
        assert set(fewer.problems(split)) <= set(splits[split])
    wider = Gsm8kTask(path=path, dev_share=0.2, test_share=0.3)
    assert set(splits["test"]) == set(wider.problems("test"))


def test_one_file_a_split_with_dev_cut_from_train(tmp_path):
    train = write(tmp_path / "train.jsonl", [gsm(n) for n in range(300)])
    test = write(tmp_path / "test.jsonl", [gsm(n) for n in range(300, 340)])
    task = Gsm8kTask(path={"train": train, "test": test, "dev": None}, dev_share=0.2)
    assert len(task.problems("test")) == 40
    assert len(task.problems("train")) + len(task.problems("dev")) == 300
    assert all(share_of(p.question) < 0.2 for p in task.problems("dev"))
    whole = Gsm8kTask(path={"train": train, "dev": test}, dev_share=0.2)
    assert len(whole.problems("train")) == 300
    assert len(whole.problems("dev")) == 40


def test_calculator_marks_are_taken_out_or_kept(tmp_path):
    path = write(tmp_path / "a.jsonl", [gsm(n) for n in range(20)])
    problem = Gsm8kTask(path={"test": path}).problems("test")[1]
    assert (problem.solution, problem.answer) == ("1 + 1 = 2\n#### 2", "2")
    kept = Gsm8kTask(path={"test": path}, calculator_marks=True).problems("test")[1]
    assert kept.solution == "1 + 1 = <<1+1=2>>2\n#### 2"
    assert kept.id == problem.id


def test_repeated_and_unreadable_rows_are_left_out_and_listed(tmp_path):
    rows = [gsm(1), gsm(2), gsm(1), {"question": "Why?", "answer": "because"}]
    task = Gsm8kTask(path={"test": write(tmp_path / "a.jsonl", rows)})
    assert [p.answer for p in task.problems("test")] == ["2", "3"]
    assert ["row 3" in task.left_out[0], "row 4" in task.left_out[1]] == [True, True]
    assert len(task.left_out) == 2


def test_a_json_list_and_blank_lines_are_read(tmp_path):
    path = tmp_path / "list.json"
    path.write_text(json.dumps([{"q": "One?", "a": 51.0}, {"q": "Two?", "a": "x"}]))
    task = DatasetTask({"test": str(path)}, question_field="q", answer_field="a")
    assert [p.answer for p in task.problems("test")] == ["51.0", "x"]
    assert task.judge("The answer is 51.", task.problems("test")[0]) == "right"
    path.write_text('{"q": "One?", "a": 1}\n\n{"q": "Two?", "a": 2}\n')
    assert [row.number for row in read_rows(str(path))] == [1, 3]


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_line_end_and_a_byte_order_mark_are_read(tmp_path, start, end):
    lines = [json.dumps({"q": "a\u2028b\x0b"}, ensure_ascii=False), "", '{"q": 2}']
    path = tmp_path / "rows.jsonl"
    path.write_bytes((start + end.join(lines)).encode())
    rows = read_rows(str(path))
    assert [(row.number, row.values["q"]) for row in rows] == [(1, "a\u2028b\x0b"), (3, 2)]
    path.write_bytes((start + end * 2 + f"[{lines[2]},{end}{lines[2]}]").encode())
    assert [row.number for row in read_rows(str(path))] == [1, 2]


def test_rows_before_a_bad_one_are_given(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"q": 1}\n{"q": 2}\n{oops}\n')
    rows = iter_rows(str(path))
    assert [next(rows).number, next(rows).number] == [1, 2]
    with pytest.raises(ValueError, match="row 3: not JSON"):
        next(rows)


def test_a_users_fields_ids_and_solutions(tmp_path):
    rows = [
        {"key": "k1", "q": "One?", "s": "I think.\nThe answer is Yes.", "t": "easy"},
        {"key": "k2", "q": "Two?", "s": "no answer here", "t": "hard"},
    ]
    task = DatasetTask(
        {"test": write(tmp_path / "a.jsonl", rows)},
        question_field="q",
        answer_field=None,
        solution_field="s",
        id_field="key",
        kind_field="t",
    )
    (problem,) = task.problems("test")
    assert (problem.id, problem.answer, problem.kind) == ("k1", "Yes", "easy")
    assert problem.solution == rows[0]["s"]
    assert task.judge("The answer is yes", problem) == "right"
    assert "row 2: no gold answer" in task.left_out[0]


def test_missing_files_are_named(tmp_path):
    missing = str(tmp_path / "no.jsonl")
    with pytest.raises(FileNotFoundError, match=r"no\.jsonl"):
        Gsm8kTask(path=missing)
    with pytest.raises(FileNotFoundError, match=r"no\.jsonl"):
        DatasetTask({"train": missing})
    with pytest.raises(ValueError, match="'valid'; expected one file, or files for some of train"):
        DatasetTask({"valid": missing})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"question": "a?", "answer": "#### 1"}\n{oops}\n', r"a\.jsonl, row 2: not JSON"),
        (
            '{"question": "a?", "answer": "#### 1"}\n[1]\n',
            r"a\.jsonl, row 2: a list; expected a JSON",
        ),
        (
            '{"id": 7, "answer": "#### 1"}',
            r"row 1 \(id 7\): no field 'question'; .*found id, answer",
        ),
        (
            '{"question": "a?"}',
            r"row 1: no field 'answer'; expected question and answer \(or ground",
        ),
        ('{"question": ["a?"], "answer": "#### 1"}', "field 'question' is a list; expected a text"),
        ('{"question": " ", "answer": "#### 1"}', "row 1: the question is blank"),
        ("", "split 'test' is empty"),
        ("[" * 100_000, "nested too deep|not JSON"),
        ('{"id": 1, "id": 2, "question": "a?"}', r"a\.jsonl, row 1: field 'id' is there twice"),
        ('{"question": "a?", "answer": NaN}', r"a\.jsonl, row 1: field 'answer' is nan"),
        ('{"question": "a?", "answer": 1e999}', "field 'answer' is inf; expected a finite"),
        ('{"question": "a\\ud800?", "answer": "1"}', r"row 1: field 'question' has half a char"),
        ('{"question": "a?", "answer": ' + "9" * 5000 + "}", r"a\.jsonl, row 1: .*digits"),
        ('{"' + "x" * 9000 + '": 1}', "no field 'question'; .{0,400}$"),
    ],
)
def test_bad_rows_are_refused_with_file_and_row(tmp_path, text, message):
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        Gsm8kTask(path={"test": str(path)}).problems("test")


def test_splits_that_are_not_there_are_refused(tmp_path):
    task = DatasetTask({"test": write(tmp_path / "t.jsonl", [{"question": "a?", "answer": 1}])})
    with pytest.raises(ValueError, match=r"no split 'train', only test: .*task\.path\.train=FILE"):
        task.problems("train")
    with pytest.raises(ValueError, match="'valid' is none of"):
        task.problems("valid")
    with pytest.raises(ValueError, match="leave something for train"):
        DatasetTask(str(tmp_path / "t.jsonl"), dev_share=0.5, test_share=0.5)
    one = DatasetTask(str(tmp_path / "t.jsonl"), dev_share=0.0, test_share=0.0)
    with pytest.raises(
        ValueError, match=r"split 'dev' is empty: 1 problems were read from .*t\.jsonl"
    ):
        one.problems("dev")


def test_not_utf8_and_repeated_ids_are_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"question": "\xff"}')
    with pytest.raises(ValueError, match="not UTF-8 at byte 14"):
        read_rows(str(path))
    path.write_bytes('{"question": "é"}\n'.encode() * 9000 + b'{"a": "\xe2\x82"}')
    with pytest.raises(ValueError, match=f"not UTF-8 at byte {9000 * 19 + 7};"):
        read_rows(str(path))
    rows = [{"i": "x", "question": "a?", "answer": 1}, {"i": "x", "question": "b?", "answer": 2}]
    task = DatasetTask({"test": write(path, rows)}, id_field="i")
    with pytest.raises(ValueError, match=r"row 2: id 'x' .*row 1;"):
        task.problems("test")


def test_the_published_gsm8k_files_are_read_as_they_are(data: Path):
    task = Gsm8kTask(
        path={
            "train": str(data / "gsm8k" / "train.jsonl"),
            "test": str(data / "gsm8k" / "test_part.jsonl"),
        }
    )
    train, dev, test = (task.problems(split) for split in SPLITS)
    assert len(train) + len(dev) + len(task.left_out) == 7473
    assert (len(test), len(task.left_out)) == (660, 0)
    assert 280 < len(dev) < 470
    assert all("<<" not in (p.solution or "") for p in train)
    assert all(task.judge(p.solution or "", p) == "right" for p in (*train, *dev, *test))


def test_the_model_solutions_file_gives_the_same_problems_as_the_test_file(data: Path):
    solutions = Gsm8kTask(
        path={"test": str(data / "gsm8k" / "model_solutions_part.jsonl")}
    ).problems("test")
    test = Gsm8kTask(path={"test": str(data / "gsm8k" / "test_part.jsonl")}).problems("test")
    assert {p.id: p.answer for p in solutions} == {p.id: p.answer for p in test}


def test_other_published_layouts_are_read(data: Path):
    svamp = DatasetTask(
        {"test": str(data / "svamp" / "SVAMP_part.json")},
        question_field="Question",
        answer_field="Answer",
        id_field="ID",
    )
    assert svamp.problems("test")
    arc = DatasetTask(
        {"test": str(data / "arc" / "validation_part.jsonl")},
        question_field="problem",
        solution_field="solution",
    )
    assert all(arc.judge(p.solution or "", p) == "right" for p in arc.problems("test"))
