"""The reference teacher: splices worked by hand, laws on any text, and real attempts."""

import re
import statistics
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from rlmec.answers import final_answer as numbers
from rlmec.records import Problem
from rlmec.tasks.arithmetic import ArithmeticTask
from rlmec.tasks.gsm8k import Gsm8kTask
from rlmec.tasks.solution_files import SolutionFile
from rlmec.teachers.base import Teacher
from rlmec.teachers.reference import ReferenceTeacher

TEACHER = ReferenceTeacher(task=None)
DUCKS = Problem(
    id="ducks",
    question="Ducks lay 16 eggs. She eats 3 and bakes with 4. She sells the rest for $2 each.",
    answer="18",
    solution="She sells 16 - 3 - 4 = 9 eggs.\nShe makes 9 * 2 = $18.\nA: 18",
)


@pytest.mark.parametrize(
    ("attempt", "correction"),
    [
        # right up to the last step: kept, then corrected
        (
            "There are 16 - 3 - 4 = 9 eggs left\nFor these she gets 9 * 2 = $19\nA: 19",
            "There are 16 - 3 - 4 = 9 eggs left\nFor these she gets 9 * 2 = $18\nA: 18",
        ),
        # two lines for one of the reference, each used by the next: both kept
        (
            "First 16 - 3 = 13 remain\nThen 13 - 4 = 9 remain\nA: 9",
            "First 16 - 3 = 13 remain\nThen 13 - 4 = 9 remain\nShe makes 9 * 2 = $18.\nA: 18",
        ),
        # the second line builds on 15, which a false line gave: neither can stay
        (
            "First 16 - 3 = 15 remain\nThen 15 - 6 = 9 remain\nSo 9 * 2 = $18\nA: 9",
            "She sells 16 - 3 - 4 = 9 eggs.\nSo 9 * 2 = $18\nA: 18",
        ),
        # a false equation does not stay although its result is right
        (
            "She sells 16 + 3 = 9 eggs\nSo 9 * 2 = $18\nA: 28",
            "She sells 16 - 3 - 4 = 9 eggs\nSo 9 * 2 = $18\nA: 18",
        ),
        # the attempt's way to mark the answer
        (
            "There are 16 - 3 - 4 = 9 eggs left\nShe gets 9 * 2 = $18\n#### 20",
            "There are 16 - 3 - 4 = 9 eggs left\nShe gets 9 * 2 = $18\n#### 18",
        ),
        # a line that nothing uses goes
        (
            "A dozen is 2 * 6 = 12\nLeft are 16 - 3 - 4 = 9\nSo 9 * 2 = $18\nA: 19",
            "Left are 16 - 3 - 4 = 9\nSo 9 * 2 = $18\nA: 18",
        ),
        ("", DUCKS.solution),
        ("no idea", DUCKS.solution),
    ],
)
def test_splices_worked_by_hand(attempt, correction):
    assert TEACHER.correct(DUCKS, attempt) == correction


def test_a_step_that_is_used_later_is_not_left_out():
    solution = "Red 2 * 3 = 6\nBlue 4 * 5 = 20\nTotal 6 + 20 = 26\nA: 26"
    balls = Problem("balls", "2 boxes of 3 red, 4 of 5 blue balls. How many?", "26", solution)
    attempt = "Blues 4 * 5 = 20\nAll 20 + 7 = 27\nA: 27"
    right = "Red 2 * 3 = 6\nBlues 4 * 5 = 20\nAll 20 + 6 = 26\nA: 26"
    assert TEACHER.correct(balls, attempt) == right


def test_it_is_a_teacher_and_needs_a_reference():
    assert isinstance(TEACHER, Teacher)
    assert TEACHER.correct(Problem("x", "2 + 2?", "4"), "A: 5") is None
    assert TEACHER.correct(Problem("x", "2 + 2?", "4", " "), "A: 5") is None


def test_its_whole_solution_is_the_reference():
    problem = Problem("p", "How many?", "4", "2 + 2 = 4\n#### 4")
    assert ReferenceTeacher().solve(problem) == problem.solution


def test_the_reference_itself_is_kept():
    assert TEACHER.correct(DUCKS, DUCKS.solution) == DUCKS.solution


LINES = [
    *DUCKS.solution.split("\n"),
    *("First 16 - 3 = 13 remain", "Then 13 - 4 = 9 remain", "So 9 * 3 = $27", "The answer is 7."),
    *("", "She eats 3 eggs", "1,000 / 7 = 2", "\\boxed{9}"),
]


@given(st.lists(st.sampled_from(LINES) | st.text(max_size=20), max_size=9).map("\n".join))
@settings(max_examples=300, derandomize=True, deadline=None)
def test_any_text_becomes_right_and_is_no_farther_than_the_reference(attempt):
    correction = TEACHER.correct(DUCKS, attempt)
    assert numbers.judge_number(correction, "18") == "right"
    plain = re.compile(r" ?\d| ?[A-Za-z]+| ?[^\sA-Za-z\d]|\s").findall
    goal = plain(attempt)
    spliced = Levenshtein.distance(goal, plain(correction))
    marker = next(
        (m[0] for x in reversed(attempt.split("\n")) if (m := numbers.marker_of(x))), "A:"
    )
    stop = "." if marker.lower().startswith("the") else ""
    reference = DUCKS.solution.replace("A: 18", f"{marker} 18{stop}")
    assert spliced <= Levenshtein.distance(goal, plain(reference))


def test_it_serves_the_embedded_task():
    task = ArithmeticTask(train=60)
    for problem in task.problems("train"):
        wrong = problem.solution.replace("3", "4").replace("7", "1")
        assert task.judge(TEACHER.correct(problem, wrong), problem) == "right"


def test_real_attempts_are_corrected_within_the_limit(data: Path):
    path = str(data / "gsm8k" / "model_solutions_part.jsonl")
    task = Gsm8kTask(path=path, dev_share=0.15, test_share=0.2)
    problems = {p.id: p for p in task.problems("train")}
    file = SolutionFile(path, list(problems.values()), "*.solution", clean=task.clean)
    cut = re.compile(r"\d|\n|[^\s\d]+").findall
    ratios = []
    for solution in file:
        problem = problems[solution.problem_id]
        if task.judge(solution.text, problem) == "right":
            continue
        correction = TEACHER.correct(problem, solution.text)
        assert correction is not None
        assert task.judge(correction, problem) == "right"
        ratios.append(Levenshtein.normalized_distance(cut(solution.text), cut(correction)))
    assert len(ratios) == 1023
    assert sum(ratio <= 0.5 for ratio in ratios) >= 450
    assert statistics.median(ratios) < 0.55
