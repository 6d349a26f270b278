"""The interface of a teacher, which proposes corrections of wrong attempts as text.

There are two protocols. A `Teacher` corrects one attempt at a time; `teachers/oracle.py` is the
shortest example, and docs/teachers.md shows how to write another one. A `BatchTeacher` gets all
attempts of one part of the `teach` stage, which suits a teacher that answers many questions at
once.

A teacher only proposes. `method.acceptance` decides which proposals count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from rlmec.method.acceptance import REFUSALS
from rlmec.prompts import Prompts
from rlmec.records import Problem
from rlmec.runtime import signals


class TeacherError(OSError):
    """A teacher cannot go on. The message is one line that says what to do and holds no key."""


@dataclass(frozen=True)
class Policy:
    """The policy whose attempts are corrected, for a teacher that takes an argument `policy`.

    `load` gives its network in eval mode on its device, `computing` the context (precision) in
    which it sampled. Its completions have at most `max_completion_length` tokens, and its prompts
    and completions together at most `context` (None: no limit is known).
    """

    prompts: Prompts
    max_completion_length: int
    context: int | None
    load: Callable[[], Any]
    computing: Callable[[], AbstractContextManager[Any]]


class WrongAttempt(NamedTuple):
    """An attempt to correct: its problem and its text."""

    problem: Problem
    text: str


class Proposal(NamedTuple):
    """The text of a whole corrected solution; `clipped` if it was cut at a length limit."""

    text: str
    clipped: bool = False


@dataclass(frozen=True)
class Proposals:
    """A teacher's proposals for one attempt.

    If `texts` is empty, `reason` is "no_proposal" or one of `REFUSALS`; ValueError for any other
    reason. `counts` (calls, tokens, ...) are added up over all attempts and shown.
    """

    texts: Sequence[Proposal] = ()
    reason: str = "no_proposal"
    counts: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.reason not in ("no_proposal", *REFUSALS):
            raise ValueError(
                f"a teacher's reason is {self.reason!r}; it must be one of no_proposal, "
                f"{', '.join(REFUSALS)}"
            )


@runtime_checkable
class Teacher(Protocol):
    """A teacher that corrects one attempt at a time.

    `correct` returns the text of the whole corrected solution, or None if it has no proposal.
    Optional methods: `check()` is called before anything is sampled and raises if the teacher lacks
    something (a key, a library); `close()` is called after the last correction; `solve(problem)`
    returns a whole solution of the teacher's own, or None (`method=teacher_solutions` needs it).
    """

    name: str

    def correct(self, problem: Problem, attempt: str) -> str | None: ...


@runtime_checkable
class BatchTeacher(Protocol):
    """A teacher that corrects all attempts of one part of the `teach` stage.

    `correct_all` returns one `Proposals` per attempt, in the order of the attempts. `spent` has the
    summed counts of the finished parts. The teacher calls `tick()` once per finished attempt. What
    it proposes for an attempt must not depend on how many attempts it works on at the same time.

    An optional method `figures(counts)` turns the counts of all parts into further metrics.
    `check()` and `close()` are those of a `Teacher`.
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
    """A `Teacher` in the shape of a `BatchTeacher`."""

    def __init__(self, teacher: Teacher) -> None:
        self.name = teacher.name
        self._teacher = teacher

    def correct_all(
        self,
        attempts: Sequence[WrongAttempt],
        *,
        spent: Mapping[str, int],
        tick: Callable[[], None],
    ) -> list[Proposals]:
        """Ask the teacher about one attempt after the other; a signal to stop ends it between two.

        `spent` is not used, because such a teacher has no budget.
        """
        del spent
        out = []
        for problem, attempt in attempts:
            signals.check()
            text = self._teacher.correct(problem, attempt)
            out.append(Proposals() if text is None else Proposals([Proposal(text)]))
            tick()
        return out


def require_temperature(num_proposals: int, temperature: float | None) -> None:
    """Raise ValueError for several proposals that would all be the greedy one."""
    if num_proposals > 1 and temperature == 0:
        raise ValueError(
            f"teacher.num_proposals is {num_proposals}, but at temperature 0 all of them would "
            f"be the same: set teacher.temperature"
        )


def as_batch_teacher(teacher: Teacher | BatchTeacher) -> BatchTeacher:
    """Return a teacher of either kind as a `BatchTeacher`; TypeError for anything else."""
    if isinstance(teacher, BatchTeacher):
        return teacher
    if isinstance(teacher, Teacher):
        return OneByOne(teacher)
    raise TypeError(
        f"{type(teacher).__name__} is no teacher: it needs `name` and a method `correct` or "
        f"`correct_all`"
    )
