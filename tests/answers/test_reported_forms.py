"""Forms that people report elsewhere, with the verdict that a careful person would give.

They lie next to the public data sets, in `cases/answers`: `verdicts.jsonl` (an answer and its
verdict) and `mathematics.jsonl` (pairs after the public tests of Math-Verify). The other tests here
have rows of their own for each kind, so that the kinds are tested without that folder.
"""

import json
from pathlib import Path

import pytest

from rlmec.answers.final_answer import judge_number
from rlmec.answers.math_verifier import Verifier
from rlmec.answers.options import judge_option
from rlmec.records import Problem
from rlmec.tasks.math import MathTask

# A row of mathematics.jsonl where our verdict is another one, and why.
ARGUED = {
    # the gold answer 4 and the box {35 cm,4}: two values are given, and nothing says which counts
    "test_boxed:test_boxed:0",
}


@pytest.fixture(scope="module")
def cases(data: Path) -> Path:
    folder = data.parent / "cases" / "answers"
    if not folder.is_dir():
        pytest.skip(f"no folder of reported forms next to the data: {folder}")
    return folder


@pytest.fixture(scope="module")
def task():
    made = MathTask(__file__)
    made.verifier.close()
    made.verifier = Verifier(time_limit=3.0)
    yield made
    made.verifier.close()


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_verdicts(cases, task):
    wrong = []
    for row in rows(cases / "verdicts.jsonl"):
        text, gold = row["text"], row["gold"]
        if row["kind"] == "number":
            verdict = judge_number(text, gold)
        elif row["kind"] == "options":
            verdict = judge_option(text, gold, row["options"])
        else:
            verdict = task.judge(text, Problem("p", "q?", gold))
        if verdict != row["verdict"]:
            wrong.append((row["id"], verdict))
    assert wrong == []


def test_mathematics(cases, task):
    given = rows(cases / "mathematics.jsonl")
    problems = [Problem("p", "q?", row["gold"]) for row in given]
    verdicts = task.judge_many([row["text"] for row in given], problems)
    others = {
        row["id"]
        for row, verdict in zip(given, verdicts, strict=True)
        if (verdict == "right") != row["right"]
    }
    assert others == ARGUED


MATHEMATICS = [
    # mixed numbers, factorials, percent
    (r"2\frac{3}{4}", r"\boxed{2.75}", "right"),
    (r"2\frac{3}{4}", r"\boxed{\frac{23}{4}}", "wrong"),
    (r"2\frac{3}{4}", r"The answer is \(2\tfrac34\).", "right"),
    ("2.75", r"\boxed{2\dfrac{3}{4}}", "right"),
    ("4!", r"\boxed{24}", "right"),
    ("4!", r"\boxed{4}", "wrong"),
    ("4", r"\boxed{4!}", "wrong"),
    ("35", r"Final Answer: The final answer is $35 \%$. I hope it is correct.", "right"),
    # wrappers and what follows
    (r"\frac{2}{7}", r"The answer is \(\frac{2}{7}\). I hope it is correct.", "right"),
    (r"\frac{2}{7}", "The answer is\n\\[\n\\frac27\n\\]\nDone.", "right"),
    ("(2,5]", r"The answer is $(2, 5]$, since both ends were tried.", "right"),
    ("3x-1", r"The answer is $3x - 1$. Let me know if it helps.", "right"),
    ("21", r"Final Answer: The smallest $k$ is 21.", "right"),
    ("21", r"Final Answer: The smallest $k$ is $21$.", "right"),
    ("21", "The answer is $21$ apples.", "right"),
    ("21", r"The answer is \(21\), which is 3 times 7.", "right"),
    (
        "7{,}204",
        r"The final answer is $7 {, }204$. I hope it is correct. Note: it is $x$.",
        "right",
    ),
    # signs in place of commands
    (r"[0,\infty)", "The answer is [0, ∞).", "right"),
    (r"45^\circ", r"The answer is 45°.", "right"),
    (r"x \le 4", "The answer is x ≤ 4.", "right"),
    (r"2\sqrt{3}", "The answer is 2√3.", "right"),
    (r"\frac{\pi}{2}", "The answer is π/2.", "right"),
    ("x^2", "The answer is x².", "right"),
    # functions and signs as words
    (r"\ln 2", "The answer is ln(2).", "right"),
    (r"\ln 2", "The answer is ln 3.", "wrong"),
    (r"2\pi", "The answer is 2*pi.", "right"),
    (r"50\%", "The answer is 50%.", "right"),
    (r"50\%", "The answer is 5%.", "wrong"),
    (r"\text{east}", r"\boxed{\text{East}}", "right"),
    (r"0.\overline{3}", r"\boxed{\frac13}", "right"),
    (r"\frac{7}{6}", r"\boxed{1.1\overline{6}}", "right"),
    (r"\frac{7}{6}", r"\boxed{1.\overline{16}}", "wrong"),
    ("5", "The answer is **5**!", "right"),
    ("n-1", r"\boxed{(n-1)!}", "wrong"),
    ("6", r"\boxed{\sqrt{9}!}", "right"),
    ("5", r"\boxed{5 sec}", "right"),
    (r"\frac{3\pi}{4}", r"\boxed{\frac{3pi}{4}}", "right"),
    (r"\frac{1}{17}", r"\boxed{0.\overline{0588235294117647}}", "right"),
    # several boxes
    ("-3,4", r"$\boxed{-3}$ and $\boxed{4}$", "right"),
    ("4", r"$\boxed{-3}$ and $\boxed{4}$", "wrong"),
    ("(1,2),(3,4)", r"$$\boxed{(1, 2)} \quad \text{and} \quad \boxed{(3, 4)}$$", "right"),
    ("4", r"$\boxed{5}$. No, that is wrong, it is $\boxed{4}$.", "right"),
    ("5,4", r"$\boxed{5}$. No, that is wrong, it is $\boxed{4}$.", "wrong"),
    (r"12\text{ and }13", 'The final answer is "$12$ and $13$". I hope it is correct.', "right"),
    # thoughts
    ("6", r"<think>\boxed{5}</think> so \boxed{6}", "right"),
    ("5", r"<think>so \boxed{5}", "no_answer"),
]


@pytest.mark.parametrize(("gold", "text", "verdict"), MATHEMATICS)
def test_kinds_of_mathematics(task, gold, text, verdict):
    assert task.judge(text, Problem("p", "q?", gold)) == verdict


OPTIONS = ("a red brick", "an onion", "the bus")
FORMULAS = (r"$x^2$", r"$\frac{1}{2}x$", r"$x$", r"$1$")
LABELLED = ("A. brick", "B. onion", "C. bus")
NUMBERED = ("1) brick", "2) onion", "3) bus")


@pytest.mark.parametrize(
    ("options", "gold", "text", "verdict"),
    [
        (OPTIONS, "an onion", "The correct answer is **B**. A red brick is hard.", "right"),
        (OPTIONS, "an onion", "The correct answer is **B) an onion**, since it grows.", "right"),
        (OPTIONS, "an onion", "The answer is **B**: an onion.", "right"),
        (OPTIONS, "an onion", "The answer is **an onion** (B).", "right"),
        (OPTIONS, "an onion", "The answer is onion, option B.", "right"),
        (OPTIONS, "an onion", r"The answer is \(\text{B}\), because it grows.", "right"),
        (OPTIONS, "an onion", "The answer is an onion - it has many skins.", "right"),
        (OPTIONS, "an onion", r"The answer is \textbf{(B)}\ an onion", "right"),
        (OPTIONS, "an onion", "The answer is `B`.", "right"),
        (OPTIONS, "an onion", "The answer is onion (option B).", "right"),
        (OPTIONS, "an onion", "The answer is B because A and C cannot be eaten.", "right"),
        (OPTIONS, "an onion", "The answer is B, since a red brick is hard.", "right"),
        (OPTIONS, "an onion", "The answer is B, not C.", "right"),
        (OPTIONS, "an onion", "The answer is B: an onion, not A (a red brick).", "right"),
        (OPTIONS, "an onion", "The answer is C because A and B are wrong.", "wrong"),
        (OPTIONS, "an onion", "The answer is B as well as C.", "wrong"),
        (OPTIONS, "an onion", "The answer is B, not only that, also C.", "wrong"),
        (OPTIONS, "an onion", "The correct option is B.", "right"),
        (OPTIONS, "an onion", "The best choice is (B), an onion.", "right"),
        (OPTIONS, "an onion", "My answer is b.", "right"),
        (OPTIONS, "an onion", "The correct option is not B.", "wrong"),
        (OPTIONS, "an onion", "<think>A or B?</think><answer>B</answer>", "right"),
        (OPTIONS, "an onion", "<answer> (B) an onion </answer>", "right"),
        (OPTIONS, "an onion", "<answer>A</answer>", "wrong"),
        (OPTIONS, "an onion", "The answer is \u201cB\u201d.", "right"),
        (OPTIONS, "an onion", "The answer is\n\n(B)", "right"),
        (
            OPTIONS,
            "an onion",
            "<think>(A)? The answer is A.</think>The answer is B<|eot_id|>",
            "right",
        ),
        (OPTIONS, "an onion", "The answer is B. So the answer is correct.", "right"),
        (OPTIONS, "an onion", "The answer is the bus (B).", "wrong"),
        (OPTIONS, "an onion", "The answer is not B.", "wrong"),
        (OPTIONS, "an onion", "The answer is **B** or **C**.", "wrong"),
        (OPTIONS, "an onion", r"$\boxed{A}$ and $\boxed{B}$", "wrong"),
        (OPTIONS, "the bus", "ANSWER: all of the above", "wrong"),
        (FORMULAS, FORMULAS[1], r"The answer is \(\dfrac12 x\).", "right"),
        (FORMULAS, FORMULAS[1], "The answer is (B).", "right"),
        (FORMULAS, FORMULAS[0], "The answer is x^2.", "right"),
        (FORMULAS, "x^2", "The answer is $x$.", "wrong"),
        (FORMULAS, FORMULAS[3], r"So \boxed{1}.", "right"),
        (LABELLED, "B", "The answer is onion.", "right"),
        (LABELLED, "onion", "The answer is B. onion.", "right"),
        (LABELLED, "B. onion", "The answer is C.", "wrong"),
        (NUMBERED, "onion", "The answer is 2.", "right"),
        (NUMBERED, "2) onion", "The answer is (2) onion.", "right"),
        (NUMBERED, "2", "The answer is option 3.", "wrong"),
    ],
)
def test_kinds_of_options(options, gold, text, verdict):
    assert judge_option(text, gold, options) == verdict


@pytest.mark.parametrize(
    ("gold", "text", "verdict"),
    [
        ("18", "<think>9 * 2 = 17?</think>\n<answer>18</answer>", "right"),
        ("18", "<answer>\n18\n</answer>", "right"),
        ("18", "<answer>She makes $18.</answer>", "right"),
        ("18", r"<answer>\boxed{18}</answer>", "right"),
        ("18", "<answer>The answer is 18</answer>", "right"),
        ("18", "<Answer>18</Answer> I hope it helps: 3", "right"),
        ("18", "<answer>18", "right"),
        ("18", "The answer is 17. No: <answer>18</answer>", "right"),
        ("18", "<answer>17</answer> or 18", "wrong"),
        ("18", "<answer></answer> 18", "no_answer"),
        ("18", "Our final answer is 18.", "right"),
    ],
)
def test_answers_between_tags(gold, text, verdict):
    assert judge_number(text, gold) == verdict
