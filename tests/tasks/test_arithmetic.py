"""Laws of the embedded task and its oracle: splits, vocabulary, and minimal corrections."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from rlmec.records import Problem
from rlmec.tasks.arithmetic import ArithmeticTask
from rlmec.tasks.base import Task
from rlmec.tasks.mending import KINDS
from rlmec.tasks.phrasings import EQUATION, LINES, OPERATIONS, SYMBOLS, tokens

TASK = ArithmeticTask(train=200, dev=50, test=100, phrasings=6, operations=list(SYMBOLS))
PROBLEMS = TASK.problems("train")
MIA = Problem(
    id="mia",
    question="Mia has 34 apples. Mia gets 12 more. Mia gives 6 away. How many apples are there?",
    answer="40",
    solution="The sum is 34 + 12 = 46.\nThat leaves 46 - 6 = 40 apples.\nThe answer is 40.",
    kind="2 steps",
)


def edits(before: str, after: str) -> int:
    return Levenshtein.distance(tokens(before), tokens(after))


def test_it_is_a_task_with_distinct_disjoint_splits():
    assert isinstance(TASK, Task)
    splits = {split: TASK.problems(split) for split in ("train", "dev", "test")}
    assert {split: len(problems) for split, problems in splits.items()} == TASK.sizes
    questions = [p.question for problems in splits.values() for p in problems]
    ids = [p.id for problems in splits.values() for p in problems]
    assert len(set(questions)) == len(set(ids)) == 350


def test_no_calculation_stands_in_two_splits():
    task = ArithmeticTask(digits=1, min_steps=1, max_steps=2, train=300, dev=60, test=150)
    found = {
        split: {" ".join(m.group() for m in EQUATION.finditer(p.solution)) for p in problems}
        for split in ("train", "dev", "test")
        if (problems := task.problems(split))
    }
    assert len(found["train"]) < 300, "one digit has to repeat calculations for this to say much"
    assert not found["train"] & found["test"]
    assert not found["train"] & found["dev"]
    assert not found["dev"] & found["test"]


def test_a_split_depends_on_the_seed_and_not_on_other_sizes():
    other = ArithmeticTask(train=7, dev=1, test=100, phrasings=6, operations=list(SYMBOLS))
    assert other.problems("test") == TASK.problems("test")
    assert other.problems("train") == PROBLEMS[:7]
    reseeded = ArithmeticTask(seed=2, train=200, phrasings=6, operations=list(SYMBOLS))
    assert not {p.question for p in reseeded.problems("train")} & {p.question for p in PROBLEMS}


def test_reference_solutions_are_true_and_within_range():
    for problem in PROBLEMS:
        assert problem.solution is not None
        number = int(re.findall(r"\d+", problem.question)[0])
        *lines, last = problem.solution.split("\n")
        assert problem.kind == f"{len(lines)} steps"
        for line in lines:
            before, symbol, operand, after = EQUATION.search(line).groups()
            assert int(before) == number
            a, b = int(before), int(operand)
            number = {"+": a + b, "-": a - b, "*": a * b, "/": a // b}[symbol]
            assert int(after) == number
            assert 1 <= number <= 99
            assert symbol != "/" or a % b == 0
        assert last == f"The answer is {number}."
        assert problem.answer == str(number)


def test_the_vocabulary_is_small_and_the_texts_are_short():
    pattern = re.compile(r" ?\d| ?[A-Za-z]+| ?[^\sA-Za-z\d]|\n")
    words = set()
    for problem in PROBLEMS:
        question, solution = pattern.findall(problem.question), pattern.findall(problem.solution)
        assert "".join(question) == problem.question
        assert "".join(solution) == problem.solution
        assert len(question) <= 60
        assert len(solution) <= 90
        words |= {token.strip(" ") for token in question + solution}
    assert 50 < len(words) < 250


def test_every_operation_has_the_same_number_of_phrasings_that_hold_the_equation():
    assert set(LINES) == set(SYMBOLS) == set(OPERATIONS.values())
    assert {len(lines) for lines in LINES.values()} == {6}
    assert all("{equation}" in line for lines in LINES.values() for line in lines)


def test_a_right_solution_comes_back_unchanged():
    for problem in PROBLEMS:
        assert TASK.judge(problem.solution, problem.answer) == "right"
        assert TASK.oracle(problem, problem.solution) == problem.solution
        assert TASK.first_wrong_line(problem, problem.solution) is None
        assert TASK.kind_of_error(problem, problem.solution) == "none"


def test_other_phrasings_and_swapped_operands_count_as_right():
    text = "Adding 12 gives 12 + 34 = 46.\nTaking 6 gives 46 - 6 = 40.\nThe answer is 40."
    assert TASK.oracle(MIA, text) == text
    wrong = text.replace("46 - 6", "6 - 46")
    assert TASK.oracle(MIA, wrong) == text, "a difference cannot be swapped"


@pytest.mark.parametrize(
    ("wrong", "right", "line", "kind", "changed"),
    [
        # a result and what follows from it: 45 to 46, 45 - 6 = 39 to 46 - 6 = 40, the answer
        (
            "Mia gets 12 more, so 34 + 12 = 45.\nThe rest is 45 - 6 = 39.\nThe answer is 39.",
            "Mia gets 12 more, so 34 + 12 = 46.\nThe rest is 46 - 6 = 40.\nThe answer is 40.",
            *(0, "result", 6),
        ),
        # an operand copied wrongly: 46 -> 44, the same line's result and the answer
        (
            "The sum is 34 + 12 = 46.\nThat leaves 44 - 6 = 38 apples.\nThe answer is 38.",
            "The sum is 34 + 12 = 46.\nThat leaves 46 - 6 = 40 apples.\nThe answer is 40.",
            *(1, "operand", 5),
        ),
        # an operator: only the sign and the wrong digits change where the words fit both
        (
            "Now Mia has 34 - 12 = 22 apples.\nThe rest is 22 - 6 = 16.\nThe answer is 16.",
            "Now Mia has 34 + 12 = 46 apples.\nThe rest is 46 - 6 = 40.\nThe answer is 40.",
            *(0, "operator", 9),
        ),
        # the answer alone
        (
            "The sum is 34 + 12 = 46.\nThe rest is 46 - 6 = 40.\nThe answer is 41.",
            "The sum is 34 + 12 = 46.\nThe rest is 46 - 6 = 40.\nThe answer is 40.",
            *(2, "answer", 1),
        ),
        # another's items
        (
            "Now Mia has 34 + 12 = 46 books.\nThe rest is 46 - 6 = 40.\nThe answer is 41.",
            "Now Mia has 34 + 12 = 46 apples.\nThe rest is 46 - 6 = 40.\nThe answer is 40.",
            *(0, "wording", 2),
        ),
        # a line said twice: "The sum is 34 + 12 = 46." is 12 tokens, with its newline 13
        (
            "The sum is 34 + 12 = 46.\nThe sum is 34 + 12 = 46.\nThe rest is 46 - 6 = 40.\n"
            "The answer is 40.",
            "The sum is 34 + 12 = 46.\nThe rest is 46 - 6 = 40.\nThe answer is 40.",
            *(1, "extra step", 13),
        ),
        # a missing step comes in the reference's words: "That leaves 46 - 6 = 40 apples." + break
        (
            "The sum is 34 + 12 = 46.\nThe answer is 40.",
            MIA.solution,
            *(1, "missing step", 12),
        ),
    ],
)
def test_corrections_worked_by_hand(wrong, right, line, kind, changed):
    assert TASK.oracle(MIA, wrong) == right
    assert TASK.first_wrong_line(MIA, wrong) == line
    assert TASK.kind_of_error(MIA, wrong) == kind
    assert edits(wrong, right) == changed


def test_a_line_that_cannot_be_read_is_replaced_by_the_references():
    text = "The sum is 34 + 12 = 46.\nno idea what to write here at all\nThe answer is 40."
    assert TASK.oracle(MIA, text) == MIA.solution
    assert TASK.kind_of_error(MIA, text) == "unreadable"


def test_one_corrupted_digit_costs_one_token_unless_it_is_repeated():
    rng = random.Random(5)
    for problem in PROBLEMS:
        places = [m.start() for m in re.finditer(r"\d", problem.solution)]
        place = rng.choice(places)
        digit = rng.choice([d for d in "123456789" if d != problem.solution[place]])
        wrong = problem.solution[:place] + digit + problem.solution[place + 1 :]
        corrected = TASK.oracle(problem, wrong)
        assert edits(wrong, corrected) == 1, f"seed 5: {wrong!r} became {corrected!r}"
        assert corrected == problem.solution


def fragments(problem: Problem) -> st.SearchStrategy[str]:
    line = st.sampled_from([*problem.solution.split("\n"), *MIA.solution.split("\n"), ""])
    cut = st.tuples(line, st.integers(0, 40)).map(lambda pair: pair[0][: pair[1]])
    noise = st.text(st.characters(codec="utf-8"), max_size=30)
    return st.lists(line | cut | noise, max_size=8).map("\n".join)


@given(data=st.data())
@settings(max_examples=300, derandomize=True, deadline=None)
def test_the_oracle_makes_any_text_right_and_is_idempotent(data):
    problem = data.draw(st.sampled_from(PROBLEMS))
    text = data.draw(fragments(problem))
    corrected = TASK.oracle(problem, text)
    assert TASK.judge(corrected, problem.answer) == "right"
    assert TASK.oracle(problem, corrected) == corrected
    assert len(corrected.split("\n")) == len(problem.solution.split("\n"))
    assert TASK.kind_of_error(problem, text) in KINDS
    first = TASK.first_wrong_line(problem, text)
    assert (first is None) == (corrected == text)
    if first is not None:
        assert text.split("\n")[:first] == corrected.split("\n")[:first]
    # never further than removing every line and writing the reference
    assert edits(text, corrected) <= len(tokens(text)) + len(tokens(problem.solution)) + 2


def test_the_alignment_is_no_dearer_than_line_by_line_in_order():
    problem = next(p for p in PROBLEMS if p.kind == "4 steps")
    lines = problem.solution.split("\n")
    for i in range(len(lines)):
        shorter = "\n".join(lines[:i] + lines[i + 1 :])
        assert TASK.oracle(problem, shorter) == problem.solution
        longer = "\n".join([*lines[:i], "That makes 1 + 1 = 2 apples.", *lines[i:]])
        assert TASK.oracle(problem, longer) == problem.solution


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("The answer is 40.", "right"),
        ("The answer is 4.\nThe answer is 40", "right"),
        ("The answer is 41.", "wrong"),
        ("The answer is .", "no_answer"),
        ("so 46 - 6 = 40", "no_answer"),
        ("#### 40", "no_answer"),
    ],
)
def test_verdicts(text, verdict):
    assert TASK.judge(text, "40") == verdict
    assert TASK.judge(text, "forty") == "unparsable"


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"min_steps": 3, "max_steps": 2}, "min_steps 3 and max_steps 2"),
        ({"digits": 0}, "digits 0"),
        ({"phrasings": 7}, "phrasings 7"),
        ({"operations": ["add", "root"]}, "root"),
        ({"operations": []}, "must be some of"),
    ],
)
def test_settings_out_of_range_are_refused(settings_, message):
    with pytest.raises(ValueError, match=message):
        ArithmeticTask(**settings_)


def test_impossible_requests_are_refused():
    with pytest.raises(ValueError, match="'valid' is none of train, dev, test"):
        TASK.problems("valid")
    with pytest.raises(ValueError, match="'dev' is empty"):
        ArithmeticTask(dev=0).problems("dev")
    with pytest.raises(ValueError, match="no story of 9 steps"):
        ArithmeticTask(operations=["multiply"], min_steps=9, max_steps=9).problems("train")
    few = ArithmeticTask(digits=1, phrasings=1, min_steps=1, max_steps=1, operations="divide")
    with pytest.raises(ValueError, match=r"distinct questions for split 'train'"):
        few.problems("train")


def test_a_problem_of_another_task_is_refused_by_name():
    with pytest.raises(ValueError, match="'alien'"):
        TASK.oracle(Problem("alien", "What is 2 + 2?", "4", "2 + 2 = 4\n#### 4"), "4")
