"""The method's two questions to a language model, and the reading of its answers (pure).

In: a problem, an attempt, templates. Out: the text of a question; the step that an answer names;
the corrected solution, which is the attempt's own lines before that step and then what the model
wrote. A step is a line of the attempt, labelled [0], [1], ... Departures from the paper's scripts:
labels of several digits are read whole, "incorrect" is not "correct", an answer that names no
step (or all, or one that is not there) leads to a rewrite from the first line, and the kept lines
are ours, whatever the model repeats of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rlmec.prompts import labelled
from rlmec.records import Problem

_FIELD = re.compile(r"\{(question|solution|answer|attempt|step)\}")
_LABEL = re.compile(
    r"\[[ ]?(?:steps?|line)?[ ]?\#?(\d{1,4})[ ]?\]"
    r"|\b(?:steps?|lines?)[ ]{0,2}(?:number|no\.)?[ ]?(?:is)?[ ]?[\#:(*]{0,3}[ ]?(\d{1,4})\b"
    r"(?![.,]\d)",
    re.IGNORECASE,
)
_ORPHAN = re.compile(r"(?<![\w.,/-])-?\d{1,4}(?![\w/%]|[.,]\d)")
_CLAUSE = re.compile(
    r"[;!?\n]+|(?<!no)\.(?=\s|$)|\b(?:but|while|whereas|however|and then)\b"
    r"|(?<=[^\]\d]),|(?<=\d),(?=\s*(?:and\s+|in\s+)?(?:step\s+)?\[)",  # not "[0], [1] and [2]"
    re.IGNORECASE,
)
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
    """Templates of the questions, with the fields {question}, {solution} (labelled reference
    solution), {answer}, {attempt} (labelled) and, to rewrite, {step}. Those with `answer_only` are
    for problems without a reference solution."""

    locate: str
    locate_answer_only: str
    rewrite: str
    rewrite_answer_only: str
    system: str | None = None

    def asks_to_locate(self, problem: Problem, attempt: str) -> str:
        """The question for the first wrong step of an attempt."""
        known = problem.solution is not None
        return _filled(self.locate if known else self.locate_answer_only, problem, attempt, 0)

    def asks_to_rewrite(self, problem: Problem, attempt: str, step: int) -> str:
        """The request to write an attempt anew from a step on."""
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
    return _FIELD.sub(lambda found: known[found[1]], template)


def lines_of(attempt: str) -> list[str]:
    """The steps of an attempt: its lines, empty ones too."""
    return attempt.split("\n")


def spoken(reply: str) -> str:
    """A reply without the thoughts that a reasoning model puts before it, in <think> marks."""
    _, mark, said = reply.rpartition("</think>")
    if mark:
        return said
    return "" if reply.lstrip().startswith("<think>") else reply


def located_step(reply: str, steps: int) -> int | None:
    """The first wrong step that a reply names, None where it names none of 0..steps-1.

    Of several labels counts: the one behind the last "first wrong ..."; else the smallest in a
    clause that calls something wrong; else the smallest that is not called right, since a rewrite
    that begins too early keeps no error. A single bare number counts where there is no label.
    """
    wrong: list[int] = []
    unjudged: list[int] = []
    first: int | None = None
    reply = spoken(reply)
    clauses = _CLAUSE.split(reply)
    for clause in clauses:
        labels = _labels(clause)
        if not labels:
            continue
        verdict = _verdict(clause)
        lead = _FIRST.search(clause)
        if lead and verdict == "wrong" and (named := _labels(clause[lead.end() :])):
            first = named[0]
        if verdict == "wrong":
            wrong.append(labels[0])
        elif verdict == "":
            unjudged += labels
    if first is None and not (wrong or unjudged) and not any(map(_labels, clauses)):
        numbers = [int(number) for number in _ORPHAN.findall(reply)]
        unjudged = numbers if len(numbers) == 1 and _verdict(reply) != "right" else []
    found = first if first is not None else min(wrong or unjudged, default=-1)
    return found if 0 <= found < steps else None


def _labels(text: str) -> list[int]:
    return [int(bracketed or named) for bracketed, named in _LABEL.findall(text)]


def _verdict(clause: str) -> str:
    """ "wrong", "right" or "" for what a clause says of its labels."""
    rest = _NEGATED_WRONG.sub(" ", clause)
    if _WRONG.search(rest):
        return "wrong"
    return "right" if rest != clause or _RIGHT.search(rest) else ""


_OWN_LABEL = re.compile(r"^\[(\d{1,4})\][ ]?")
_FENCE = re.compile(r"^\s*```[\w-]*\n(.*?)\n?```\s*$", re.DOTALL)


def rewritten(attempt: str, step: int, reply: str) -> str | None:
    """The attempt's lines before `step` as they are, then the reply; None for an empty reply.

    Of the reply go: thoughts, line breaks around it, a code fence around it, labels where it labels
    its lines, and the kept lines where it repeats them. Raises ValueError for a step out of range.
    """
    lines = lines_of(attempt)
    if not 0 <= step < len(lines):
        raise ValueError(f"step {step} of an attempt of {len(lines)} lines")
    text = spoken(reply).replace("\r\n", "\n")
    if fenced := _FENCE.match(text):
        text = fenced[1]
    written = _without_labels(text.rstrip().lstrip("\n").split("\n"))
    kept = lines[:step]
    said = [line.strip() for line in kept if line.strip()]
    written = _without_repeated(written, said)
    while written and not written[0].strip():
        written = written[1:]
    return "\n".join([*kept, *written]) if written else None


def _without_labels(lines: Sequence[str]) -> list[str]:
    """The lines without labels, where the first line carries one."""
    if not _OWN_LABEL.match(lines[0]):
        return list(lines)
    return [_OWN_LABEL.sub("", line) for line in lines]


def _without_repeated(written: list[str], said: list[str]) -> list[str]:
    """`written` without the lines `said` where it begins with all of them, blanks aside."""
    rest, left = written, list(said)
    while rest and left:
        line = rest[0].strip()
        if line and line != left[0]:
            return written
        left = left[1:] if line else left
        rest = rest[1:]
    return written if left else rest
