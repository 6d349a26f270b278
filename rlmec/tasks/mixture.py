"""Several tasks as one: their problems together, each judged by its own task.

In: tasks by name. Out: problems whose ids begin with the name of their task, the tasks taking turns
until each has given all, so that the first problems of a split are of all tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, zip_longest

from rlmec.records import Problem, Verdict
from rlmec.tasks.base import Judge, Task, judge_of


class MixtureTask:
    """The tasks `tasks`, by name.

    `problems` raises ValueError as the tasks do. The final answer of a text is the one that the
    first task finds.
    """

    def __init__(self, tasks: Mapping[str, Task], name: str | None = None) -> None:
        if not tasks:
            raise ValueError("task.tasks names no task")
        self.tasks = dict(tasks)
        self.name = name or "_".join(tasks)

    @property
    def left_out(self) -> list[str]:
        """The rows that gave no problem, of all tasks."""
        return [line for task in self.tasks.values() for line in getattr(task, "left_out", ())]

    @property
    def notes(self) -> list[str]:
        """What else a user should know about the rows, of all tasks."""
        return [line for task in self.tasks.values() for line in getattr(task, "notes", ())]

    def problems(self, split: str) -> list[Problem]:
        """The problems of a split, the tasks taking turns.

        The name of its task is the kind of a problem that has none, so that each task has its own
        figure in an evaluation.
        """
        own = [
            [
                replace(problem, id=f"{name}/{problem.id}", kind=problem.kind or name)
                for problem in task.problems(split)
            ]
            for name, task in self.tasks.items()
        ]
        return [problem for problem in chain(*zip_longest(*own)) if problem is not None]

    def final_answer(self, text: str) -> str | None:
        """The final answer that the first task finds."""
        return next(iter(self.tasks.values())).final_answer(text)

    def judge(self, text: str, problem: Problem) -> Verdict:
        """The verdict of the problem's own task."""
        name, own = self._own(problem)
        return self.tasks[name].judge(text, own)

    def judge_many(self, texts: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        """The verdicts of several texts, each task judging all of its own at once."""
        placed = [self._own(problem) for problem in problems]
        judges: dict[str, Judge] = {}
        for name, task in self.tasks.items():
            some = [text for text, (owner, _) in zip(texts, placed, strict=True) if owner == name]
            about = [problem for owner, problem in placed if owner == name]
            judges[name] = judge_of(task, some, about)
        return [
            judges[name](text, problem) for text, (name, problem) in zip(texts, placed, strict=True)
        ]

    def _own(self, problem: Problem) -> tuple[str, Problem]:
        """The name of a problem's task, and the problem as that task knows it."""
        name, _, id = problem.id.partition("/")
        return name, replace(problem, id=id)
