"""The oracle of the arithmetic task: the right solution with the fewest token edits to an attempt.

In: a problem with its reference solution, and any text. Out: one edit per line (kept, changed,
added, removed).

A right solution states every step in order, each in any phrasing after its day ("Monday: ..."), and
then the answer, which has no day. A least-cost alignment matches the attempt's lines with these.
Changing a line costs the token edits to the nearest right line of that step. Adding or removing a
line costs its tokens and its newline. Ties go to the line of the reference, then to the earlier
phrasing. A line that shares no more than half of its tokens with any right line is replaced by the
line of the reference.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein

from rlmec.records import Problem
from rlmec.tasks.arithmetic_text import (
    DAYS,
    EQUATION,
    ITEMS,
    NAMES,
    OPERATIONS,
    Step,
    Story,
    tokens,
)

KINDS = (
    *("none", "operand", "operator", "result", "answer", "wording"),
    *("missing step", "extra step", "unreadable"),
)
LONGEST_TEXT = 20_000
"""Characters; the oracle removes what follows."""
NUMBER = re.compile(r"\d{1,9}(?!\d)")


@dataclass(frozen=True)
class Edit:
    """What becomes of one line.

    `before` is None for an added line, `after` is None for a removed one. `step` is what the right
    line states; it is None for the answer line and for removed lines.
    """

    before: str | None
    after: str | None
    step: Step | None


@dataclass(frozen=True)
class _Target:
    """The wordings that one line of a right solution may have, that of the reference first."""

    lines: list[str]
    tokens: list[list[str]]
    step: Step | None


def story_of(problem: Problem) -> Story:
    """The story of a problem, read from its question and its reference solution.

    The n-th line of the solution is the step of the n-th day. Raises ValueError with the problem's
    id where they are not of this task.
    """
    words = re.findall(r"[A-Za-z]+", problem.question)
    name = next((word for word in words if word in NAMES), None)
    item = next((word for word in words if word in ITEMS), None)
    lines = (problem.solution or "").split("\n")[:-1]
    found = [EQUATION.search(line) for line in lines]
    if name is None or item is None or not found:
        raise ValueError(f"problem {problem.id!r} is not an arithmetic problem with a solution")

    steps = []
    for day, line, match in zip(DAYS, lines, found, strict=False):
        if match is None:
            raise ValueError(f"problem {problem.id!r}: no equation in reference line {line!r}")
        before, symbol, operand, after = match.groups()
        steps.append(Step(int(before), OPERATIONS[symbol], int(operand), int(after), day))
    return Story(name, item, tuple(steps))


def line_edits(problem: Problem, text: str, phrasings: int) -> list[Edit]:
    """The line edits that turn `text` into the nearest right solution, in the order of lines."""
    story = story_of(problem)
    reference = (problem.solution or "").split("\n")

    targets = []
    for line, step in zip(reference[:-1], story.steps, strict=True):
        allowed = dict.fromkeys([line, *story.lines(step, phrasings)])
        targets.append(_Target(list(allowed), [tokens(a) for a in allowed], step))
    targets.append(_Target([reference[-1]], [tokens(reference[-1])], None))

    return _align(text[:LONGEST_TEXT].split("\n"), targets)


def _align(lines: list[str], targets: list[_Target]) -> list[Edit]:
    """Least-cost alignment of lines with targets.

    Of equal costs, changing is preferred to removing, and removing to adding. So the earlier lines
    are kept.
    """
    cut = [tokens(line) for line in lines]
    nearest = [[_nearest(line, target) for target in targets] for line in cut]
    remove = [len(line) + 1 for line in cut]
    add = [len(target.tokens[0]) + 1 for target in targets]
    last, end = len(lines), len(targets)

    # cost[i][j] is the least cost of matching the lines from i on with the targets from j on.
    cost = [[0] * (end + 1) for _ in range(last + 1)]
    for i in range(last, -1, -1):
        for j in range(end, -1, -1):
            options = []
            if i < last and j < end:
                options.append(nearest[i][j][0] + cost[i + 1][j + 1])
            if i < last:
                options.append(remove[i] + cost[i + 1][j])
            if j < end:
                options.append(add[j] + cost[i][j + 1])
            cost[i][j] = min(options, default=0)

    # Walk from the start, at each place by the first kind of edit that has the least cost.
    edits: list[Edit] = []
    i = j = 0
    while i < last or j < end:
        if i < last and j < end and cost[i][j] == nearest[i][j][0] + cost[i + 1][j + 1]:
            edits.append(Edit(lines[i], nearest[i][j][1], targets[j].step))
            i, j = i + 1, j + 1
        elif i < last and cost[i][j] == remove[i] + cost[i + 1][j]:
            edits.append(Edit(lines[i], None, None))
            i += 1
        else:
            edits.append(Edit(None, targets[j].lines[0], targets[j].step))
            j += 1
    return edits


def _nearest(line: list[str], target: _Target) -> tuple[int, str]:
    """The distance to the nearest wording of a target, and the line that replaces this one."""
    distances = [Levenshtein.distance(line, right) for right in target.tokens]
    best = min(range(len(distances)), key=distances.__getitem__)
    if 2 * distances[best] >= max(len(line), len(target.tokens[best])):
        best = 0
    return distances[best], target.lines[best]


def apply_edits(edits: list[Edit]) -> str:
    """The text after the edits."""
    return "\n".join(edit.after for edit in edits if edit.after is not None)


def first_wrong_line(edits: list[Edit]) -> int | None:
    """The number of lines before the first edit; None where nothing is edited."""
    for index, edit in enumerate(edits):
        if edit.before != edit.after:
            return index
    return None


def kind_of_error(edits: list[Edit]) -> str:
    """One of `KINDS`, by the first edited line."""
    edit = next((edit for edit in edits if edit.before != edit.after), None)
    if edit is None:
        return "none"
    if edit.after is None:
        return "extra step"
    if edit.before is None:
        return "missing step"
    if edit.step is None:
        return "answer" if NUMBER.search(edit.before) else "unreadable"
    return _kind_of_line(edit.before, edit.after, edit.step)


def _kind_of_line(line: str, right: str, step: Step) -> str:
    found, stated = EQUATION.search(line), EQUATION.search(right)
    if found is None or stated is None:
        return "unreadable"

    left, symbol, operand, after = found.groups()
    right_left, right_symbol, right_operand, _ = stated.groups()
    if symbol != right_symbol:
        return "operator"
    if (left, operand) != (right_left, right_operand):
        return "operand"
    if after != str(step.after):
        return "result"
    return "wording" if NUMBER.findall(line) == NUMBER.findall(right) else "operand"
