"""The paper's own scorer as a reading, so that figures can be compared with published ones.

In: the text of a solution and its problem. Out: the verdict that the released scripts of arXiv
2401.06081 would give, written from a description of their behaviour, without evaluating any text.
Its known faults are kept on purpose:

- Options by text: the prediction is lower-cased and the gold answer is not, so no prediction equals
  a gold answer with a capital letter. A closing full stop is ignored on both sides.
- Options by letter: the first single letter in the answer is the choice, so "the answer is a bloody
  mess" is choice A.
- MATH: a number within 4 % of the gold number is right.
- A completion that was cut at the length limit is judged like any other.

`ceiling` is the largest accuracy that this scorer can give. Nothing else in this project uses the
scorer: rewards come from the exact comparison.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import fmean

from rlmec.answers.final_answer import LONGEST_TEXT, final_answer
from rlmec.answers.normal_form import normal_text
from rlmec.answers.numbers import parse_number
from rlmec.answers.options import LETTERS
from rlmec.records import Problem, Verdict

TOLERANCES = {"math": 0.04}
"""Relative distance from the gold number that passes, by task name; 0 for all others."""

_SAID = re.compile(r"the answer is:?")
_LETTERED = re.compile(r"^[ \t]*\(?A[).:]", re.MULTILINE)


def judge_as_authors(text: str, problem: Problem, tolerance: float = 0.0) -> Verdict:
    """The verdict of the released scripts; `tolerance` is relative and for numbers only."""
    if not normal_text(problem.answer):
        return "unparsable"

    if problem.options:
        said = _after_marker(text.lower())
        if said is None:
            return "no_answer"
        letter = _gold_letter(problem)
        if letter == "":
            return "unparsable"
        if letter is None:
            return "right" if said == problem.answer.strip().rstrip(".") else "wrong"
        last = LETTERS[: len(problem.options)][-1].lower()
        choice = re.search(rf"(?<!\w)[a-{last}](?!\w)", said)
        return "right" if choice is not None and choice.group() == letter.lower() else "wrong"

    found = final_answer(text)
    if found is None:
        return "no_answer"
    gold = parse_number(problem.answer, bare=True)
    value = parse_number(found)
    if gold is None or value is None:
        return "right" if _bare(found) == _bare(problem.answer) else "wrong"
    return "right" if abs(value - gold) <= tolerance * float(abs(gold)) else "wrong"


def gold_solution(problem: Problem) -> str:
    """The shortest solution that states the gold answer as the data sets do."""
    letter = _gold_letter(problem) if problem.options else None
    return f"The answer is {letter or problem.answer}"


def ceiling(problems: Sequence[Problem], tolerance: float = 0.0) -> float:
    """The accuracy that this scorer gives to the gold answers themselves."""
    verdicts = [judge_as_authors(gold_solution(p), p, tolerance) for p in problems]
    return fmean(verdict == "right" for verdict in verdicts if verdict != "unparsable")


def _after_marker(lowered: str) -> str | None:
    """The rest of the line after the last marker; None without one."""
    ends = [match.end() for match in _SAID.finditer(lowered[-LONGEST_TEXT:])]
    if not ends:
        return None
    line = lowered[-LONGEST_TEXT:][ends[-1] :].split("\n", 1)[0]
    return line.strip().rstrip(".") or None


def _gold_letter(problem: Problem) -> str | None:
    """The letter of the gold answer, "" if it is none of the options.

    None if the question lists its options without letters.
    """
    letters = LETTERS[: len(problem.options)]
    if len(problem.answer) == 1 and problem.answer in letters:
        return problem.answer
    if not _LETTERED.search(problem.question):
        return None
    texts = [option.casefold() for option in problem.options[: len(letters)]]
    gold = problem.answer.casefold()
    return letters[texts.index(gold)] if gold in texts else ""


def _bare(text: str) -> str:
    return "".join(text.split())
