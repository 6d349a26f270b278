"""What a teacher is: it proposes a correction of a wrong attempt as text.

Whether the proposal counts is decided in `rewriting`.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from rlmec.records import Problem


@runtime_checkable
class Teacher(Protocol):
    """`correct` returns the proposed solution text, or None where there is nothing to propose."""

    name: str

    def correct(self, problem: Problem, attempt: str) -> str | None: ...
