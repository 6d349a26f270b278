"""The method's two questions to a language model, and how its answers are read (pure).

In: a problem, an attempt, templates. Out: the text of a question; the step that an answer names;
the corrected solution, which is the attempt's lines before that step followed by what the model
wrote. A step is a line of the attempt, labelled [0], [1], ...

Departures from the paper's scripts: labels of several digits are read as a whole. "incorrect" is
not read as "correct". An answer that names no step, all steps, or a step that does not exist leads
to a rewrite from the first line. The kept lines come from the attempt, even if the model repeats
them differently.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlmec.prompts import Fields, check_template, check_text, filled, labelled

if TYPE_CHECKING:  # the check of the settings imports this module, and records imports numpy
    from rlmec.records import Problem

_FIELDS = {
    "locate": Fields(("question", "attempt"), ("solution", "answer")),
    "locate_answer_only": Fields(("question", "attempt"), ("answer",)),
    "rewrite": Fields(("question", "attempt", "step"), ("solution", "answer")),
    "rewrite_answer_only": Fields(("question", "attempt", "step"), ("answer",)),
}

# A label is a number in brackets, or a number after the word "step" or "line".
_LABEL = re.compile(
    r"\[[ ]?(?:steps?|line)?[ ]?\#?(\d{1,4})[ ]?\]"
    r"|\b(?:steps?|lines?)[ ]{0,2}(?:number|no\.)?[ ]?(?:is)?[ ]?[\#:(*]{0,3}[ ]?(\d{1,4})\b"
    r"(?![.,]\d)",
    re.IGNORECASE,
)
# A number on its own, which is not part of a fraction, a percentage, or a decimal number.
_BARE_NUMBER = re.compile(r"(?<![\w.,/-])-?\d{1,4}(?![\w/%]|[.,]\d)")

# What ends a clause. A verdict counts for the labels of its own clause.
_CLAUSE_END = re.compile(
    r"[;!?\n]+|(?<!no)\.(?=\s|$)|\b(?:but|while|whereas|however|and then)\b"
    r"|(?<=[^\]\d]),|(?<=\d),(?=\s*(?:and\s+|in\s+)?(?:step\s+)?\[)",  # not "[0], [1] and [2]"
    re.IGNORECASE,
)

# "no errors", "is not wrong": words of wrong that say right, removed before _WRONG is searched.
_NEGATED_WRONG = re.compile(
    r"\b(?:no|without|not|never|any|free of|isn't|aren't)\s+(?:\w+\s+){0,3}"
    r"(?:errors?|mistakes?|mistaken|wrong|incorrect|flaws?|false|invalid)\b|\berror-free\b",
    re.IGNORECASE,
)
_WRONG = re.compile(
    r"\b(?:incorrect\w*|wrong\w*|errors?|erroneous\w*|mistak\w+|false|invalid|flaw\w*|faulty)\b"
    r"|(?:\b(?:not|never)|n't)\s+(?:\w+\s+)?(?:correct|right|true|valid)\b",
    re.IGNORECASE,
)
_RIGHT = re.compile(r"\b(?:correct|right|fine|ok|okay|true|valid|accurate|sound)\b", re.IGNORECASE)
_FIRST = re.compile(r"\bfirst\b", re.IGNORECASE)


@dataclass(frozen=True)
class StepPrompts:
    """Templates of the two questions.

    Their fields are {question}, {solution} (the reference solution with labels), {answer},
    {attempt} (with labels), and in the rewrite templates {step}. The `answer_only` templates are
    for problems without a reference solution. `system` is the system message. Raises ValueError if
    a template has an unknown field or lacks one (`prompts.check_template`).
    """

    locate: str
    locate_answer_only: str
    rewrite: str
    rewrite_answer_only: str
    system: str | None

    def __post_init__(self) -> None:
        for name, fields in _FIELDS.items():
            check_template(name, getattr(self, name), fields)
        check_text("system", self.system or "")

    def asks_to_locate(self, problem: Problem, attempt: str) -> str:
        """Return the question for the first wrong step of an attempt."""
        known = problem.solution is not None
        return _filled(self.locate if known else self.locate_answer_only, problem, attempt, 0)

    def asks_to_rewrite(self, problem: Problem, attempt: str, step: int) -> str:
        """Return the request to write an attempt again from a step on."""
        known = problem.solution is not None
        return _filled(self.rewrite if known else self.rewrite_answer_only, problem, attempt, step)


def _filled(template: str, problem: Problem, attempt: str, step: int) -> str:
    known = {
        "question": problem.question,
        "solution": labelled(problem.solution or ""),
        "answer": problem.answer,
        "attempt": labelled(attempt),
        "step": str(step),
    }
    return filled(template, known)


def lines_of(attempt: str) -> list[str]:
    """Return the steps of an attempt: its lines, including empty ones."""
    return attempt.split("\n")


def without_thoughts(reply: str) -> str:
    """Return a reply without the thoughts of a reasoning model, which come in <think> marks first.

    A reply whose thoughts do not end has no other text.
    """
    _, mark, text = reply.rpartition("</think>")
    if mark:
        return text
    return "" if reply.lstrip().startswith("<think>") else reply


def located_step(reply: str, num_steps: int) -> int | None:
    """Return the first wrong step that a reply names, None if it names none of 0..num_steps-1.

    If the reply has several labels, the first of these rules that applies decides: the label after
    the last "first wrong ..."; the smallest of the labels that begin a clause which calls something
    wrong; the smallest label that is not called right. The smallest is safe because a rewrite that
    begins too early keeps no error. A reply without labels may name the step by a single bare
    number.
    """
    wrong: list[int] = []
    unjudged: list[int] = []
    named_first: int | None = None
    has_labels = False
    reply = without_thoughts(reply)

    for clause in _CLAUSE_END.split(reply):
        labels = _labels(clause)
        if not labels:
            continue
        has_labels = True
        verdict = _verdict(clause)
        if verdict == "wrong":
            wrong.append(labels[0])
            lead = _FIRST.search(clause)
            after = _labels(clause[lead.end() :]) if lead else []
            if after:
                named_first = after[0]
        elif verdict == "":
            unjudged += labels

    # A bare number counts only if nothing else in the reply could be meant.
    if not has_labels:
        numbers = [int(number) for number in _BARE_NUMBER.findall(reply)]
        if len(numbers) == 1 and _verdict(reply) != "right":
            unjudged = numbers

    found = min(wrong or unjudged, default=-1) if named_first is None else named_first
    return found if 0 <= found < num_steps else None


def _labels(text: str) -> list[int]:
    return [int(bracketed or named) for bracketed, named in _LABEL.findall(text)]


def _verdict(clause: str) -> str:
    """What a clause calls its labels: "wrong", "right", or "" if neither."""
    rest = _NEGATED_WRONG.sub(" ", clause)
    if _WRONG.search(rest):
        return "wrong"
    is_negated = rest != clause
    return "right" if is_negated or _RIGHT.search(rest) else ""


_OWN_LABEL = re.compile(r"^\[(\d{1,4})\][ ]?")
_FENCE = re.compile(r"^\s*```[\w-]*\n(.*?)\n?```\s*$", re.DOTALL)


def rewritten(attempt: str, step: int, reply: str) -> str | None:
    """Return the attempt's lines before `step` followed by the reply; None for an empty reply.

    Removed from the reply are thoughts, line breaks around it, a code fence around it, labels if it
    labels its lines, and the kept lines if it repeats them. Raises ValueError if `step` is out of
    range.
    """
    lines = lines_of(attempt)
    if not 0 <= step < len(lines):
        raise ValueError(f"step {step} is not in an attempt of {len(lines)} lines")
    kept = lines[:step]

    text = without_thoughts(reply).replace("\r\n", "\n")
    fenced = _FENCE.match(text)
    if fenced:
        text = fenced[1]

    written = _without_labels(text.rstrip().lstrip("\n").split("\n"))
    written = _without_repeated(written, [line.strip() for line in kept if line.strip()])
    while written and not written[0].strip():
        written = written[1:]
    return "\n".join([*kept, *written]) if written else None


def _without_labels(lines: Sequence[str]) -> list[str]:
    """The lines without their labels, if the first line has one."""
    if not _OWN_LABEL.match(lines[0]):
        return list(lines)
    return [_OWN_LABEL.sub("", line) for line in lines]


def _without_repeated(written: list[str], kept: list[str]) -> list[str]:
    """`written` without the lines `kept` if it begins with all of them, blank lines aside."""
    rest = written
    missing = list(kept)
    while rest and missing:
        line = rest[0].strip()
        if line and line != missing[0]:
            return written
        if line:
            missing = missing[1:]
        rest = rest[1:]
    return written if missing else rest
