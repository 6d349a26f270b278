"""Laws of the embedded task and its oracle: splits, vocabulary, and minimal corrections."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from rlmec.records import Problem
from rlmec.tasks.arithmetic import ArithmeticTask
from rlmec.tasks.arithmetic_oracle import KINDS, line_edits
from rlmec.tasks.arithmetic_text import (
    DAYS,
    EQUATION,
    LINES,
    OPERATIONS,
    SYMBOLS,
    tokens,
)
from rlmec.tasks.base import Task

RICH = {"max_steps": 4, "phrasings": 6, "operations": list(SYMBOLS)}
TASK = ArithmeticTask(train=200, dev=50, test=100, **RICH)
PROBLEMS = TASK.problems("train")
MIA = Problem(
    id="mia",
    question=(
        "Mia has 34 apples. Monday: Mia gets 12 more. Tuesday: Mia gives 6 away. "
        "How many apples are there now?"
    ),
    answer="40",
    solution=(
        "Monday: The sum is 34 + 12 = 46.\nTuesday: That leaves 46 - 6 = 40 apples.\n"
        "The answer is 40."
    ),
    kind="2 steps",
)
SUMS = Problem(
    id="sums",
    question=(
        "Mia has 34 apples. Monday: Mia gets 12 more. Tuesday: Mia finds 12 more apples. "
        "How many apples are there now?"
    ),
    answer="58",
    solution=(
        "Monday: The sum is 34 + 12 = 46.\nTuesday: The sum is 46 + 12 = 58.\nThe answer is 58."
    ),
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
    other = ArithmeticTask(train=7, dev=1, test=100, **RICH)
    assert other.problems("test") == TASK.problems("test")
    assert other.problems("train") == PROBLEMS[:7]
    reseeded = ArithmeticTask(seed=2, train=200, **RICH)
    assert not {p.question for p in reseeded.problems("train")} & {p.question for p in PROBLEMS}


def test_reference_solutions_are_true_and_within_range():
    for problem in PROBLEMS:
        assert problem.solution is not None
        number = int(re.findall(r"\d+", problem.question)[0])
        *lines, last = problem.solution.split("\n")
        assert problem.kind == f"{len(lines)} steps"
        for day, line in zip(DAYS, lines, strict=False):
            assert line.startswith(f"{day}: ")
            before, symbol, operand, after = EQUATION.search(line).groups()
            assert int(before) == number
            a, b = int(before), int(operand)
            number = {"+": a + b, "-": a - b, "*": a * b, "/": a // b}[symbol]
            assert int(after) == number
            assert symbol != "/" or a % b == 0
        assert last == f"The answer is {number}."
        assert problem.answer == str(number)


def test_every_event_of_a_question_begins_with_its_day():
    for problem in PROBLEMS:
        events = re.findall(rf"({'|'.join(DAYS)}): [A-Z]", problem.question)
        assert tuple(events) == DAYS[: int(problem.kind[0])]


def numbers_of(problems):
    """All running numbers, and all that is added or subtracted."""
    running, operands = set(), set()
    for problem in problems:
        for match in EQUATION.finditer(problem.solution):
            before, symbol, operand, after = match.groups()
            running |= {int(before), int(after)}
            operands |= {int(operand)} if symbol in "+-" else set()
    return running, operands


@pytest.mark.parametrize(("digits", "smallest", "largest"), [(1, 2, 9), (2, 10, 99), (3, 100, 999)])
def test_all_numbers_have_the_same_digits(digits, smallest, largest):
    task = ArithmeticTask(train=400, digits=digits, max_operand=largest, operations=list(SYMBOLS))
    running, operands = numbers_of(task.problems("train"))
    assert smallest <= min(running) < smallest * 1.6
    assert largest * 0.9 < max(running) <= largest
    assert smallest <= min(operands) < smallest * 1.6
    assert largest * 0.7 < max(operands) <= largest - smallest


@pytest.mark.parametrize("max_operand", [10, 13, 20])
def test_operands_are_no_larger_than_max_operand(max_operand):
    problems = ArithmeticTask(train=200, max_operand=max_operand).problems("train")
    running, operands = numbers_of(problems)
    assert operands == set(range(10, max_operand + 1)), "each operand there is"
    assert max(running) > 90, "the running number is not capped"


def test_a_story_may_last_a_week_and_no_longer():
    problem = ArithmeticTask(train=1, min_steps=7, max_steps=7).problems("train")[0]
    assert [line.split(":")[0] for line in problem.solution.split("\n")[:-1]] == list(DAYS)
    assert TASK.oracle(problem, problem.solution) == problem.solution


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
        assert TASK.judge(problem.solution, problem) == "right"
        assert TASK.oracle(problem, problem.solution) == problem.solution
        assert TASK.first_wrong_line(problem, problem.solution) is None
        assert TASK.kind_of_error(problem, problem.solution) == "none"


def test_other_phrasings_and_swapped_operands_count_as_right():
    text = (
        "Monday: Adding 12 gives 12 + 34 = 46.\nTuesday: Taking 6 gives 46 - 6 = 40.\n"
        "The answer is 40."
    )
    assert TASK.oracle(MIA, text) == text
    wrong = text.replace("46 - 6", "6 - 46")
    assert TASK.oracle(MIA, wrong) == text, "a difference cannot be swapped"


@pytest.mark.parametrize(
    ("wrong", "right", "line", "kind", "changed"),
    [
        # a result and what follows from it: 45 to 46, 45 - 6 = 39 to 46 - 6 = 40, the answer
        (
            "Monday: Mia gets 12 more, so 34 + 12 = 45.\nTuesday: The rest is 45 - 6 = 39.\n"
            "The answer is 39.",
            "Monday: Mia gets 12 more, so 34 + 12 = 46.\nTuesday: The rest is 46 - 6 = 40.\n"
            "The answer is 40.",
            *(0, "result", 6),
        ),
        # an operand copied wrongly: 46 -> 44, the same line's result and the answer
        (
            "Monday: The sum is 34 + 12 = 46.\nTuesday: That leaves 44 - 6 = 38 apples.\n"
            "The answer is 38.",
            MIA.solution,
            *(1, "operand", 5),
        ),
        # an operator: only the sign and the wrong digits change where the words fit both
        (
            "Monday: Now Mia has 34 - 12 = 22 apples.\nTuesday: The rest is 22 - 6 = 16.\n"
            "The answer is 16.",
            "Monday: Now Mia has 34 + 12 = 46 apples.\nTuesday: The rest is 46 - 6 = 40.\n"
            "The answer is 40.",
            *(0, "operator", 9),
        ),
        # the answer alone
        (
            MIA.solution.replace("is 40", "is 41"),
            MIA.solution,
            *(2, "answer", 1),
        ),
        # another's items
        (
            "Monday: Now Mia has 34 + 12 = 46 books.\nTuesday: The rest is 46 - 6 = 40.\n"
            "The answer is 41.",
            "Monday: Now Mia has 34 + 12 = 46 apples.\nTuesday: The rest is 46 - 6 = 40.\n"
            "The answer is 40.",
            *(0, "wording", 2),
        ),
        # the wrong day
        (
            MIA.solution.replace("Tuesday", "Friday"),
            MIA.solution,
            *(1, "wording", 1),
        ),
        # a day said twice
        (
            MIA.solution.replace("Tuesday", "Monday"),
            MIA.solution,
            *(1, "wording", 1),
        ),
        # no day: "Monday" and ":" come in, and "The" becomes " The"
        (
            MIA.solution.replace("Monday: The", "The"),
            MIA.solution,
            *(0, "wording", 3),
        ),
        # the answer has no day: "Wednesday" and ":" go, and " The" becomes "The"
        (
            MIA.solution.replace("The answer", "Wednesday: The answer"),
            MIA.solution,
            *(2, "answer", 3),
        ),
        # a line said twice: "Monday: The sum is 34 + 12 = 46." is 14 tokens, 15 with its newline
        (
            "Monday: The sum is 34 + 12 = 46.\nMonday: The sum is 34 + 12 = 46.\n"
            "Tuesday: The rest is 46 - 6 = 40.\nThe answer is 40.",
            "Monday: The sum is 34 + 12 = 46.\nTuesday: The rest is 46 - 6 = 40.\n"
            "The answer is 40.",
            *(1, "extra step", 15),
        ),
        # a missing step comes in the reference's words: 13 tokens and the newline
        (
            "Monday: The sum is 34 + 12 = 46.\nThe answer is 40.",
            MIA.solution,
            *(1, "missing step", 14),
        ),
    ],
)
def test_corrections_worked_by_hand(wrong, right, line, kind, changed):
    assert TASK.oracle(MIA, wrong) == right
    assert TASK.first_wrong_line(MIA, wrong) == line
    assert TASK.kind_of_error(MIA, wrong) == kind
    assert edits(wrong, right) == changed


def test_a_line_that_cannot_be_read_is_replaced_by_the_references():
    text = "Monday: The sum is 34 + 12 = 46.\nno idea what to write at all\nThe answer is 40."
    assert TASK.oracle(MIA, text) == MIA.solution
    assert TASK.kind_of_error(MIA, text) == "unreadable"


def test_of_two_lines_for_one_step_the_one_with_fewer_tokens_goes():
    """Removing costs a line's tokens, so the longer line stays though it needs more edits.

    The longer is 18 tokens, two of them wrong: to keep it costs 2 and the other's removal 14 + 1.
    The shorter is 14 tokens, one of them wrong: to keep it costs 1 and the other's removal 18 + 1.
    """
    longer = "Monday: Mia gets 12 more, so 34 + 12 = 57."
    shorter = "Monday: The sum is 34 + 12 = 47."
    assert (len(tokens(longer)), len(tokens(shorter))) == (18, 14)
    rest = "Tuesday: That leaves 46 - 6 = 40 apples.\nThe answer is 40."
    right = f"Monday: Mia gets 12 more, so 34 + 12 = 46.\n{rest}"
    for lines in ([longer, shorter], [shorter, longer]):
        wrong = "\n".join([*lines, rest])
        assert TASK.oracle(MIA, wrong) == right


@pytest.mark.parametrize(
    ("extra", "middle"),
    [
        # the first step added (14 + 1), the second kept, the extra line removed (2 + 1): 18
        ("well well", ["Monday: The sum is 34 + 12 = 46."]),
        # the same with three words: 19; no dearer is to change the second step's line into the
        # first (its day and four digits: 5) and the extra line into the second (14 tokens): 19
        ("well well well", []),
    ],
)
def test_removing_a_line_costs_its_tokens_and_its_newline(extra, middle):
    second = "Tuesday: The sum is 46 + 12 = 58."
    wrong = f"{second}\n{extra}\nThe answer is 58."
    assert TASK.oracle(SUMS, wrong) == SUMS.solution
    found = line_edits(SUMS, wrong, phrasings=6)
    assert ([edit.after for edit in found if edit.before is None]) == middle


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
    assert TASK.judge(corrected, problem) == "right"
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
    assert TASK.judge(text, Problem("p", "?", "40")) == verdict
    assert TASK.judge(text, Problem("p", "?", "forty")) == "unparsable"


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"min_steps": 3, "max_steps": 2}, "min_steps 3 and max_steps 2"),
        ({"digits": 0}, "digits 0"),
        ({"phrasings": 7}, "phrasings 7"),
        ({"operations": ["add", "root"]}, "root"),
        ({"operations": []}, "must be some of"),
        ({"max_steps": 8}, "max_steps 8 must hold .* <= 7"),
        ({"max_operand": 9}, "max_operand 9 is below 10, the smallest operand of digits 2"),
        ({"digits": 3}, "max_operand 20 is below 100"),
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
    with pytest.raises(ValueError, match="no story of 7 steps"):
        ArithmeticTask(operations=["multiply"], min_steps=7, max_steps=7).problems("train")
    few = ArithmeticTask(digits=1, phrasings=1, min_steps=1, max_steps=1, operations="divide")
    with pytest.raises(ValueError, match=r"distinct questions for split 'train'"):
        few.problems("train")


def test_a_problem_of_another_task_is_refused_by_name():
    with pytest.raises(ValueError, match="'alien'"):
        TASK.oracle(Problem("alien", "What is 2 + 2?", "4", "2 + 2 = 4\n#### 4"), "4")


# --- references of another style, or none ---


def test_terse_references_state_the_same_equations():
    task = ArithmeticTask(train=200, references="terse", **RICH)
    for problem, plain in zip(task.problems("train"), PROBLEMS, strict=True):
        assert (problem.id, problem.question) == (plain.id, plain.question)
        stated = [match.group() for match in EQUATION.finditer(plain.solution)]
        assert problem.solution == "; ".join(stated) + f"\nThe answer is {plain.answer}."
        assert task.judge(problem.solution, problem) == "right"


def test_a_share_of_the_problems_has_a_reference():
    """A tenth of 2000 within four standard deviations; which one does not depend on the seed's
    other choices."""
    task = ArithmeticTask(train=2000, reference_share=0.1)
    shown = [p for p in task.problems("train") if p.solution is not None]
    assert abs(len(shown) - 200) < 4 * (2000 * 0.1 * 0.9) ** 0.5
    full = {p.id: p.solution for p in ArithmeticTask(train=2000).problems("train")}
    assert all(full[p.id] == p.solution for p in shown)
    assert not [
        p for p in ArithmeticTask(train=50, reference_share=0.0).problems("train") if p.solution
    ]
    with pytest.raises(ValueError, match=r"reference_share 1\.5 is not within 0 to 1"):
        ArithmeticTask(reference_share=1.5)


@pytest.mark.parametrize("change", [{"references": "terse"}, {"reference_share": 0.0}])
def test_the_oracle_knows_the_steps_whatever_the_reference(change):
    """It mends an attempt as with references in steps; also in a process that has not asked for
    the problems yet."""
    sizes = {"train": 30, "dev": 5, "test": 5, "phrasings": 6, "operations": list(SYMBOLS)}
    plain, changed = ArithmeticTask(**sizes), ArithmeticTask(**sizes, **change)
    problems = changed.problems("train")
    for task in (changed, ArithmeticTask(**sizes, **change)):
        for full, problem in zip(plain.problems("train"), problems, strict=True):
            wrong = full.solution.replace(f"= {full.answer}", "= 1").replace("+", "-")
            assert task.oracle(problem, wrong) == plain.oracle(full, wrong)
            assert task.first_wrong_line(problem, wrong) == plain.first_wrong_line(full, wrong)
            assert task.oracle(problem, full.solution) == full.solution
