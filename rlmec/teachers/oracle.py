"""The teacher that asks the task itself: for tasks that can mend any attempt.

In: a problem and an attempt; out: the right solution with the fewest edits, as the task's
`oracle` gives it.
"""

from __future__ import annotations

from typing import Any

from rlmec.records import Problem


class OracleTeacher:
    """Passes attempts to `task.oracle`; TypeError for a task without one."""

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
        """The task's own correction of `attempt`."""
        return self._task.oracle(problem, attempt)
