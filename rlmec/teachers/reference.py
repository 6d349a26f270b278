"""The teacher that splices a reference solution into an attempt.

In: a problem with a reference solution, and an attempt. Out: a correct solution, or None without a
reference. The lines of attempt and reference are aligned in order, at the lowest cost in token
edits. Each line of the reference is stated by one of these:

- lines of the attempt that arrive at the same result, without a false equation and without a number
  that only a dropped line gave. They are kept unchanged.
- a line of the attempt whose equation shares half its operands, unless a later line arrives at the
  result by itself. Its words are kept; operands, operators, and result are replaced.
- the line of the reference.

The last line is the answer line of the reference. The result is correct but not always the smallest
possible edit, because it follows the reference even if the attempt's own way could be corrected.
The paper has no such teacher; it makes runs possible that need no language model for corrections.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rapidfuzz.distance import Levenshtein

from rlmec.answers.final_answer import marker_of
from rlmec.records import Problem
from rlmec.tasks.arithmetic_text import tokens
from rlmec.teachers.equations import (
    Exact,
    corrected_line,
    numbers_in,
    result_of,
    states_falsehood,
)

MAX_LINES = 60
"""The lines of an attempt that are aligned; further lines are dropped."""
MAX_BLOCK_LINES = 3
"""The most lines of the attempt that can state the most lines of the reference together."""


class ReferenceTeacher:
    """Keeps as much as possible of the attempt and takes the rest from the reference solution.

    The answer line keeps the attempt's own marker if attempt and reference both have one. `task` is
    accepted, as by every teacher, and not used.
    """

    name = "reference"

    def __init__(self, task: Any = None) -> None:
        del task

    def correct(self, problem: Problem, attempt: str) -> str | None:
        """Return the nearest splice, None if the problem has no reference solution."""
        if not problem.solution or not problem.solution.strip():
            return None
        reference = _in_marker_style(problem.solution.split("\n"), attempt)
        spliced = "\n".join(_Splice(problem.question, attempt, reference).lines())

        # The cost of a splice is a sum over lines, so the plain reference can still be nearer.
        attempt_tokens = tokens(attempt)
        candidates = (spliced, "\n".join(reference))
        return min(candidates, key=lambda text: Levenshtein.distance(attempt_tokens, tokens(text)))

    def solve(self, problem: Problem) -> str | None:
        """Return the reference solution."""
        return problem.solution


def _in_marker_style(reference: list[str], attempt: str) -> list[str]:
    """The reference with its answer after the marker of the attempt's last answer line."""
    own = marker_of(reference[-1])
    found = [marker_of(line) for line in attempt.split("\n")]
    markers = [marker for marker in found if marker is not None]
    if own is None or not markers or markers[-1][0] == own[0]:
        return reference

    marker = markers[-1][0]
    stop = "." if marker.lower().startswith("the answer") else ""
    return [*reference[:-1], f"{marker} {own[1]}{stop}"]


@dataclass(frozen=True)
class _Move:
    """One piece of a splice: how many lines of attempt and reference it covers, and its output.

    `cost` is in token edits; `lines` are the lines of the corrected solution.
    """

    cost: int
    attempt_lines: int
    reference_lines: int
    lines: tuple[str, ...]


class _Splice:
    """The alignment of one attempt with one reference that has the lowest cost."""

    def __init__(self, question: str, attempt: str, reference: list[str]) -> None:
        self.given = set(numbers_in(question))

        self.attempt = attempt.split("\n")[:MAX_LINES]
        self.attempt_tokens = [tokens(line) for line in self.attempt]
        self.results = [result_of(line) for line in self.attempt]
        self.is_false = [states_falsehood(line) for line in self.attempt]
        self.has_marker = [marker_of(line) is not None for line in self.attempt]

        self.reference = reference
        self.reference_tokens = [tokens(line) for line in reference]
        self.reference_results = [result_of(line) for line in reference]
        self.reference_numbers = [set(numbers_in(line)) for line in reference]

    def lines(self) -> list[str]:
        """Return the lines of the nearest splice."""
        num_attempt = len(self.attempt)
        num_reference = len(self.reference)

        # best[i, j]: the lowest cost from line i of the attempt and line j of the reference on,
        # and the move that begins it. It is filled from the ends, where nothing is left to do.
        best: dict[tuple[int, int], tuple[int, _Move | None]] = {
            (num_attempt, num_reference): (0, None)
        }
        for i in range(num_attempt, -1, -1):
            for j in range(num_reference, -1, -1):
                if (i, j) == (num_attempt, num_reference):
                    continue
                priced = []
                for move in self._moves(i, j):
                    rest, _ = best[i + move.attempt_lines, j + move.reference_lines]
                    priced.append((move.cost + rest, move))
                # Of equally cheap moves the first one wins.
                best[i, j] = min(priced, key=lambda pair: pair[0])

        out: list[str] = []
        i = 0
        j = 0
        _, move = best[i, j]
        while move is not None:
            out.extend(move.lines)
            i += move.attempt_lines
            j += move.reference_lines
            _, move = best[i, j]
        return out

    def _moves(self, i: int, j: int) -> list[_Move]:
        """The possible next moves at line i of the attempt and line j of the reference.

        At equal cost an earlier move is preferred: keep lines, replace a line, drop a line, insert
        one.
        """
        moves = self._kept_blocks(i, j)
        if i < len(self.attempt) and j < len(self.reference):
            line = self.reference[j]
            moves.append(_Move(self._distance(i, self.reference_tokens[j]), 1, 1, (line,)))
            corrected = self._corrected(i, j)
            if corrected is not None:
                moves.append(_Move(self._distance(i, tokens(corrected)), 1, 1, (corrected,)))

        # The end of a line counts as one more token.
        if i < len(self.attempt):
            moves.append(_Move(len(self.attempt_tokens[i]) + 1, 1, 0, ()))
        if j < len(self.reference):
            cost = len(self.reference_tokens[j]) + 1
            moves.append(_Move(cost, 0, 1, (self.reference[j],)))
        return moves

    def _corrected(self, i: int, j: int) -> str | None:
        """Line i of the attempt with the equation of line j of the reference, if that helps."""
        is_answer_line = j == len(self.reference) - 1
        if is_answer_line or self.reference_results[j] in self.results[i + 1 : -1]:
            return None
        corrected = corrected_line(self.attempt[i], self.reference[j], self.given)
        return None if corrected is None or states_falsehood(corrected) else corrected

    def _distance(self, i: int, target: list[str]) -> int:
        return Levenshtein.distance(self.attempt_tokens[i], target)

    def _kept_blocks(self, i: int, j: int) -> list[_Move]:
        """Moves that keep lines of the attempt for lines of the reference, longest blocks first."""
        max_attempt = min(MAX_BLOCK_LINES, len(self.attempt) - i)
        max_reference = min(MAX_BLOCK_LINES, len(self.reference) - 1 - j)  # not the answer line
        return [
            _Move(0, num_attempt, num_reference, tuple(self.attempt[i : i + num_attempt]))
            for num_attempt in range(max_attempt, 0, -1)
            for num_reference in range(max_reference, 0, -1)
            if self._states(i, i + num_attempt, j, j + num_reference)
        ]

    def _states(self, i: int, i_end: int, j: int, j_end: int) -> bool:
        """Whether attempt lines i to i_end state what reference lines j to j_end state."""
        result = self.reference_results[j_end - 1]
        if result is None or self.results[i_end - 1] != result:
            return False
        if any(self.is_false[i:i_end]) or any(self.has_marker[i:i_end]):
            return False

        # A result inside the block that later reference lines use must not get lost.
        inner = {r for r in self.reference_results[j : j_end - 1] if r is not None} - {result}
        if inner & set().union(*self.reference_numbers[j_end:]):
            return False
        return self._is_grounded(i, i_end, j)

    def _is_grounded(self, i: int, i_end: int, j: int) -> bool:
        """Whether no number of the lines i to i_end comes from an earlier line that may be dropped,
        and every line but the last gives a number to a later line of the block."""
        earlier = {r for r in self.reference_results[:j] if r is not None}
        known = self.given | earlier | self.reference_numbers[j]
        foreign = {r for r in self.results[:i] if r is not None} - known

        needed: set[Exact] = set()
        for index in range(i_end - 1, i - 1, -1):
            result = self.results[index]
            line_numbers = set(numbers_in(self.attempt[index]))
            if index < i_end - 1 and (result is None or result not in needed):
                return False
            if foreign & line_numbers - {result}:
                return False
            needed |= line_numbers
        return True
