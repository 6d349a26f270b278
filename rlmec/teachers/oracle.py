"""The teacher for tasks that can correct any attempt themselves.

In: a problem and an attempt. Out: the correct solution with the fewest edits, as the task's
`oracle` method computes it. This is the shortest example of a `Teacher`. The paper has no such
teacher; it makes runs possible that need no language model for corrections.
"""

from __future__ import annotations

from typing import Any

from rlmec.records import Problem


class OracleTeacher:
    """Passes attempts to `task.oracle`; TypeError for a task without that method."""

    name = "oracle"

    def __init__(self, task: Any = None) -> None:
        if not callable(getattr(task, "oracle", None)):
            raise TypeError(
                f"the oracle teacher needs a task with an `oracle` method, which "
                f"{getattr(task, 'name', type(task).__name__)!r} lacks; "
                "a task with reference solutions can use the reference teacher"
            )
        self._task = task

    def correct(self, problem: Problem, attempt: str) -> str | None:
        """Return the task's own correction of `attempt`."""
        return self._task.oracle(problem, attempt)

    def solve(self, problem: Problem) -> str | None:
        """Return the task's own solution: its correction of an attempt without a text."""
        return self._task.oracle(problem, "")
