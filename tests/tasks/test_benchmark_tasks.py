"""Tasks in the layouts of their hubs: rows made by hand go through the same builder as a file's."""

import json
from pathlib import Path

import datasets
import pytest

from rlmec.tasks.base import Task, check_references
from rlmec.tasks.gsm8k import Gsm8kTask
from rlmec.tasks.math import MathTask
from rlmec.tasks.mmlu import MmluTask
from rlmec.tasks.multiple_choice import OptionTask
from rlmec.tasks.svamp import SvampTask

SVAMP = {
    "ID": "chal-1",
    "Body": "Ann has 4 pens.",
    "Question": "She buys 3. How many now?",
    "Equation": "( 4.0 + 3.0 )",
    "Answer": "7.0",
    "Type": "Addition",
    "question_concat": "Ann has 4 pens. She buys 3. How many now?",
}
MATH = {
    "problem": "Halve one.",
    "level": "Level 2",
    "type": "Algebra",
    "solution": "It is $\\boxed{\\frac{1}{2}}$.",
}
MATH_500 = {
    "problem": "Halve three.",
    "solution": "So \\boxed{\\frac32}.",
    "answer": "\\frac{3}{2}",
    "subject": "Algebra",
    "level": 3,
    "unique_id": "test/algebra/1.json",
}
MMLU = {
    "question": "2 + 2 =",
    "subject": "elementary_mathematics",
    "choices": ["3", "4", "5", "22"],
    "answer": 1,
}
ECQA = {
    "q_no": "1",
    "q_concept": "fish",
    "q_text": "Where do fish swim?",
    "q_op1": "tree",
    "q_op2": "river",
    "q_op3": "sky",
    "q_op4": "car",
    "q_op5": "desk",
    "q_ans": "river",
    "taskA_pos": "Fish swim in water.\nA river has water.",
    "taskA_neg": "A tree has no water.",
    "taskB": "Fish swim in a river.",
}
QASC = {
    "id": "3E7",
    "question": "What warms the earth?",
    "choices": {"text": ["the moon", "The sun", "a lamp"], "label": ["A", "B", "C"]},
    "answerKey": "B",
    "fact1": "The sun gives heat.",
    "fact2": "Heat warms.",
    "combinedfact": "The sun warms the earth.",
    "formatted_question": "What warms the earth? (A) the moon (B) The sun (C) a lamp",
}
OPENBOOKQA = {
    "id": "7-980",
    "question_stem": "The sun is responsible for",
    "choices": {"text": ["puppies", "plants sprouting"], "label": ["A", "B"]},
    "answerKey": "B",
}
ARC = {
    "id": "Mercury_1",
    "question": "Which is a gas?",
    "choices": {"text": ["iron", "air.", "ice"], "label": ["1", "2", "3"]},
    "answerKey": "2",
}


@pytest.fixture
def hub(monkeypatch):
    """A hub that gives the rows it is set to, and notes what it was asked for."""

    def load_dataset(name, config=None, *, split, revision=None):
        load_dataset.asked.append((name, config, split, revision))
        return load_dataset.rows

    load_dataset.asked, load_dataset.rows = [], []
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return load_dataset


def only(task: Task, split: str = "test"):
    (problem,) = task.problems(split)
    assert task.problems(split)[0] == problem
    return problem


def test_svamp(hub):
    hub.rows = [SVAMP, SVAMP]
    task = SvampTask()
    problem = only(task)
    assert problem.question == SVAMP["question_concat"]
    assert (problem.answer, problem.kind) == ("7", "Addition")
    assert problem.solution == "( 4.0 + 3.0 ) = 7\nThe answer is 7"
    assert task.judge("A: 7.", problem) == "right"
    assert hub.asked == [("ChilleD/SVAMP", None, "test", None)]
    assert "row 2 (id chal-1)" in task.left_out[0]


def test_math_and_its_kinds(hub):
    hub.rows = [MATH]
    task = MathTask(hub_configs=["algebra"])
    problem = only(task)
    assert (problem.question, problem.answer) == ("Halve one.", "\\frac{1}{2}")
    assert (problem.kind, problem.solution) == ("Algebra", MATH["solution"])
    assert hub.asked == [("EleutherAI/hendrycks_math", "algebra", "test", None)]
    assert task.judge("The answer is $\\dfrac{1}{2}$", problem) == "right"
    assert only(MathTask(hub_configs=["algebra"], kind="level")).kind == "Level 2"
    hub.rows = [MATH_500]
    splits = {"train": None, "test": "test"}
    task = MathTask(hub="HuggingFaceH4/MATH-500", hub_configs=None, hub_splits=splits, kind="level")
    assert (only(task).answer, only(task).kind) == ("\\frac{3}{2}", "Level 3")
    with pytest.raises(ValueError, match="only test: it is for evaluation only"):
        task.problems("train")


def test_all_subjects_of_math_follow_each_other(hub):
    hub.rows = [MATH]
    task = MathTask()
    assert len(task.problems("test")) == 1
    assert [config for _, config, _, _ in hub.asked] == [
        *("algebra", "counting_and_probability", "geometry", "intermediate_algebra"),
        *("number_theory", "prealgebra", "precalculus"),
    ]
    assert len(task.left_out) == 6
    hub.rows = [MATH | {"solution": "No box."}]
    task = MathTask(hub_configs=["algebra"])
    with pytest.raises(ValueError, match="split 'test' is empty"):
        task.problems("test")
    assert "no box" in task.left_out[0]


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [
        ("3", "The answer is 3.0", "right"),
        ("3", "The answer is 4", "wrong"),
        ("\\$20", "The answer is $20", "right"),
        ("10,\\!080", "#### 10080", "right"),
        ("\\left( 1, 2 \\right)", "\\boxed{(1,2)}", "right"),
        ("\\text{Sunday}", "The answer is Sunday.", "right"),
        ("\\dfrac{1}{2}", "\\boxed{\\tfrac{1}{2}}", "right"),
        ("3", "nothing", "no_answer"),
    ],
)
def test_easy_mathematics_needs_no_verifier(tmp_path, gold, answer, verdict):
    (tmp_path / "a.jsonl").write_text(json.dumps(MATH | {"solution": f"\\boxed{{{gold}}}"}))
    task = MathTask({"test": str(tmp_path / "a.jsonl")})
    assert task.judge(answer, task.problems("test")[0]) == verdict
    assert task.verifier._children == []


def test_mmlu_is_for_evaluation_only(hub, tmp_path):
    hub.rows = [MMLU, MMLU | {"question": "x", "subject": "sociology"}]
    task = MmluTask(subjects=["elementary_mathematics"])
    problem = only(task)
    assert problem.question == "2 + 2 =\nOptions:\n3\n4\n5\n22"
    assert (problem.answer, problem.kind) == ("4", "elementary_mathematics")
    assert problem.options == ("3", "4", "5", "22")
    assert [task.judge(f"The answer is {x}", problem) for x in ("B", "4", "C", "3")] == [
        *("right", "right", "wrong", "wrong")
    ]
    assert hub.asked == [("cais/mmlu", "elementary_mathematics", "test", None)]
    assert "'sociology' is not asked for" in task.left_out[0]
    with pytest.raises(ValueError, match="'train', only dev, test: it is for evaluation only"):
        task.problems("train")
    assert only(task, "dev") == problem
    assert hub.asked[-1][2] == "validation"
    (tmp_path / "a.json").write_text(json.dumps([MMLU]))
    assert only(MmluTask(str(tmp_path / "a.json"))) == problem


@pytest.mark.parametrize(
    ("name", "row", "question", "answer", "solution"),
    [
        (
            "ecqa",
            ECQA,
            "Where do fish swim?\nOptions:\ntree\nriver\nsky\ncar\ndesk",
            "river",
            "Fish swim in water.\nA river has water.\nThe answer is river",
        ),
        (
            "qasc",
            QASC,
            "What warms the earth?\nOptions:\nthe moon\nThe sun\na lamp",
            "The sun",
            "The sun gives heat.\nHeat warms.\nThe sun warms the earth.\nThe answer is The sun",
        ),
        (
            "openbookqa",
            OPENBOOKQA,
            "The sun is responsible for\nOptions:\npuppies\nplants sprouting",
            "plants sprouting",
            "The answer is plants sprouting",
        ),
        (
            "arc",
            ARC,
            "Which is a gas?\nOptions:\niron\nair.\nice",
            "air.",
            "The answer is air.",
        ),
    ],
)
def test_questions_with_options(hub, tmp_path, name, row, question, answer, solution):
    hub.rows = [row]
    task = OptionTask(name, hub=f"a/{name}", hub_config="c", hub_revision="r")
    problem = only(task)
    assert (problem.question, problem.answer, problem.solution) == (question, answer, solution)
    assert task.judge(solution, problem) == "right"
    assert task.judge("The answer is (B)", problem) == "right"
    assert task.judge("The answer is (A)", problem) == "wrong"
    assert hub.asked == [(f"a/{name}", "c", "test", "r")]
    only(task, "dev")
    assert hub.asked[-1][2] == "validation"
    # the published layout of the same question is the same problem
    published = {"problem": question, "answer": answer, "solution": solution}
    (tmp_path / "a.jsonl").write_text(json.dumps(published))
    assert only(OptionTask(name, path={"test": str(tmp_path / "a.jsonl")})) == problem


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "x"}, "no known layout; expected one of the fields problem, q_text, choices"),
        (ARC | {"answerKey": "4"}, "answerKey '4' is none of the labels 1, 2, 3"),
        (ARC | {"choices": ["a", "b"]}, "field 'choices' has no lists"),
        (ECQA | {"q_text": " "}, "the question is blank"),
        ({k: v for k, v in ECQA.items() if k != "q_op3"}, "no field 'q_op3'"),
    ],
)
def test_bad_rows_are_refused_with_file_and_row(tmp_path, row, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(ValueError, match=message) as caught:
        OptionTask("arc", path={"test": str(path)}).problems("test")
    assert "rows.jsonl, row 1" in str(caught.value)


def test_rows_without_a_right_option_are_left_out_and_listed(tmp_path):
    rows = [
        {"problem": "Q?\nOptions:\na x\nb y", "solution": "The answer is c", "answer": "c z"},
        {"problem": "Q?", "solution": "The answer is c", "answer": "c"},
        {"problem": "Q?\nOptions:\na x\nb y", "solution": "The answer is b y", "answer": "b y"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    task = OptionTask("ecqa", path={"test": str(path)})
    assert only(task).answer == "b y"
    assert ["row 1: the answer 'c z'" in task.left_out[0], "0 options" in task.left_out[1]] == [
        *(True, True)
    ]
    with pytest.raises(ValueError, match="name a local file"):
        OptionTask("ecqa")


@pytest.mark.parametrize("answer", [4, -1, "E", "4.0", "right"])
def test_an_answer_beyond_the_choices_is_refused(tmp_path, answer):
    (tmp_path / "a.json").write_text(json.dumps([MMLU | {"answer": answer}]))
    with pytest.raises(ValueError, match=r"row 1, line 1: answer .* one of 4"):
        MmluTask(str(tmp_path / "a.json")).problems("test")


def test_an_unreachable_hub_is_said_with_the_way_out(monkeypatch):
    def load_dataset(*args, **kwargs):
        raise {"a/b": ConnectionError("offline")}.get(args[0], ValueError("no config"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(FileNotFoundError, match=r"a/b/c/test .*offline; task\.path=FILE"):
        OptionTask("arc", hub="a/b", hub_config="c").problems("test")
    with pytest.raises(ValueError, match="openai/gsm8k/main/test on the hub: no config"):
        Gsm8kTask().problems("test")


def test_the_published_files_are_read_as_they_are(data: Path):
    mmlu = MmluTask(str(data / "mmlu" / "mathematics_part.json"))
    assert len(mmlu.problems("test")) == 479
    assert [line.split(", ")[1] for line in mmlu.left_out] == ["row 167"]
    assert {len(p.options) for p in mmlu.problems("test")} == {4}
    svamp = SvampTask({"test": str(data / "svamp" / "SVAMP_part.json")})
    assert all(svamp.judge(p.solution or "", p) == "right" for p in svamp.problems("test"))
    arc = OptionTask("arc", str(data / "arc" / "train_part.jsonl"))
    sizes = [len(arc.problems(split)) for split in ("train", "dev", "test")]
    assert sum(sizes) == 1000
    assert min(sizes) > 20


@pytest.mark.parametrize("blank", ["", " \n", None])
def test_blank_and_null_references_are_none(tmp_path, blank):
    """A row without a reference keeps its problem where the answer is a field of its own."""
    rows = {
        "svamp": (SvampTask, SVAMP | {"Equation": blank}),
        "math": (MathTask, MATH_500 | {"solution": blank}),
        "options": (
            lambda path: OptionTask("ecqa", path=path),
            {"problem": "Q?\nOptions:\na x\nb y", "answer": "b y", "solution": blank},
        ),
    }
    for name, (make, row) in rows.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text(json.dumps(row))
        task = make({"test": str(path)})
        assert only(task).solution is None
        (line,) = check_references(task, task.problems("test")).lines()
        assert "1 of 1" in line
    (tmp_path / "gsm8k.jsonl").write_text(json.dumps({"question": "1?", "answer": blank}))
    with pytest.raises(ValueError, match=r"1 rows left out, the first: .*row 1"):
        Gsm8kTask({"test": str(tmp_path / "gsm8k.jsonl")}).problems("test")
