"""What a task is: problems of a split, the final answer in a text, a verdict.

A user's own class needs no more.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from rlmec.records import Problem, Verdict

SPLITS = ("train", "dev", "test")


@runtime_checkable
class Task(Protocol):
    """A source of problems with a judge.

    `problems` raises ValueError for a split that the task does not have or that is empty, naming
    task and split. `judge` compares the final answer found in `text` with the gold answer of
    `problem`.
    """

    name: str

    def problems(self, split: str) -> list[Problem]: ...

    def final_answer(self, text: str) -> str | None: ...

    def judge(self, text: str, problem: Problem) -> Verdict: ...
