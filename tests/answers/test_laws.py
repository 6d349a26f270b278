"""Laws of reading, over every gold answer of the published files.

A wrapper changes no verdict, a sentence that follows changes none, and no wrapper makes another
row's answer right. What the strict reading finds right, the lenient one does. The normal form of a
normal form is the same.
"""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gold_answers import NAMES, everything, numeric, option_task

from rlmec.answers.final_answer import final_answer
from rlmec.answers.mathematics import latex_text, mathematics
from rlmec.answers.normal_form import clean, heads, normal_form, normal_text, trimmed
from rlmec.answers.numbers import parse_number
from rlmec.answers.options import read_option
from rlmec.evaluation.lenient_reading import judge_flexible
from rlmec.records import Problem
from rlmec.tasks.base import Task
from rlmec.tasks.math import MathTask
from rlmec.tasks.mmlu import MmluTask

WRAPPERS = (
    "The answer is {}.",
    "The answer is ${}$.",
    "The answer is \\({}\\).",
    "The answer is\n$${}$$",
    "The final answer is **{}**.",
    "**The answer is {}.**",
    "**Final Answer**\n\n{}",
    "Answer: `{}`",
    "So \\boxed{{{}}}.",
    "$\\boxed{{\\text{{{}}}}}$",
    "<think>The answer is 77 or A.</think>\n#### {}",
    "The answer is \u200b\u201c{}\u201d<|im_end|>",
)
SENTENCES = (
    "",
    " I hope it is correct.",
    " Let me know if you have any questions!",
    "\nSo the answer is correct.",
    "\n\nThis was found step by step.",
    " Thus the problem is solved.",
    "\n#### 2. Check the result",
)
TURN_ENDS = "<|im_end|>"
PIECES = (
    *(
        "<b>",
        "</b>",
        "**",
        "*",
        "$",
        "$$",
        "\\(",
        "\\)",
        "\\[",
        "\\]",
        "\\text{",
        "\\boxed{",
        "{",
        "}",
        "`",
        '"',
    ),
    *(
        "The answer is",
        "####",
        "5",
        "1,000",
        "\\frac{1}{2}",
        "B",
        "(B)",
        ".",
        ". ",
        ", ",
        " ",
        "\n",
    ),
    *("because", " - it is", "!", "?", "½", "\u200b", "<think>", "</think>", "</s>", "not", "and"),
)
TEXTS = st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text(max_size=40)
FIXED = settings(derandomize=True, deadline=None, max_examples=400)


def statements(answer: str, at: int, whole: bool) -> list[str]:
    """The answer in every wrapper, each with one sentence after it, or with each of them."""
    out = []
    for index, wrapper in enumerate(WRAPPERS):
        sentences = SENTENCES if whole else [SENTENCES[(at + index) % len(SENTENCES)]]
        for sentence in sentences:
            # a number in words takes a full stop before the next sentence
            text = wrapper.format(answer)
            ended = text.endswith(TURN_ENDS)
            text = text.removesuffix(TURN_ENDS) + sentence
            out.append(text + TURN_ENDS if ended else text)
    return out


def breaches(task: Task, problem: Problem, answer: str, verdict: str, texts: list[str]) -> list:
    found = [(text, task.judge(text, problem)) for text in texts]
    return [(problem.answer, answer, text, v) for text, v in found if v != verdict]


def test_numbers_in_wrappers(data: Path):
    out = []
    for task, problems in numeric(data):
        for at, problem in enumerate(problems):
            texts = statements(problem.answer, at, whole=at % 200 == 0)
            out += breaches(task, problem, problem.answer, "right", texts)
            other = (problems * 2)[at + 1].answer
            if parse_number(other) != parse_number(problem.answer):
                texts = statements(other, at, whole=False)[at % 12 :: 4]
                out += breaches(task, problem, other, "wrong", texts)
    assert out == []


@pytest.mark.parametrize("name", [*NAMES, "mmlu"])
def test_options_in_wrappers(data: Path, name):
    if name == "mmlu":
        task: Task = MmluTask(str(data / "mmlu/mathematics_part.json"))
        problems = task.problems("test")
    else:
        task = option_task(data, name)
        problems = everything(task)
    out = []
    for at, problem in enumerate(problems):
        texts = statements(problem.answer, at, whole=at % 200 == 0)
        out += breaches(task, problem, problem.answer, "right", texts)
        gold = read_option(problem.answer, problem.options)
        same = normal_text(problem.answer)
        other = next(o for o in problem.options if normal_text(o) != same)
        assert read_option(other, problem.options) != gold
        out += breaches(
            task, problem, other, "wrong", statements(other, at, whole=False)[at % 4 :: 4]
        )
    assert out == []


def test_mathematics_in_wrappers(data: Path):
    task = MathTask({"test": str(data / "math/test_part.jsonl")})
    problems = task.problems("test")
    pairs = []
    for at, problem in enumerate(problems):
        pairs += [
            (text, problem, "right") for text in statements(problem.answer, at, at % 100 == 0)
        ]
        other = (problems * 2)[at + 37].answer
        if latex_text(other) != latex_text(problem.answer):
            texts = statements(other, at, whole=False)[at % 4 :: 4]
            pairs += [(text, problem, "wrong") for text in texts]
    found = task.judge_many([text for text, _, _ in pairs], [problem for _, problem, _ in pairs])
    task.verifier.close()
    out = [(p.answer, text, v) for (text, p, w), v in zip(pairs, found, strict=True) if v != w]
    assert [row for row in out if "units" not in row[0]] == []


@FIXED
@given(TEXTS)
def test_the_normal_form_of_a_normal_form_is_the_same(text):
    once = normal_form(text)
    assert normal_form(once) == once
    for function in (clean, trimmed, normal_text):
        assert function(function(text)) == function(text)
    mathematics(text), latex_text(text)
    answer = final_answer(text)
    assert answer is None or trimmed(answer) == answer
    assert next(iter(heads(text))) == (text, "")


@FIXED
@given(TEXTS, st.sampled_from(["5", "1000", "1/2", "bloody mess", "B"]))
def test_the_lenient_reading_is_right_wherever_the_strict_one_is(text, gold):
    class Any:
        name = "any"

        def problems(self, split):
            return []

        def final_answer(self, text):
            return final_answer(text)

        def judge(self, text, problem):
            from rlmec.answers.final_answer import judge_answer

            return judge_answer(text, problem.answer)

    problem = Problem("p", "q?", gold)
    if Any().judge(text, problem) == "right":
        assert judge_flexible(Any(), text, problem) == "right"
