"""What lines state, worked by hand, and how a line takes over another's equation."""

import time
from fractions import Fraction

import pytest

from rlmec.teachers.equations import (
    corrected_line,
    last_equation,
    result_of,
    states_falsehood,
)


@pytest.mark.parametrize(
    ("line", "operands", "operators", "result"),
    [
        ("so 16 - 3 - 4 = 9 eggs", ("16", "3", "4"), ("-", "-"), "9"),
        ("pays $80,000+$50,000=$130,000 now", ("80,000", "50,000"), ("+",), "130,000"),
        ("9 * 2 = $<<9*2=18>>18 a day", ("9", "2"), ("*",), "18"),
        ("first 2 x 3 = 6, then 6 / .5 = 12.", ("6", ".5"), ("/",), "12"),
        ("40-200 = $-160.00", ("40", "200"), ("-",), "-160.00"),
    ],
)
def test_the_last_equation_of_a_line(line, operands, operators, result):
    equation = last_equation(line)
    assert equation is not None
    assert (equation.operands, equation.operators, equation.result) == (operands, operators, result)


@pytest.mark.parametrize(
    ("line", "result"),
    [
        ("2 + 3 = 5 of the 7 days", Fraction(5)),
        ("He has 3 dogs and 1,200 cats", Fraction(1200)),
        ("x = 5", Fraction(5)),
        ("no number", None),
        ("", None),
    ],
)
def test_the_result_of_a_line(line, result):
    assert result_of(line) == result


@pytest.mark.parametrize(
    ("line", "false"),
    [
        ("2 + 3 = 5", False),
        ("2 + 3 = 6", True),
        ("2 + 3 = 6 and 1 + 1 = 2", True),
        ("10 / 3 = 3.33", False),
        ("10 / 3 = 3.3", True),
        ("1 / 0 = 1", True),
        ("20% * 50 = 10", False),
        ("2 + 3 * 4 = 20", False),
        ("1,000 * 2 = 2000", False),
        ("no equation", False),
    ],
)
def test_false_equations(line, false):
    assert states_falsehood(line) is false


@pytest.mark.parametrize(
    ("line", "reference", "corrected"),
    [
        # the first operand and the result, also where the words repeat them
        (
            "She sells 112 eggs for $2 each, so 112 * 2 = $224",
            "She makes 9 * 2 = $18 every day",
            "She sells 9 eggs for $2 each, so 9 * 2 = $18",
        ),
        # the place of a shared operand is kept where order does not matter: 200*10 takes over 10*2
        (
            "it will cost 200*10 = $2000.00",
            "supplies cost 10*2 = $20.00",
            "it will cost 2*10 = $20.00",
        ),
        # an operator, in the attempt's spacing
        ("needs 20*10=200 pounds", "so 20 / 10 = 2 pounds", "needs 20/10=2 pounds"),
        # a longer equation comes as the reference writes it; the result keeps its dollar
        ("she has 16 - 3 = $13 left", "sells 16 - 3 - 4 = 9 eggs", "she has 16 - 3 - 4 = $9 left"),
        # calculator marks follow
        ("so 16 - 3 = <<16-3=13>>13", "so 16 - 5 = <<16-5=11>>11", "so 16 - 5 = <<16-5=11>>11"),
        # numbers stay in the writing of the attempt where they are equal
        ("that is 2.00 x 20 = 41", "so 2*20 = 40", "that is 2.00 x 20 = 40"),
        # nothing in common, and no equation
        ("he eats 3 + 4 = 7", "so 16 - 9 = 7", None),
        ("he eats nothing", "so 16 - 9 = 7", None),
        ("he eats 3 + 4 = 7", "nothing", None),
    ],
)
def test_corrected_lines(line, reference, corrected):
    assert corrected_line(line, reference) == corrected


def test_given_numbers_of_the_question_stay_in_the_words():
    line, reference = "the 20 candles take 20*10 = 200", "for 2 pounds it is 2*10 = 20"
    assert corrected_line(line, reference) == "the 2 candles take 2*10 = 20"
    given = frozenset({Fraction(20)})
    assert corrected_line(line, reference, given) == "the 20 candles take 2*10 = 20"


@pytest.mark.parametrize(
    "line",
    [
        "1+" * 50_000,
        "1" * 100_000,
        "1,111" * 20_000,
        "9 * " * 50_000 + "= 9",
        "<<" * 50_000,
        "=" * 9999,
    ],
)
def test_long_lines_are_read_at_once(line):
    start = time.process_time()
    result_of(line)
    states_falsehood(line)
    corrected_line(line, "1 + 1 = 2")
    assert time.process_time() - start < 5
