"""One evaluation read in several ways; stored outputs; examples; models side by side."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rlmec.evaluation.accuracy import wilson
from rlmec.evaluation.readings import figures
from rlmec.evaluation.stored_outputs import is_stored, path_and_field, read_stored
from rlmec.evaluation.train_overlap import choose_examples
from rlmec.records import Attempt, Problem
from rlmec.report.figures import Bar, accuracy_figure, write_png
from rlmec.report.harness_results import harness_name, harness_results
from rlmec.report.tables import (
    Judgement,
    Line,
    accuracy_table,
    comparison_table,
    comparisons,
    markdown,
    paired_p_value,
    plain,
    warning_lines,
)
from rlmec.stages.evaluate_models import panels_of, short_names
from rlmec.store.tables import write_table
from rlmec.tasks.dataset import DatasetTask
from rlmec.tasks.gsm8k import Gsm8kTask

PROBLEMS = [
    Problem("a", "One and one?", "2", "1 + 1 = 2\n#### 2"),
    Problem("b", "Three, and four?", "7", "3 + 4 = 7\n#### 7"),
    Problem("c", "Five and five?", "10"),
    Problem("u", "Unreadable?", "many"),
]
TEXTS = {"a": "#### 2", "b": "it is 7", "c": "#### 9 or 10", "u": "#### 1"}


@pytest.fixture
def task(tmp_path):
    rows = [{"question": p.question, "answer": f"#### {p.answer}"} for p in PROBLEMS[:3]]
    path = tmp_path / "gsm8k.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Gsm8kTask({"test": str(path)})


def attempts(task, texts, clipped=()):
    return [
        Attempt(f"{p.id}/0", p.id, [1], [2, 3], [], t, task.judge(t, p), p.id in clipped, "t")
        for p in PROBLEMS
        if (t := texts.get(p.id))
    ]


# --- several readings ---


def test_the_same_attempts_read_strictly_leniently_and_as_the_authors_do(task):
    found = figures(attempts(task, TEXTS), PROBLEMS, task, ["strict", "flexible", "authors"])
    assert found["accuracy"] == 1 / 3  # a; b is unmarked, c says two numbers
    assert found["accuracy_flexible"] == 1.0
    assert (found["accuracy_flexible_low"], found["accuracy_flexible_high"]) == wilson(3, 3)
    assert found["accuracy_authors"] == 1 / 3
    assert found["authors_ceiling"] == 1.0
    assert (found["problems"], found["unparsable"]) == (3, 1)


def test_a_clipped_attempt_is_right_for_the_authors_alone(task):
    clipped = attempts(task, {"a": "#### 2"}, clipped="a")
    found = figures(clipped, PROBLEMS, task, ["flexible", "authors"])
    readings = ("accuracy", "accuracy_flexible", "accuracy_authors")
    assert [found[name] for name in readings] == [0.0, 0.0, 1.0]


def test_what_is_not_asked_for_is_not_there(task):
    found = figures(attempts(task, TEXTS), PROBLEMS, task, ["strict"])
    assert not [name for name in found if "flexible" in name or "authors" in name]


# --- stored outputs ---


def test_a_table_of_attempts_is_judged_again(task, tmp_path):
    problems = task.problems("test")
    texts = ["#### 2", "#### 8", "so 10"]
    rows = [
        Attempt(f"{p.id}/0", p.id, [1], [2], [], text, "right", False, "t")  # the verdict of then
        for p, text in zip(problems, texts, strict=True)
    ]
    write_table(tmp_path / "attempts.parquet", [replace(rows[0], clipped=True), *rows[1:]], Attempt)
    found = read_stored(str(tmp_path / "attempts.parquet"), task, problems, "", "")
    assert [o.verdict for o in found] == ["right", "wrong", "no_answer"]
    assert [o.is_right for o in found] == [False, False, False]  # the first was cut
    assert found[0].completion_ids == [2]
    with pytest.raises(ValueError, match=r"parquet, attempt '.*/0': problem '.*none of the 2"):
        read_stored(str(tmp_path / "attempts.parquet"), task, problems[1:], "", "")


def test_rows_of_texts_are_judged_by_id_or_question(task, tmp_path):
    problems, path = task.problems("test"), tmp_path / "out.jsonl"
    rows = [
        {"problem_id": problems[0].id, "out": {"text": "#### 2"}},
        {"question": f" {problems[1].question}\n", "out": {"text": ""}},
        {"question": "Another?", "out": {"text": "#### 7"}},
        {"problem_id": problems[0].id, "out": {"text": "<<1+1=2>>#### 3"}},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_stored(str(path), task, problems, "out.text", "question")
    assert [(o.id, o.verdict) for o in found] == [
        (f"{problems[0].id}/0", "right"),
        (f"{problems[1].id}/0", "no_answer"),  # a blank output is a wrong one, not none
        (f"{problems[0].id}/1", "wrong"),
    ]
    assert found[2].text == "#### 3"
    made = figures(found, problems, task, ["flexible"])
    assert made["accuracy"] == (1 / 2 + 0) / 2
    assert "completion_tokens/mean" not in made
    with pytest.raises(ValueError, match=r"row 1.*no field 'out\.words'"):
        read_stored(str(path), task, problems, "out.words", "question")
    with pytest.raises(ValueError, match="'out' is a dict"):
        read_stored(str(path), task, problems, "out", "question")
    with pytest.raises(ValueError, match="no output at one of the 1 problems"):
        read_stored(str(path), task, problems[2:], "out.text", "question")
    assert is_stored(str(path))
    assert not is_stored("some/model")
    assert read_stored(f"{path}:out.text", task, problems, "other", "question") == found
    with pytest.raises(ValueError, match="some/model: stored outputs are"):
        path_and_field("some/model")


def test_published_solutions_compared_by_pairs(data):
    """Four models' solutions of 660 GSM8K questions; their labels are the authors' own."""
    path = str(data / "gsm8k/model_solutions_part.jsonl")
    task = Gsm8kTask({"test": path})
    problems = task.problems("test")
    names = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
    judged = []
    for name in names:
        found = read_stored(f"{path}:{name}.solution", task, problems, "unused", "question")
        made = figures(found, problems, task, ["strict", "flexible"])
        judged.append(Judgement(name, "gsm8k", made, found))
    rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
    labels = [[bool(row[name]["is_correct"]) for row in rows] for name in names]
    assert [j.figures["accuracy"] for j in judged] == [sum(own) / 660 for own in labels]
    assert all(j.figures["accuracy_flexible"] == j.figures["accuracy"] for j in judged)
    (found,) = comparisons([judged[0], judged[-1]])
    first, last = labels[0], labels[-1]
    both = [a and b for a, b in zip(first, last, strict=True)]
    assert (found.both, found.only_second) == (sum(both), sum(last) - sum(both))
    assert found.p_value < 1e-10


# --- examples ---


def test_examples_are_drawn_by_the_seed_and_never_ask_what_is_judged():
    train = [Problem(f"t{i}", f"What is {i}?", str(i), f"#### {i}") for i in range(30)]
    train.append(Problem("bare", "No solution?", "1"))
    judged = [Problem("x", "what is 3", "3"), Problem("y", "Else?", "1")]
    chosen = choose_examples(train, judged, 29, seed=1)
    assert {p.id for p in chosen} == {f"t{i}" for i in range(30)} - {"t3"}
    assert choose_examples(train, judged, 4, seed=1) == chosen[:4]
    assert choose_examples(train[::-1], judged, 4, seed=1) == chosen[:4]
    assert choose_examples(train, judged, 4, seed=2) != chosen[:4]
    with pytest.raises(ValueError, match="num_fewshot=30: only 29 of 31 train problems"):
        choose_examples(train, judged, 30, seed=1)


# --- side by side ---


def judgement(task, name, texts, modes=("strict", "flexible"), label="gsm8k"):
    made = attempts(task, texts)
    return Judgement(name, label, figures(made, PROBLEMS, task, modes), made)


def test_tables_of_models_and_pairs(task):
    better = {**TEXTS, "b": "#### 7", "c": "#### 10"}
    judged = [judgement(task, "start", TEXTS), judgement(task, "policy", better)]
    (found,) = comparisons(judged)
    # a by both, b and c by the second alone: 2 * (1/2)^2 = 1/2
    assert (found.problems, found.both, found.only_first, found.only_second) == (3, 1, 0, 2)
    assert (found.difference, found.p_value) == (pytest.approx(2 / 3), 0.5)
    low, high = wilson(1, 3)
    first = f"| gsm8k | start | 3 | 33.3 % | {100 * low:.1f} to {100 * high:.1f} | 100.0 % |"
    table = accuracy_table(judged)
    assert first in table
    assert "its ceiling" not in table
    assert "| gsm8k | start | policy | +66.7 | 1 | 0 | 2 | 0.5 |" in comparison_table([found])
    with_paper = accuracy_table([judgement(task, "m", TEXTS, ("authors",))])
    assert with_paper.splitlines()[0].endswith("| its ceiling |")
    assert with_paper.splitlines()[2].endswith("| 100.0 % |")
    stored = plain(judged, [found])
    assert stored["comparisons"][0]["p_value"] == 0.5
    assert stored["judgements"][1]["accuracy"] == 1.0
    json.dumps(stored)


def test_a_model_whose_completions_were_cut_has_a_warning_under_the_tables(task):
    whole, half = judgement(task, "whole", TEXTS), judgement(task, "half", TEXTS)
    half.figures["clipped_rate"] = 0.5
    (line,) = warning_lines([whole, half])
    assert line.startswith("Warning, half: evaluation_clipped: 50.0% ")
    assert plain([whole, half], [])["warnings"] == [line]


def test_only_equal_problems_are_compared(task):
    whole, part = judgement(task, "m", TEXTS), judgement(task, "n", {"a": "#### 2"})
    with pytest.raises(ValueError, match=r"gsm8k: m and n: 4 and 1 problems .*3 are in the first"):
        comparisons([whole, part])
    twice = replace(part, attempts=[*part.attempts, *part.attempts])
    assert comparisons([whole, twice]) == []
    assert paired_p_value(whole.attempts, twice.attempts) is None
    assert paired_p_value(whole.attempts, whole.attempts) == 1.0
    other = judgement(task, "n", {"a": "#### 2"}, label="svamp")
    assert comparisons([whole, other]) == []


def test_the_report_compares_with_start_and_policy():
    start = Line("start", 0.5, 0.4, 0.6, 100, None, None, None, 0.01)
    sft = Line("sft", 0.6, 0.5, 0.7, 100, 10, 3.0, 0.2, 0.04)
    ours = Line("rlmec", 0.7, 0.6, 0.8, 100, 10, 3.0, 0.01)
    text = markdown([start, sft, ours], {}, [], {"svamp": [replace(start, problems=50), ours]})
    assert "| p | p against rlmec | updates" in text
    assert "| sft | 60.0 % | 50.0 to 70.0 | +10.0 | 0.2 | 0.04 | 10 | 3 |" in text
    assert "On svamp, 50 problems:" in text


def test_the_layout_of_the_harness(task):
    made = judgement(task, "m", TEXTS)
    found = harness_results([made], 0, {"split": "test"})
    row = found["results"]["gsm8k_cot_zeroshot"]
    assert row["exact_match,strict-match"] == made.figures["accuracy"]
    assert row["exact_match,flexible-extract"] == 1.0
    # sqrt(1/3 * 2/3 / 2) = 1/3
    assert row["exact_match_stderr,strict-match"] == pytest.approx(1 / 3)
    assert found["n-samples"]["gsm8k_cot_zeroshot"] == {"original": 4, "effective": 3}
    assert found["n-shot"] == {"gsm8k_cot_zeroshot": 0}
    assert (harness_name("gsm8k", 5), harness_name("mine"), harness_name("arc")) == (
        "gsm8k",
        "mine",
        "arc_easy",
    )
    single = judgement(task, "m", {"a": "#### 2"})
    row = harness_results([single], 0, {})["results"]["gsm8k_cot_zeroshot"]
    assert row["exact_match_stderr,strict-match"] == "N/A"


def test_short_names_tell_models_apart():
    paths = ["/s/policy/ab/model", "/s/policy/cd/model", "out/qwen", "other/qwen", "x.jsonl"]
    paths += ["x.jsonl:big.text", "model"]
    names = ["policy/ab", "policy/cd", "qwen", "qwen (2)", "x.jsonl", "big.text", "model"]
    assert short_names(paths) == names


def test_the_picture_has_a_panel_a_task_and_a_bar_a_model(task, tmp_path):
    judged = [judgement(task, m, TEXTS, label=t) for t in ("gsm8k", "svamp") for m in ("one", "b")]
    panels = panels_of(judged)
    assert [[bar.name for bar in bars] for bars in panels.values()] == [["one", "b"]] * 2
    assert panels["svamp"][0] == Bar("one", 1 / 3, *wilson(1, 3), 3)
    write_png(accuracy_figure(panels), tmp_path / "picture.png")
    accuracy_figure({"gsm8k": [Bar("alone", 1.0, 1.0, 1.0, 1)]})
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"


def test_options_in_a_users_own_file(tmp_path):
    """A task without options of its own still reads the last line."""
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"question": "Who?", "answer": "Ann"}) + "\n")
    task = DatasetTask({"test": str(path)})
    (problem,) = task.problems("test")
    ids = {"prompt_ids": [1], "completion_ids": [2], "logprobs": [], "clipped": False}
    text = "Let me think.\nAnn."
    own = Attempt("x", problem.id, text=text, verdict="no_answer", tokenizer="t", **ids)
    assert figures([own], [problem], task, ["flexible"])["accuracy_flexible"] == 1.0
