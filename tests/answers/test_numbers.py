"""Final answers and their comparison: hand-picked forms, hostile input, and the released labels."""

import json
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlmec.answers import numbers


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("2 + 2 = 4\n#### 4", "4"),
        ("so four\nA: 1,000.", "1,000"),
        ("The answer is 18.", "18"),
        ("the answer is: $18", "$18"),
        (r"thus \boxed{\frac{1}{2}} it is", r"\frac{1}{2}"),
        (r"\boxed{3", "3"),
        ("#### 4\nThe answer is 5", "5"),
        ("The answer is 5\n#### 4", "4"),
        (r"The answer is $\boxed{7}$.", "7"),
        ("#### 4\n####", None),
        ("Plan A: 12 apples", None),
        ("no marker 12", None),
        ("", None),
    ],
)
def test_the_last_marker_wins(text, answer):
    assert numbers.final_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("18", 18),
        ("3.0", 3),
        ("1,000", 1000),
        ("1{,}000", 1000),
        ("1,234,567.50", Fraction("1234567.5")),
        ("$ 5", 5),
        ("$-5", -5),
        ("-$5.25", Fraction("-5.25")),
        ("- 5", -5),
        ("\u22125", -5),
        (".5", Fraction(1, 2)),
        ("1/2", Fraction(1, 2)),
        ("1 / 2", Fraction(1, 2)),
        ("1 1/2", Fraction(3, 2)),
        ("-1 1/2", Fraction(-3, 2)),
        (r"\frac{3}{4}", Fraction(3, 4)),
        ("50%", 50),
        (r"50\%", 50),
        ("12 apples", 12),
        ("12 m^2", 12),
        ("**18**", 18),
        ("$18$", 18),
        ("5kg", 5),
        ("60 km/h", 60),
        ("3 hours. Then 5 more", 3),
        ("1e3", 1000),
        ("10,80", None),
        ("1/0", None),
        ("2 or 3", None),
        ("x=5", None),
        ("3:30", None),
        ("12 + 5", None),
        ("6*3", None),
        ("9**2", None),
        ("five", None),
        ("", None),
    ],
)
def test_numbers(text, number):
    assert numbers.parse_number(text) == number


def test_bare_numbers_have_no_words_beside_them():
    assert numbers.parse_number("$1,200", bare=True) == 1200
    assert numbers.parse_number("12 apples", bare=True) is None
    assert numbers.parse_number("12kg", bare=True) is None


@pytest.mark.parametrize(
    ("text", "gold", "verdict"),
    [
        ("#### 18", "18", "right"),
        ("#### 18.0", "18", "right"),
        ("#### 5600", "5,600", "right"),
        ("#### 0.3333333333", "1/3", "wrong"),
        ("#### 18", "19", "wrong"),
        ("#### many", "19", "wrong"),
        ("18", "18", "no_answer"),
        ("#### 18", "eighteen", "unparsable"),
        ("18", "", "unparsable"),
    ],
)
def test_verdicts_on_numbers(text, gold, verdict):
    assert numbers.judge_number(text, gold) == verdict


@pytest.mark.parametrize(
    ("text", "gold", "verdict"),
    [
        ("The answer is Bloody  mess.", "bloody mess", "right"),
        ("The answer is dimly lit room", "bloody mess", "wrong"),
        ("The answer is 2 days", "2 hours", "wrong"),
        ("The answer is 2 days", "2", "right"),
        ("The answer is St. Louis", "St. Louis", "right"),
        ("bloody mess", "bloody mess", "no_answer"),
        ("The answer is x", " . ", "unparsable"),
    ],
)
def test_verdicts_on_numbers_or_text(text, gold, verdict):
    assert numbers.judge_answer(text, gold) == verdict


@given(st.fractions(max_denominator=1000), st.sampled_from(["#### {}", "A: {}.", r"\boxed{{{}}}"]))
@settings(max_examples=200, derandomize=True)
def test_every_fraction_is_itself_and_not_its_neighbour(fraction, form):
    text = "by the way 7\n" + form.format(fraction)
    assert numbers.judge_number(text, str(fraction)) == "right"
    assert numbers.judge_number(text, str(fraction + Fraction(1, 1000))) == "wrong"


@given(st.integers(-(10**15), 10**15))
@settings(max_examples=100, derandomize=True)
def test_thousands_separators_change_nothing(number):
    assert numbers.judge_number(f"#### {number:,}", str(number)) == "right"
    assert numbers.judge_number(f"#### {number}", f"{number:,}") == "right"


HOSTILE = [
    "#### " + "9" * 100_000,
    "#### 9**9**9**9",
    "#### 9^9^9^9",
    "#### 1e99999999",
    "#### " + "1," * 50_000,
    "#### " + "1/" * 50_000,
    "A: " * 100_000,
    "\nA:" * 100_000,
    "the answer is " * 50_000,
    "\\boxed{" * 50_000,
    "\\boxed{" + "{" * 100_000,
    "\\frac{1}{" * 20_000 + "#### \\frac{" + "1" * 1000,
    "#### __import__('os').getcwd()",
    "\u0130" * 1000 + "The answer is 5",
    "#### \u00b2\u0663",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_gets_a_verdict_at_once(text):
    start = time.perf_counter()
    assert numbers.judge_number(text, "1") in ("wrong", "no_answer")
    assert numbers.judge_answer(text, "one") in ("wrong", "no_answer")
    assert time.perf_counter() - start < 1


@given(st.text(max_size=60), st.text(max_size=20))
@settings(max_examples=300, derandomize=True)
def test_any_text_gets_a_verdict(text, gold):
    for form in ("{}", "#### {}", "\\boxed{{{}"):
        assert numbers.judge_number(form.format(text), gold)
        assert numbers.judge_answer(form.format(text), gold)


def test_markers_are_told_apart():
    assert numbers.marker_of("#### 18") == ("####", "18")
    assert numbers.marker_of("A: 18") == ("A:", "18")
    assert numbers.marker_of("The answer is 18.") == ("The answer is", "18")
    assert numbers.marker_of("so the answer is 18.") is None


def test_verdicts_agree_with_the_released_labels(data: Path):
    path = data / "gsm8k" / "model_solutions_part.jsonl"
    judged = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        gold = numbers.final_answer(row["ground_truth"])
        for value in row.values():
            if isinstance(value, dict):
                verdict = numbers.judge_number(value["solution"], gold)
                judged.append((verdict, value["is_correct"]))
    assert len(judged) == 2640
    assert all((verdict == "right") == label for verdict, label in judged)
    assert {verdict for verdict, _ in judged} == {"right", "wrong", "no_answer"}
