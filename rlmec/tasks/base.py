"""What a task is: problems of a split, the final answer in a text, a verdict.

A user's own class needs no more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from rlmec.records import Problem, Verdict
from rlmec.runtime import signals

SPLITS = ("train", "dev", "test")
AT_ONCE = 256
"""Texts that a task's `judge_many` gets at a time."""

Judge = Callable[[str, Problem], Verdict]


@runtime_checkable
class Task(Protocol):
    """A source of problems with a judge.

    `problems` raises ValueError for a split that the task does not have or that is empty, naming
    task and split. `judge` compares the final answer found in `text` with the gold answer of
    `problem`. A task whose judge works in other processes may also have
    `judge_many(texts, problems)`, the same verdicts in the order of the texts; it is used where
    many texts are at hand.
    """

    name: str

    def problems(self, split: str) -> list[Problem]: ...

    def final_answer(self, text: str) -> str | None: ...

    def judge(self, text: str, problem: Problem) -> Verdict: ...


def judge_of(task: Task, texts: Sequence[str], problems: Sequence[Problem]) -> Judge:
    """The judge of a task for the texts at hand, each about its problem: `task.judge`, or what its
    `judge_many` has found for all of them. A signal that asks to stop is heard between verdicts."""
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
