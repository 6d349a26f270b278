"""What a task is: the problems of a split, the final answer in a text, and a verdict on it.

A user's own class needs no more than `Task` shows. This module also has what every program says
about a task's data before it uses them: rows left out, and references that cannot be right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from rlmec.records import Problem, Verdict
from rlmec.runtime import signals

SPLITS = ("train", "dev", "test")
AT_ONCE = 256
"""Texts that a task's `judge_many` gets at a time."""
SHOWN_IDS = 3
"""Ids that a message about several problems names."""

Judge = Callable[[str, Problem], Verdict]


@runtime_checkable
class Task(Protocol):
    """A source of problems with a judge.

    `problems` raises ValueError for a split that the task does not have or that is empty, naming
    task and split. `judge` compares the final answer found in `text` with the gold answer of
    `problem`.

    A task may have more. `judge_many(texts, problems)` gives the same verdicts in the order of the
    texts; a task whose judge works in other processes has it, and it is used where many texts are
    at hand. `left_out` lists the rows read so far that gave no problem, each with its place and
    reason. `notes` lists what else a user should know about the rows.
    """

    name: str

    def problems(self, split: str) -> list[Problem]: ...

    def final_answer(self, text: str) -> str | None: ...

    def judge(self, text: str, problem: Problem) -> Verdict: ...


def judge_of(task: Task, texts: Sequence[str], problems: Sequence[Problem]) -> Judge:
    """The judge of a task for the texts at hand, each about the problem at the same place.

    It is `task.judge`, or gives what the task's `judge_many` found for all of them. A signal that
    asks to stop is noticed between verdicts.
    """
    many = getattr(task, "judge_many", None)
    if many is None:
        return _stoppable(task.judge)

    known: dict[tuple[str, str], Verdict] = {}
    for at in range(0, len(texts), AT_ONCE):
        signals.check()  # a verdict may take seconds
        some, about = texts[at : at + AT_ONCE], problems[at : at + AT_ONCE]
        keys = [(text, problem.id) for text, problem in zip(some, about, strict=True)]
        known |= zip(keys, many(some, about), strict=True)
    return lambda text, problem: known[text, problem.id]


def _stoppable(judge: Judge) -> Judge:
    def judged(text: str, problem: Problem) -> Verdict:
        signals.check()
        return judge(text, problem)

    return judged


# ---- what is said about the data --------------------------------------------------------------


def left_out_summary(task: Task) -> list[str]:
    """Lines about the rows that `task` left out so far, and its notes; none where all is well."""
    left_out: Sequence[str] = getattr(task, "left_out", ())
    lines = []
    if left_out:
        rows = "row" if len(left_out) == 1 else "rows"
        lines.append(f"{task.name}: {len(left_out)} {rows} left out, the first: {left_out[0]}")
    return lines + [f"{task.name}: {note}" for note in getattr(task, "notes", ())]


@dataclass(frozen=True)
class ReferenceCheck:
    """What the task's own judge says about the reference solutions of some problems, by id.

    `contradicting` references end in another answer than the gold answer, `silent` ones in none.
    `unreadable` are problems whose gold answer the judge cannot read. `without` have no reference.
    """

    task: str
    problems: int
    without: list[str] = field(default_factory=list)
    contradicting: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """One line per fault, with the number, the share and the first ids; none without one."""
        references = self.problems - len(self.without)
        said = [
            (self.without, self.problems, "problems have no reference solution"),
            (
                self.contradicting,
                references,
                "reference solutions contradict the gold answer as the task compares answers; "
                "training would learn from them",
            ),
            (self.silent, references, "reference solutions state no final answer"),
            (self.unreadable, references, "gold answers cannot be read"),
        ]
        return [
            f"{self.task}: {len(ids)} of {total} ({100 * len(ids) / total:.1f} %) {what}: "
            f"{', '.join(ids[:SHOWN_IDS])}{', ...' if len(ids) > SHOWN_IDS else ''}"
            for ids, total, what in said
            if ids
        ]


def check_references(task: Task, problems: Sequence[Problem]) -> ReferenceCheck:
    """Judges the reference solutions of `problems` against their gold answers.

    Comparisons given up at a limit count as no fault.
    """
    having = [problem for problem in problems if problem.solution]
    texts = [problem.solution or "" for problem in having]
    judge = judge_of(task, texts, having)

    check = ReferenceCheck(task.name, len(problems), [p.id for p in problems if not p.solution])
    faults = {
        "wrong": check.contradicting,
        "no_answer": check.silent,
        "unparsable": check.unreadable,
    }
    for text, problem in zip(texts, having, strict=True):
        verdict = judge(text, problem)
        if verdict in faults:
            faults[verdict].append(problem.id)
    return check
