"""Every gold answer of the published files: it is right in the phrasings people use, and nothing
else is right for it. What cannot be told apart is listed here, one by one."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from rlmec.answers.mathematics import latex_text, mathematics
from rlmec.answers.normal_form import normal_text
from rlmec.answers.numbers import parse_number
from rlmec.answers.options import LETTERS
from rlmec.records import Problem
from rlmec.tasks.base import Task
from rlmec.tasks.gsm8k import Gsm8kTask
from rlmec.tasks.math import MathTask
from rlmec.tasks.mmlu import MmluTask
from rlmec.tasks.multiple_choice import OptionTask
from rlmec.tasks.svamp import SvampTask

PHRASINGS = (
    "so\nThe answer is {}",
    "The answer is: {}.",
    "The correct answer is {}.",
    "The final answer is **{}**.",
    "**The answer is {}.**",
    "first this\n#### {}",
    "A: {}",
    "Answer: {}",
    "answer: **{}**",
    "**Answer:** {}",
    "**Final Answer**: {}.",
    "that is \\boxed{{{}}}.",
    "The answer is ${}$.",
    "The answer is \\({}\\).",
    "The final answer is $\\boxed{{{}}}$. I hope it is correct.",
    "$$\\boxed{{{}}}$$",
)
OPTION_PHRASINGS = (
    *('The answer is "{}".', "The answer is \\text{{{}}}.", "\\boxed{{\\text{{{}}}}}"),
    *("The answer is {}. It was said above.", "The answer is {}, because it was said above."),
)
LETTER_PHRASINGS = (
    *("The answer is {0}", "The answer is ({0}).", "The answer is option {0}.", "#### {0}."),
    *(
        "Answer: **{0}**",
        "\\boxed{{{0}}}",
        "\\boxed{{\\text{{({0})}}}}",
        "The answer is $\\mathbf{{{0}}}$.",
    ),
    *(
        "The answer is ({0}) {1}",
        "The answer is {0}. {1}.",
        "A: {0}) {1}",
        "The answer is {0}: {1}",
    ),
)
NAMES = ("ecqa", "qasc", "openbookqa", "arc")


def option_task(data: Path, name: str) -> OptionTask:
    files = {"train": "train_part.jsonl", "test": "validation_part.jsonl"}
    return OptionTask(name, path={s: str(data / name / f) for s, f in files.items()}, dev_share=0.0)


def everything(task: Task, splits: Iterable[str] = ("train", "test")) -> list[Problem]:
    return [problem for split in splits for problem in task.problems(split)]


def not_right(task: Task, problem: Problem, texts: Iterable[str]) -> list[tuple[str, str]]:
    found = [(text, task.judge(text, problem)) for text in texts]
    return [(text, verdict) for text, verdict in found if verdict != "right"]


def right(task: Task, problem: Problem, texts: Iterable[str]) -> list[tuple[str, str]]:
    return [(problem.id, text) for text in texts if task.judge(text, problem) != "wrong"]


def numeric(data: Path) -> list[tuple[Task, list[Problem]]]:
    gsm8k = Gsm8kTask(
        {"train": str(data / "gsm8k/train.jsonl"), "test": str(data / "gsm8k/test_part.jsonl")},
        dev_share=0.0,
    )
    svamp = SvampTask({"test": str(data / "svamp/SVAMP_part.json")})
    out: list[tuple[Task, list[Problem]]] = [
        (gsm8k, everything(gsm8k)),
        (svamp, svamp.problems("test")),
    ]
    assert [len(problems) for _, problems in out] == [8133, 500]
    assert [gsm8k.left_out, svamp.left_out] == [[], []]
    return out


def test_numbers_are_right_in_every_phrasing_and_no_other_is(data: Path):
    missed, accepted = [], []
    for task, problems in numeric(data):
        for at, problem in enumerate(problems):
            number = parse_number(problem.answer)
            assert number is not None
            forms = PHRASINGS if at % 25 == 0 else (PHRASINGS[at % 16],)
            missed += not_right(task, problem, (f.format(problem.answer) for f in forms))
            other = next(p for p in (problems * 2)[at + 1 :] if parse_number(p.answer) != number)
            wrong = (other.answer, number + 1)
            accepted += right(task, problem, (f"The answer is {w}" for w in wrong))
    assert (missed, accepted) == ([], [])


@pytest.mark.parametrize("name", [*NAMES, "mmlu"])
def test_options_are_right_in_every_phrasing_and_no_other_is(data: Path, name):
    if name == "mmlu":
        task: Task = MmluTask(str(data / "mmlu/mathematics_part.json"))
        problems = task.problems("test")
    else:
        task = option_task(data, name)
        problems = everything(task)
    missed, accepted, ambiguous = [], [], []
    for at, problem in enumerate(problems):
        forms = [*PHRASINGS, *OPTION_PHRASINGS]
        forms = forms if at % 25 == 0 else [forms[at % 21]]
        folded = [normal_text(option) for option in problem.options]
        gold = folded.index(normal_text(problem.answer))
        texts = [f.format(problem.answer) for f in forms]
        texts += [f"The answer is {change(problem.answer)}" for change in (str.lower, str.upper)]
        missed += not_right(task, problem, texts)
        letters = [LETTERS[i] for i in range(len(folded))]
        if set(letters) & {option.strip().upper() for option in problem.options}:
            ambiguous.append(problem.answer)  # a text beats a letter
        else:
            form = LETTER_PHRASINGS if at % 25 == 0 else (LETTER_PHRASINGS[at % 12],)
            missed += not_right(
                task, problem, (f.format(letters[gold], problem.answer) for f in form)
            )
        others = [i for i, option in enumerate(folded) if option != folded[gold]]
        wrong = [f"The answer is {problem.options[i]}" for i in others]
        if problem.answer not in ambiguous:
            wrong += [
                LETTER_PHRASINGS[i % 12].format(letters[i], problem.options[i]) for i in others
            ]
        wrong += [f"The answer is {problem.answer} or {problem.options[i]}" for i in others[:1]]
        accepted += right(task, problem, wrong)
    assert (missed, accepted) == ([], [])
    assert len(ambiguous) == {"mmlu": 1}.get(name, 0)


def test_every_published_reference_solution_is_right(data: Path):
    for name in NAMES:
        task = option_task(data, name)
        problems = everything(task)
        assert len(problems) == {"ecqa": 2300, "qasc": 2300}.get(name, 1300)
        assert task.left_out == []
        assert [p.id for p in problems if task.judge(p.solution or "", p) != "right"] == []


# MATH: gold answers that are right for another row's gold answer, and why.
SAME_MATHEMATICS = {
    ("12\\text{ square units}", "12"): "units are set aside",
}


def test_mathematics_is_right_in_every_phrasing_and_little_else_is(data: Path):
    task = MathTask({"test": str(data / "math/test_part.jsonl")})
    problems = task.problems("test")
    assert (len(problems), task.left_out) == (500, [])
    texts = [(f.format(p.answer), p) for p in problems for f in PHRASINGS]
    verdicts = task.judge_many([t for t, _ in texts], [p for _, p in texts])
    assert [(t, v) for (t, _), v in zip(texts, verdicts, strict=True) if v != "right"] == []
    solutions = task.judge_many([p.solution or "" for p in problems], problems)
    assert set(solutions) == {"right"}
    golds = [mathematics(p.answer) for p in problems]
    # math-verify alone: every gold answer can be read, and equals itself
    assert task.verifier.check_many([(g, g) for g in golds]) == ["right"] * 500
    accepted = {}
    others = [(p, (problems * 2)[at + 37]) for at, p in enumerate(problems)]
    others = [(p, q) for p, q in others if latex_text(p.answer) != latex_text(q.answer)]
    verdicts = task.judge_many(
        [f"\\boxed{{{q.answer}}}" for _, q in others], [p for p, _ in others]
    )
    for (p, q), verdict in zip(others, verdicts, strict=True):
        if verdict != "wrong":
            accepted[p.answer, q.answer] = verdict
    assert accepted == {pair: "right" for pair in SAME_MATHEMATICS if pair in accepted}
    assert len(others) > 450
    plus_one = [p for p in problems if not p.answer.endswith("}") and "," not in p.answer]
    verdicts = task.judge_many([f"\\boxed{{{p.answer}+1}}" for p in plus_one], plus_one)
    assert {p.answer: v for p, v in zip(plus_one, verdicts, strict=True) if v != "wrong"} == {}
    assert len(plus_one) > 300
    task.verifier.close()
