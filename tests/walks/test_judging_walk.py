"""evaluate.py as a user runs it: models side by side, further tasks, stored outputs."""

import json

import pytest
from walk import ROOT, done_well, run

pytestmark = pytest.mark.slow
EVALUATE = ROOT / "evaluate.py"
NAME = "eval/arithmetic"


def folder_of(store):
    """The run folder of the newest command."""
    return max((store / "outputs").rglob("summary.json"), key=lambda p: p.stat().st_mtime).parent


@pytest.fixture(scope="module")
def outputs(shared):
    """The stored attempts of the shared chain's start and policy."""
    _, chain = shared
    names = ("evaluate/start", "evaluate")
    return [chain.artifact(name) / "attempts.parquet" for name in names]


def test_stored_outputs_are_judged_and_compared_without_a_model(shared, outputs, tmp_path):
    start, policy = outputs
    done = done_well(
        run(
            tmp_path,
            f"evaluate.attempts={policy}",
            f"evaluate.against={start}",
            "evaluate.modes=[strict,flexible,authors]",
            program=EVALUATE,
        )
    )
    assert not (tmp_path / "artifacts").exists() or not list((tmp_path / "artifacts").iterdir())
    _, chain = shared
    again = done.stages[0]["metrics"]
    assert again[f"{NAME}/accuracy"] == chain.metrics("evaluate")[f"{NAME}/accuracy"]
    assert again[f"{NAME}/accuracy_flexible"] >= again[f"{NAME}/accuracy"]
    assert again[f"{NAME}/authors_ceiling"] == 1.0
    folder = folder_of(tmp_path)
    table = json.loads((folder / "table.json").read_text())
    report = json.loads((chain.artifact("report") / "table.json").read_text())
    assert table["comparisons"][0]["p_value"] == report["lines"][-1]["p_value"]
    assert (folder / "table.md").read_text() in done.output
    assert (folder / "accuracy.png").is_file()
    names = {path.name for path in folder.glob("results*.json")}
    assert "results.json" in names
    assert len(names) == 2


def test_a_model_on_further_tasks_with_examples_beside_stored_outputs(shared, outputs):
    store, chain = shared
    sums = "{_target_:rlmec.tasks.arithmetic.ArithmeticTask,train:20,test:8,max_steps:2,min_steps:1"
    sums += ",digits:1,max_operand:9,operations:[add]}"
    done = done_well(
        run(
            store,
            f"evaluate.model={chain.artifact('policy') / 'model'}",
            f"evaluate.tasks={{sums:{sums},arithmetic:{{test:6}}}}",
            "evaluate.num_fewshot=1",
            program=EVALUATE,
        )
    )
    assert done.made() == ["evaluate/sums", "evaluate/arithmetic"]
    results = json.loads((folder_of(store) / "results.json").read_text())
    assert results["n-shot"] == {"sums": 1, "arithmetic": 1}
    assert results["n-samples"]["sums"] == {"original": 8, "effective": 8}
    refused = run(
        store,
        f"evaluate.attempts={outputs[0]}",
        "evaluate.tasks=[arithmetic,gsm8k]",
        program=EVALUATE,
    )
    assert refused.code == 1
    assert "evaluate.tasks names 2" in refused.output


def test_what_was_trained_on_is_refused_or_left_out(shared):
    store, _ = shared
    refused = run(store, "stage=evaluate", "evaluate.split=train")
    assert refused.code == 1
    assert "120 problems to be judged were trained on" in refused.output
    none = run(store, "stage=evaluate", "evaluate.split=train", "evaluate.overlap=drop")
    assert "none is left" in none.output


def test_each_stored_output_is_shown_and_rows_left_out_are_said(tmp_path):
    rows = [{"question": f"{n} + 1?", "answer": n + 1} for n in range(4)] + [{"question": "Why?"}]
    outputs = [{"question": row["question"], "output": "The answer is 2"} for row in rows]
    for name, lines in (("problems", rows), ("outputs", outputs)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / f"{name}.jsonl").write_text(text)
    done = done_well(
        run(
            tmp_path,
            "task=dataset",
            f"task.path.test={tmp_path}/problems.jsonl",
            f"evaluate.attempts={tmp_path}/outputs.jsonl",
            "evaluate.text_field=output",
            program=EVALUATE,
            experiment=None,
        )
    )
    assert "1 row left out, the first: " in done.output
    assert "problems.jsonl, row 5: no gold answer" in done.output
    assert "1 rows of other problems are left out, the first: " in done.output
    (path,) = folder_of(tmp_path).glob("outputs_*.jsonl")
    shown = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["verdict"] for line in shown] == ["wrong", "right", "wrong", "wrong"]
    assert [line["question"] for line in shown] == [row["question"] for row in rows[:4]]


def test_references_that_contradict_are_said_before_training(tmp_path):
    rows = [{"question": f"{n} + 1?", "answer": n + 1} for n in range(40)]
    for n, row in enumerate(rows):
        row["solution"] = f"{n} + 1 = {n + 1}\nThe answer is {n + 1 + (n % 5 == 0)}"
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = done_well(
        run(
            tmp_path,
            *("stage=warmup", "task=dataset", f"task.path.train={path}", "teacher=reference"),
            *("task.dev_share=0.0", "warmup.val_problems=0", "warmup.steps=1"),
            "model.shape.hidden_size=32",
            experiment=None,
        )
    )
    assert "8 of 40 (20.0 %) reference solutions contradict the gold answer" in done.output
