"""What a teacher is: it proposes corrections of wrong attempts as text.

Two protocols: `Teacher` takes one attempt at a time, `BatchTeacher` a whole part of the `teach`
stage, for teachers that answer many questions at once. Whether a proposal counts is decided in
`method.acceptance`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

from rlmec.method.acceptance import REFUSALS
from rlmec.records import Problem
from rlmec.runtime import signals


class TeacherError(OSError):
    """A teacher that cannot go on; one line that says what to do. Never holds a key."""


class WrongAttempt(NamedTuple):
    """What is to be corrected."""

    problem: Problem
    text: str


class Proposal(NamedTuple):
    """The text of a whole corrected solution; `clipped` where it was cut at a length limit."""

    text: str
    clipped: bool = False


@dataclass(frozen=True)
class Proposals:
    """A teacher's proposals for one attempt. Without any, `reason` is "no_proposal" or one of
    `REFUSALS`. `counts` are added up over all attempts and shown (calls, tokens, ...)."""

    texts: Sequence[Proposal] = ()
    reason: str = "no_proposal"
    counts: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.reason not in ("no_proposal", *REFUSALS):
            raise ValueError(
                f"a teacher's reason is {self.reason!r}, which is none of no_proposal, "
                f"{', '.join(REFUSALS)}"
            )


@runtime_checkable
class Teacher(Protocol):
    """`correct` returns the proposed solution text, or None where there is nothing to propose.

    A method `check()`, where there is one, is called before anything is sampled and raises where
    the teacher lacks something (a key, a library).
    """

    name: str

    def correct(self, problem: Problem, attempt: str) -> str | None: ...


@runtime_checkable
class BatchTeacher(Protocol):
    """`correct_all` returns the proposals for each attempt of a part, in their order.

    `spent` are the counts of the parts that are finished already, `tick()` is to be called as each
    attempt is done. `figures(counts)`, where there is such a method, turns the counts of all parts
    into further metrics. What is proposed for an attempt must not depend on how many are asked at
    once. `check()` is as for a `Teacher`.
    """

    name: str

    def correct_all(
        self,
        attempts: Sequence[WrongAttempt],
        *,
        spent: Mapping[str, int],
        tick: Callable[[], None],
    ) -> list[Proposals]: ...


class OneByOne:
    """A `Teacher` as a `BatchTeacher`."""

    def __init__(self, teacher: Teacher) -> None:
        self.name, self._teacher = teacher.name, teacher

    def correct_all(
        self,
        attempts: Sequence[WrongAttempt],
        *,
        spent: Mapping[str, int],
        tick: Callable[[], None],
    ) -> list[Proposals]:
        del spent
        out = []
        for problem, attempt in attempts:
            signals.check()
            text = self._teacher.correct(problem, attempt)
            out.append(Proposals() if text is None else Proposals([Proposal(text)]))
            tick()
        return out


def as_batch_teacher(teacher: Teacher | BatchTeacher) -> BatchTeacher:
    """A teacher of either kind as one that takes a whole part; TypeError for anything else."""
    if not isinstance(teacher, (BatchTeacher, Teacher)):
        raise TypeError(
            f"{type(teacher).__name__} is no teacher: it needs `name` and a method `correct` or "
            f"`correct_all`"
        )
    return teacher if isinstance(teacher, BatchTeacher) else OneByOne(teacher)
