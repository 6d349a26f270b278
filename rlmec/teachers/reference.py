"""The teacher that splices a reference solution into an attempt, for any task that has one.

In: a problem with a reference solution and an attempt; out: a right solution, or None without a
reference. Lines of attempt and reference are aligned in order, at the least cost in token edits.
A line of the reference may be stated by

- lines of the attempt that arrive at the same result without a false equation and without a
  number that only a dropped line gave: they stay as they are;
- a line of the attempt whose equation shares half its operands, unless a later line arrives at
  the result by itself: its words stay, operands, operators and result are mended;
- itself.

The last line is the reference's answer. What comes out is a right solution, not the least edit
that would do: it follows the reference's way even where the attempt's own could have been
mended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rapidfuzz.distance import Levenshtein

from rlmec.answers import numbers
from rlmec.records import Problem
from rlmec.tasks.arithmetic_text import tokens
from rlmec.teachers.equations import (
    Exact,
    mended_line,
    numbers_in,
    result_of,
    states_falsehood,
)

MOST_LINES = 60
"""Lines of an attempt or a reference that are looked at."""
LONGEST_BLOCK = 3
"""Lines of the attempt, and of the reference, that can stand for one another."""


class ReferenceTeacher:
    """Keeps what it can of the attempt and continues with the reference solution.

    The answer keeps the attempt's own marker where attempt and reference both have one. `task`
    is accepted as other teachers do and not needed.
    """

    name = "reference"

    def __init__(self, task: Any = None) -> None:
        del task

    def correct(self, problem: Problem, attempt: str) -> str | None:
        """The nearest splice, None where the problem has no reference solution."""
        if not problem.solution or not problem.solution.strip():
            return None
        reference = _in_marker_style(problem.solution.split("\n"), attempt)
        spliced = "\n".join(_Splice(problem.question, attempt, reference).lines())
        goal = tokens(attempt)
        texts = (spliced, "\n".join(reference))
        return min(texts, key=lambda text: Levenshtein.distance(goal, tokens(text)))


def _in_marker_style(reference: list[str], attempt: str) -> list[str]:
    """The reference with its answer behind the marker that the attempt's last answer line has."""
    own = numbers.marker_of(reference[-1])
    found = [m for line in attempt.split("\n") if (m := numbers.marker_of(line)) is not None]
    if own is None or not found or found[-1][0] == own[0]:
        return reference
    stop = "." if found[-1][0].lower().startswith("the answer") else ""
    return [*reference[:-1], f"{found[-1][0]} {own[1]}{stop}"]


@dataclass(frozen=True)
class _Move:
    """One piece of a splice: lines passed over in attempt and reference, lines put out."""

    cost: int
    taken: int
    stated: int
    lines: tuple[str, ...]


class _Splice:
    """The least-cost alignment of one attempt with one reference."""

    def __init__(self, question: str, attempt: str, reference: list[str]) -> None:
        self.attempt = attempt.split("\n")[:MOST_LINES]
        self.reference = reference
        self.sizes = [len(tokens(line)) + 1 for line in self.attempt]
        self.cut = [tokens(line) for line in self.attempt]
        self.goals = [tokens(line) for line in reference]
        self.results = [result_of(line) for line in self.attempt]
        self.false = [states_falsehood(line) for line in self.attempt]
        self.marked = [numbers.marker_of(line) is not None for line in self.attempt]
        self.reached = [result_of(line) for line in reference]
        self.used = [set(numbers_in(line)) for line in reference]
        self.given = set(numbers_in(question))

    def lines(self) -> list[str]:
        """The lines of the nearest splice."""
        ends = len(self.attempt), len(self.reference)
        best: dict[tuple[int, int], tuple[int, _Move | None]] = {ends: (0, None)}
        for i in range(ends[0], -1, -1):
            for j in range(ends[1], -1, -1):
                if (i, j) == ends:
                    continue
                priced = [
                    (move.cost + best[i + move.taken, j + move.stated][0], move)
                    for move in self._moves(i, j)
                ]
                best[i, j] = min(priced, key=lambda pair: pair[0])
        out: list[str] = []
        i = j = 0
        while (move := best[i, j][1]) is not None:
            out.extend(move.lines)
            i, j = i + move.taken, j + move.stated
        return out

    def _moves(self, i: int, j: int) -> list[_Move]:
        """What can be done with the attempt from line i and the reference from line j on."""
        moves = self._blocks(i, j)
        if i < len(self.attempt) and j < len(self.reference):
            right = self.reference[j]
            moves.append(_Move(self._distance(i, self.goals[j]), 1, 1, (right,)))
            mended = self._mended(i, j)
            if mended is not None:
                moves.append(_Move(self._distance(i, tokens(mended)), 1, 1, (mended,)))
        if i < len(self.attempt):
            moves.append(_Move(self.sizes[i], 1, 0, ()))
        if j < len(self.reference):
            moves.append(_Move(len(self.goals[j]) + 1, 0, 1, (self.reference[j],)))
        return moves

    def _mended(self, i: int, j: int) -> str | None:
        """Line i of the attempt with the equation of line j of the reference, where that helps."""
        if j == len(self.reference) - 1 or self.reached[j] in self.results[i + 1 : -1]:
            return None
        mended = mended_line(self.attempt[i], self.reference[j], self.given)
        return None if mended is None or states_falsehood(mended) else mended

    def _distance(self, i: int, goal: list[str]) -> int:
        return Levenshtein.distance(self.cut[i], goal)

    def _blocks(self, i: int, j: int) -> list[_Move]:
        """Lines of the attempt kept as they are for lines of the reference, longest first."""
        last = len(self.reference) - 1
        return [
            _Move(0, taken, stated, tuple(self.attempt[i : i + taken]))
            for taken in range(min(LONGEST_BLOCK, len(self.attempt) - i), 0, -1)
            for stated in range(min(LONGEST_BLOCK, last - j), 0, -1)
            if self._stands_for(i, i + taken, j, j + stated)
        ]

    def _stands_for(self, i: int, i_end: int, j: int, j_end: int) -> bool:
        """Whether lines i to i_end of the attempt say what lines j to j_end of the reference do."""
        goal = self.reached[j_end - 1]
        if goal is None or self.results[i_end - 1] != goal:
            return False
        if any(self.false[i:i_end]) or any(self.marked[i:i_end]):
            return False
        skipped = {r for r in self.reached[j : j_end - 1] if r is not None} - {goal}
        if skipped & set().union(*self.used[j_end:]):
            return False
        return self._is_grounded(i, i_end, j)

    def _is_grounded(self, i: int, i_end: int, j: int) -> bool:
        """No number stems from a dropped line, and each line but the last is used later."""
        known = self.given | {r for r in self.reached[:j] if r is not None} | self.used[j]
        foreign = {r for r in self.results[:i] if r is not None} - known
        needed: set[Exact] = set()
        for index in range(i_end - 1, i - 1, -1):
            result, numbers = self.results[index], set(numbers_in(self.attempt[index]))
            if index < i_end - 1 and (result is None or result not in needed):
                return False
            if foreign & numbers - {result}:
                return False
            needed |= numbers
        return True
