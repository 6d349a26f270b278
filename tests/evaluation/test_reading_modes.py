"""Readers of answers beside the strict one: the lenient one, and the paper's own scorer."""

import json
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlmec.answers import final_answer as numbers
from rlmec.evaluation.lenient_reading import (
    flexible_answer,
    judge_flexible,
    last_number,
    last_option,
)
from rlmec.evaluation.paper_reading import ceiling, gold_solution, judge_as_authors
from rlmec.records import Problem
from rlmec.tasks.arithmetic import ArithmeticTask

FIXED = settings(derandomize=True, deadline=None, max_examples=60)
NUMBER = Problem("n", "How many?", "18")
OPTIONS = ("fish", "deep sea animals", "sea fish", "a bloody mess")
CHOICE = Problem(
    "c", "Which?\nOptions:\n" + "\n".join(OPTIONS), "Deep sea animals", options=OPTIONS
)
LETTERED = Problem("l", "Which?\nA. fish\nB. birds", "B", options=("fish", "birds"))


class Choosing:
    """A task of texts to choose from, as strict as can be."""

    name = "choosing"

    def problems(self, split):
        return [CHOICE]

    def final_answer(self, text):
        return numbers.final_answer(text)

    def judge(self, text, problem):
        return numbers.judge_answer(text, problem.answer)


# --- the lenient reader ---


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("9 eggs at $2, so she makes $18 a day.", "$18"),
        ("12-5", "5"),
        ("it is -5.", "-5"),
        ("so x = \u22125", "\u22125"),
        ("1,234.50 dollars", "1,234.50"),
        ("in 2019, 3 of them", "3"),
        ("3/4 of it", "3/4"),
        ("50%", "50"),
        ("none", None),
        ("", None),
    ],
)
def test_the_last_number(text, number):
    assert last_number(text) == number


@FIXED
@given(st.integers(-(10**6), 10**6), st.sampled_from(["", ".", " apples.", " dollars\n", ")"]))
def test_a_number_written_last_is_found_exactly(number, after):
    text = f"First 7, then 1,000 and 3.5: {number:,}{after}"
    assert numbers.parse_number(last_number(text) or "") == Fraction(number)


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("They are fish. No, DEEP SEA\nanimals.", "deep sea animals"),
        ("It lives deep, so sea fish", "sea fish"),
        ("sea fish or fish", "fish"),
        ("starfish", None),
        ("I choose (B)", "deep sea animals"),
        ("fish? The answer is C.", "sea fish"),
        ("Option D", "a bloody mess"),
        ("**B**", "deep sea animals"),
        ("a word about (Z)", None),
        ("A fish", "fish"),
        ("", None),
    ],
)
def test_the_last_option_named(text, option):
    assert last_option(text, OPTIONS) == option


def test_what_a_lenient_reader_takes():
    word, maths = Problem("w", "Who?", "Ann"), Problem("m", "?", r"\frac{1}{2}")
    assert flexible_answer("so 3, that is 18 eggs", NUMBER) == "18"
    assert flexible_answer(r"\boxed{7} and 9", NUMBER) == "7"
    assert flexible_answer("It is Ann. The answer is Bob\nYes", word) == "Bob"
    assert flexible_answer("First Bob.\n**Ann.**\n\n", word) == "Ann"
    assert flexible_answer(r"so \boxed{\frac{1}{2}}.", maths) == r"\frac{1}{2}"
    assert flexible_answer("", word) is None


def test_the_verdict_is_the_tasks_own():
    task = ArithmeticTask()
    assert task.judge("3 and 18.0", NUMBER) == "no_answer"
    assert judge_flexible(task, "3 and 18.0", NUMBER) == "right"
    assert judge_flexible(task, "The answer is 18. There are 2 left", NUMBER) == "right"
    assert judge_flexible(task, "no idea", NUMBER) == "no_answer"
    assert judge_flexible(task, "The answer is 18", Problem("u", "?", "many")) == "unparsable"
    assert judge_flexible(Choosing(), "surely the deep sea animals then", CHOICE) == "right"
    assert judge_flexible(Choosing(), "surely fish", CHOICE) == "wrong"


class Marked(Choosing):
    """A user's task with a marker of its own: the answer alone is put before its judge."""

    def final_answer(self, text):
        return text.split("=>")[1] if "=>" in text else None

    def judge(self, text, problem):
        return "right" if (self.final_answer(text) or text) == problem.answer else "wrong"


def test_a_task_with_other_markers_judges_the_bare_answer():
    assert judge_flexible(Marked(), "it is 18", NUMBER) == "right"
    assert judge_flexible(Marked(), "it is 19", NUMBER) == "wrong"


# --- the paper's scorer ---


def test_its_known_faults():
    lowered = Problem("o", CHOICE.question, "fish", options=OPTIONS)
    assert judge_as_authors("The answer is Fish.", lowered) == "right"
    assert judge_as_authors("The answer is Deep sea animals", CHOICE) == "wrong"
    assert judge_as_authors("fish", lowered) == "no_answer"
    assert judge_as_authors("The answer is birds", LETTERED) == "wrong"
    assert judge_as_authors("The answer is (B)", LETTERED) == "right"
    first = Problem("l", LETTERED.question, "A", options=LETTERED.options)
    assert judge_as_authors("The answer is a bird, so B", first) == "right"
    assert judge_as_authors("The answer is a bird, so B", LETTERED) == "wrong"
    gold = Problem("g", "?", "100")
    assert judge_as_authors("The answer is 104", gold, 0.04) == "right"
    assert judge_as_authors("The answer is 96", gold, 0.04) == "right"
    assert judge_as_authors("The answer is 105", gold, 0.04) == "wrong"
    assert judge_as_authors("The answer is 104", gold) == "wrong"
    assert judge_as_authors(r"\boxed{x + 1}", Problem("t", "?", "x+1")) == "right"
    assert judge_as_authors("100", gold) == "no_answer"


def test_it_evaluates_nothing():
    gold = Problem("g", "?", "4")
    assert judge_as_authors("The answer is 2+2", gold) == "wrong"
    assert judge_as_authors("The answer is __import__('os').getcwd()", gold) == "wrong"


def test_the_ceiling_counts_what_it_can_give():
    problems = [
        CHOICE,
        Problem("o", CHOICE.question, "fish", options=OPTIONS),
        LETTERED,
        NUMBER,
        Problem("u", "?", "."),
    ]
    assert ceiling(problems) == 3 / 4
    assert gold_solution(LETTERED) == "The answer is B"
    by_text = Problem("t", LETTERED.question, "Birds", options=LETTERED.options)
    assert gold_solution(by_text) == "The answer is B"
    assert judge_as_authors("The answer is B", by_text) == "right"
    nowhere = Problem("x", LETTERED.question, "worms", options=LETTERED.options)
    assert judge_as_authors("The answer is B", nowhere) == "unparsable"


@pytest.mark.parametrize(
    ("name", "split", "with_capitals"),
    [  # counted by hand with grep -c: gold answers that hold a capital letter
        ("arc", "train", 253),
        ("arc", "validation", 62),
        ("qasc", "train", 422),
        ("qasc", "validation", 44),
        ("openbookqa", "train", 128),
        ("openbookqa", "validation", 39),
        ("ecqa", "train", 0),
        ("ecqa", "validation", 0),
    ],
)
def test_its_ceilings_on_the_published_rows(data, name, split, with_capitals):
    rows = [json.loads(r) for r in (data / name / f"{split}_part.jsonl").read_text().splitlines()]
    problems = [
        Problem(str(i), r["problem"], r["answer"], options=tuple(r["problem"].split("\n")[2:]))
        for i, r in enumerate(rows)
    ]
    assert sum(r["answer"] != r["answer"].lower() for r in rows) == with_capitals
    assert ceiling(problems) == pytest.approx(1 - with_capitals / len(rows), abs=1e-12)
    for problem in problems:  # the lenient reader has no such ceiling
        assert judge_flexible(Choosing(), f"It is {problem.answer}", problem) == "right"
