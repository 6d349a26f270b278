"""Final answers and their comparison: hand-picked forms, hostile input, and the released labels."""

import json
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlmec.answers.final_answer import final_answer, judge_answer, judge_number, marker_of


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
        ("The answer is\n\n18\n", "18"),
        ("The answer is\n$$\n\\frac{1}{2}\n$$\nDone.", "\\frac{1}{2}"),
        ("The answer is:\n\\[\n18\n\\]", "18"),
        ("**Final Answer**\n\n18", "18"),
        ("### Final Answer:\n18", "18"),
        ("**The answer is 18.** There were 3 more.", "18"),
        ("**Answer:** **18**", "18"),
        ("Answer:\n" + "word " * 80, None),
        ("A:\n18", None),
        ("Plan A: 12 apples", None),
        ("no marker 12", None),
        ("", None),
    ],
)
def test_the_last_marker_wins(text, answer):
    assert final_answer(text) == answer


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
    assert judge_number(text, gold) == verdict


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
    assert judge_answer(text, gold) == verdict


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        # headings
        ("#### 2. Add the pens\n3 + 4 = 7\n#### 7", "7"),
        ("#### 7\n\n#### 2. Check the sum", "7"),
        ("#### Step 1: Add\n3 + 4 = 7", None),
        ("#### Explanation", None),
        ("##### 18", None),
        # questions and negations
        ("The answer is 18. Or is the answer 5?", "18. Or is the answer 5?"),
        ("The answer is 5? No.", None),
        ("Surely the answer isn't 5", None),
        # judgements of an answer that was given before
        ("The answer is 18.\nSo the answer is correct.", "18"),
        ("#### 18\nI hope the answer is right!", "18"),
        ("\\boxed{18}. I checked that the answer is indeed reasonable.", "18"),
        ("The answer is right", "right"),
        # thoughts
        ("<think>The answer is 5.</think> Six.", None),
        ("<think>The answer is 5.</think> The answer is 6", "6"),
        ("The answer is 5.</think> The answer is 6", "6"),
        ("The answer is 5 <think>or is the answer 6", "5"),
        ("<think>The answer is 5.", None),
        ("<thinking>\\boxed{5}</thinking>\\boxed{6}", "6"),
        # turns
        ("The answer is 6<|im_end|>\n<|im_start|>user\nThe answer is 7", "6"),
        ("<|im_start|>assistant\nThe answer is 6</s>", "6"),
        ("<s> #### 6 <|endoftext|> #### 7", "6"),
        ("#### 6<eos>", "6"),
        ("A: 6<end_of_turn>", "6"),
        ("#### \u200b6\ufeff", "6"),
    ],
)
def test_what_states_nothing_is_passed_over(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The roots are $\\boxed{-2}$ and $\\boxed{1}$.", "-2, 1"),
        ("\\boxed{1}, \\boxed{2}, and \\boxed{3}", "1, 2, 3"),
        ("\\boxed{1} \\quad \\text{or} \\quad \\boxed{2}", "1, 2"),
        ("x = \\boxed{1}, y = \\boxed{2}", "1, 2"),
        ("\\boxed{1} \\text{ for part (a) and } \\boxed{2}", "1, 2"),
        ("- \\boxed{1}\n- \\boxed{2}", "1, 2"),
        # the same box again
        ("\\boxed{143}\n\n**Final Answer**\n\\boxed{143}", "143"),
        ("\\boxed{5} and \\boxed{5}", "5"),
        # not one answer
        ("\\boxed{5}. Wait, that is wrong: \\boxed{6}", "6"),
        ("\\boxed{5}, no, \\boxed{6}", "6"),
        ("First \\boxed{5}\n\nThen \\boxed{6}", "6"),
        ("not \\boxed{5}", None),
        # what is next to a box
        ("The profit is \\boxed{2.5} million dollars.", "2.5 million"),
    ],
)
def test_boxes_that_stand_together_are_one_answer(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "gold", "verdict"),
    [
        ("The answer is Bloody mess. It was red.", "bloody mess", "right"),
        ("The answer is \\text{bloody mess}.", "bloody mess", "right"),
        ("The answer is **bloody mess**, because it was red.", "**Bloody mess**", "right"),
        ("The answer is not bloody mess", "bloody mess", "wrong"),
        ("The answer is 2.5 million", "2500000", "right"),
        ("The answer is 5. It is not 4.", "4", "wrong"),
        ("The answer is 5, not 4.", "5", "right"),
        ("The answer is\n5 apples", "5", "right"),
        ("The answer is eighteen dollars.", "18", "right"),
        ("The answer is 5!", "5", "right"),
        ("The answer is 5!", "120", "wrong"),
        (r"\boxed{5!}", "5", "wrong"),
        ("The answer is $5!$.", "5", "wrong"),
        ("The answer is 5! Which is 120.", "5", "wrong"),
        ("The answer is not 13 but 12.", "12", "right"),
        ("The answer is not 13 but 12.", "13", "wrong"),
        ("The answer is 5\u3002", "5", "right"),
        ("The answer is <b>5</b>.", "5", "right"),
        ("The answer is 10 - 5 = <<10-5=5>>5.", "5", "right"),
        ("The answer is not an integer but 12 is close.", "12", "wrong"),
        ("The answer is not exactly 12 but close to 12.", "12", "wrong"),
        ("The answer is not wet but dry.", "not wet but dry", "right"),
        ("The answer is <b><i>5</i></b>.", "5", "right"),
        ("The answer to the question is 5.", "5", "right"),
        # code, guesses and conditions state nothing
        ("#### 8\n```python\nanswer = 5 + 3\n```", "8", "right"),
        ("The answer must be a multiple of 5.", "5", "no_answer"),
        ("If it were 3 the answer would be 5.", "5", "no_answer"),
    ],
)
def test_verdicts_on_what_people_write(text, gold, verdict):
    assert judge_answer(text, gold) == verdict


@given(st.fractions(max_denominator=1000), st.sampled_from(["#### {}", "A: {}.", r"\boxed{{{}}}"]))
@settings(max_examples=200, derandomize=True)
def test_every_fraction_is_itself_and_not_its_neighbour(fraction, form):
    text = "by the way 7\n" + form.format(fraction)
    assert judge_number(text, str(fraction)) == "right"
    assert judge_number(text, str(fraction + Fraction(1, 1000))) == "wrong"


@given(st.integers(-(10**15), 10**15))
@settings(max_examples=100, derandomize=True)
def test_thousands_separators_change_nothing(number):
    assert judge_number(f"#### {number:,}", str(number)) == "right"
    assert judge_number(f"#### {number}", f"{number:,}") == "right"


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
    start = time.process_time()
    assert judge_number(text, "1") in ("wrong", "no_answer")
    assert judge_answer(text, "one") in ("wrong", "no_answer")
    assert time.process_time() - start < 5


@given(st.text(max_size=60), st.text(max_size=20))
@settings(max_examples=300, derandomize=True)
def test_any_text_gets_a_verdict(text, gold):
    for form in ("{}", "#### {}", "\\boxed{{{}"):
        assert judge_number(form.format(text), gold)
        assert judge_answer(form.format(text), gold)


def test_markers_are_told_apart():
    assert marker_of("#### 18") == ("####", "18")
    assert marker_of("A: 18") == ("A:", "18")
    assert marker_of("The answer is 18.") == ("The answer is", "18")
    assert marker_of("so the answer is 18.") is None


def test_verdicts_agree_with_the_released_labels(data: Path):
    path = data / "gsm8k" / "model_solutions_part.jsonl"
    judged = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        gold = final_answer(row["ground_truth"])
        for value in row.values():
            if isinstance(value, dict):
                verdict = judge_number(value["solution"], gold)
                judged.append((verdict, value["is_correct"]))
    assert len(judged) == 2640
    assert all((verdict == "right") == label for verdict, label in judged)
    assert {verdict for verdict, _ in judged} == {"right", "wrong", "no_answer"}


@pytest.mark.parametrize(
    "between", ["\n* ", "\n- ", "\\\\", "x = ", "and ", "(a) ", "\\text{", "1. "]
)
def test_what_is_between_boxes_is_read_at_once(between):
    text = "\\boxed{1}" + (between * 60)[:190] + "?\\boxed{2}"
    start = time.process_time()
    assert final_answer(text * 30) == "2"
    assert time.process_time() - start < 5
