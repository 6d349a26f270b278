"""The answer of a solution that does not mark it: the last one named.

In: the text of a solution and its problem. Out: the text of an answer, for the task's own judge. It
is the last option named, if the problem has options; else the last boxed answer; else the last
number, if the gold answer is a number; else what follows the last marker, or the last line.
lm-evaluation-harness calls this kind of reading flexible-extract, and that of what follows a marker
strict-match. There the last number is taken, also from a text with a box.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from rlmec.answers.final_answer import LONGEST_ANSWER, LONGEST_TEXT, final_answer
from rlmec.answers.normal_form import clean
from rlmec.answers.number_words import SCALES
from rlmec.answers.numbers import parse_number
from rlmec.answers.options import LETTERS, option_text, unlabelled
from rlmec.records import Problem, Verdict
from rlmec.tasks.base import Task

STATEMENTS = ("The answer is {}", "#### {}", "A: {}", "\\boxed{{{}}}")
"""Ways to state an answer for a task's judge; the first one that the task can read is used."""

_FRACTION = r"\\[dtc]?frac\s*(?:\{\d+\}|\d)\s*(?:\{\d+\}|\d)"
_SIGN_FRACTION = "[\u00bc-\u00be\u2150-\u215e]"
_NUMBER = re.compile(
    r"(?<!\d)(?<!\d[.,])(?:\b(?:negative|minus)\s+|(?<![\w)}%$.])[-\u2013\u2212])?[$€£]?"
    r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?"
    rf"(?:/\d+| \d+/\d+|\s?{_SIGN_FRACTION}|\s?{_FRACTION})?|{_FRACTION}|{_SIGN_FRACTION})"
    rf"(?:[kKM]\b|\s(?:{'|'.join(SCALES)})\b)?(?:\s(?:{'|'.join(SCALES)})\b)?"
)
# A letter names an option if it is in brackets, after a word that announces it, or alone on a line.
# It must be a capital, because "a" is an article.
_LETTER = re.compile(
    r"[(\[]([A-Z])[)\]]|(?:[Oo]ption|[Cc]hoice|[Aa]nswer(?: is)?):?[ *]{1,4}([A-Z])(?![\w'])"
    r"|^[ \t*]{0,8}([A-Z])[.):]?[ \t*]{0,8}$",
    re.MULTILINE,
)


def last_number(text: str) -> str | None:
    """The last number in `text` as written, with its sign; a hyphen between two is no sign."""
    found = [match.group() for match in _NUMBER.finditer(clean(text)[-LONGEST_TEXT:])]
    return found[-1] if found else None


def last_option(text: str, options: tuple[str, ...]) -> str | None:
    """The text of the option that `text` names last, by its text (case aside) or its letter.

    Of options that end at one place the longest is named: "sea fish", not "fish".
    """
    text = clean(text)[-LONGEST_TEXT:]
    named = [*_by_text(text, options), *_by_letter(text, len(options))]
    return options[max(named)[2]] if named else None


def _by_text(text: str, options: tuple[str, ...]) -> Iterator[tuple[int, int, int]]:
    """(end, length, index) of the last place of every option; the first of equal options wins."""
    for index, option in enumerate(unlabelled(options)):
        first = next(i for i, o in enumerate(options) if o.casefold() == options[index].casefold())
        if first != index:
            continue
        for written in dict.fromkeys((option.strip().rstrip("."), option_text(option))):
            words = written.split()
            if not words:
                continue
            spaced = r"\s+".join(map(re.escape, words))
            pattern = rf"(?<!\w){spaced}(?!\w)"
            ends = [m.end() for m in re.finditer(pattern, text, re.IGNORECASE)]
            if ends:
                yield ends[-1], len(" ".join(words)), index


def _by_letter(text: str, count: int) -> Iterator[tuple[int, int, int]]:
    for match in _LETTER.finditer(text):
        index = LETTERS.index(next(filter(None, match.groups())))
        if index < count:
            yield match.end(), 0, index


def last_line(text: str) -> str | None:
    """The last line that is not blank, without emphasis and closing full stop."""
    lines = [line for line in clean(text)[-LONGEST_TEXT:].split("\n") if line.strip()]
    if not lines:
        return None
    return lines[-1].strip().strip("*").rstrip(".").strip()[:LONGEST_ANSWER] or None


def flexible_answer(text: str, problem: Problem) -> str | None:
    """The answer that a lenient reader finds in `text`; None where there is nothing to find."""
    if problem.options:
        return last_option(text, problem.options)
    boxed = final_answer(text, ["\\boxed{"])
    if boxed is not None:
        return boxed
    if parse_number(problem.answer, bare=True) is not None:
        return last_number(text)
    return final_answer(text) or last_line(text)


def judge_flexible(task: Task, text: str, problem: Problem) -> Verdict:
    """The task's own verdict on the answer that a lenient reader finds in `text`.

    What the task itself finds right stays right, so that this reading is never the stricter one.
    """
    strict = task.judge(text, problem)
    if strict in ("right", "unparsable"):
        return strict
    answer = flexible_answer(text, problem)
    if answer is None:
        return "no_answer"
    statements = (statement.format(answer) for statement in STATEMENTS)
    told = next((s for s in statements if task.final_answer(s) is not None), answer)
    return task.judge(told, problem)
