"""Training rows of the generative reward model (GRM).

In: problems, attempts and accepted corrections. Out: the rows of the three tasks that the GRM
learns (docs/method.md, step 4), each with its task and its attempt. Pure.

Departs from the paper: the numbers of copying and locating rows are settings, and rows of one
problem may share its prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from rlmec.data.prefix_tree import merge, trim
from rlmec.data.row import Row
from rlmec.prompts import Prompts
from rlmec.records import (
    Attempt,
    Correction,
    Problem,
    hash_share,
)


class GrmRow(NamedTuple):
    """A row of the GRM's training, the task that it belongs to and the attempt that it shows."""

    task: Literal["rewrite", "copy", "locate"]
    attempt: Attempt
    row: Row


def grm_rows(
    prompts: Prompts,
    problems: Mapping[str, Problem],
    attempts: Sequence[Attempt],
    corrections: Sequence[Correction],
    *,
    copy: float,
    locate: float,
    seed: int,
) -> list[GrmRow]:
    """Rows of the GRM's training mixture: all rewriting rows, then the copying and locating ones.

    Every accepted correction of one of the attempts gives a rewriting row. `copy` and `locate` are
    numbers of rows per rewriting row: `copy` of copying rows, whose target is a right attempt
    itself, and `locate` of locating rows, whose target is the number of the attempt's first wrong
    line. A hash of the seed and the attempt's id decides which attempts are taken.
    """
    wrong = {attempt.id: attempt for attempt in attempts if not attempt.is_right}
    taught = [c for c in corrections if c.accepted and c.attempt_id in wrong]
    rows = []
    for correction in taught:
        attempt = wrong[correction.attempt_id]
        row = rewriting_row(
            prompts,
            problems[attempt.problem_id],
            attempt.completion_ids,
            correction.completion_ids,
            f"{attempt.id}/rewrite",
        )
        rows.append(GrmRow("rewrite", attempt, row))

    right = [attempt for attempt in attempts if attempt.is_right]
    right.sort(key=lambda attempt: hash_share(seed, "copy", attempt.id))
    for attempt in right[: round(copy * len(taught))]:
        row = rewriting_row(
            prompts,
            problems[attempt.problem_id],
            attempt.completion_ids,
            attempt.completion_ids,
            f"{attempt.id}/copy",
        )
        rows.append(GrmRow("copy", attempt, row))

    located = sorted(taught, key=lambda c: hash_share(seed, "locate", c.attempt_id))
    for correction in located[: round(locate * len(taught))]:
        attempt = wrong[correction.attempt_id]
        prompt = prompts.locate(problems[attempt.problem_id], attempt.text)
        target = prompts.located(first_changed_line(attempt.text, correction.text))
        row = Row.likelihood(f"{attempt.id}/locate", [*prompt, *target], len(prompt))
        rows.append(GrmRow("locate", attempt, row))
    return rows


def rewriting_row(
    prompts: Prompts, problem: Problem, attempt_ids: Sequence[int], target: Sequence[int], id_: str
) -> Row:
    """The rewriting prompt of an attempt, followed by `target`.

    The target is a correction when the GRM is trained, and the attempt itself when it is scored.
    Its end token is the one that the codec writes: the prompt does not show how the attempt ended,
    so the GRM can know only one end (docs/method.md, step 6).
    """
    prompt = prompts.rewrite(problem, attempt_ids)
    return Row.likelihood(id_, [*prompt, *prompts.codec.as_written(target)], len(prompt))


def first_changed_line(attempt: str, correction: str) -> int:
    """Number of the attempt's first line that the correction changes, counted from 0.

    It is the attempt's last line where the correction only adds lines behind it.
    """
    ours = attempt.split("\n")
    theirs = correction.split("\n")
    for number, line in enumerate(ours):
        if number >= len(theirs) or line != theirs[number]:
            return number
    return len(ours) - 1


def merge_by_problem(rows: Sequence[GrmRow], max_rows: int, max_tokens: int) -> list[Row]:
    """Training rows in which the rows of one problem share their common beginnings.

    Up to `max_rows` rows with up to `max_tokens` tokens in total become one tree if they belong to
    one problem and begin with the same token. Every scored token is kept. The trees of a problem
    follow one another, and problems keep the order of their first rows.
    """
    if max_rows < 2:
        return [item.row for item in rows]

    runs_of: dict[tuple[str, int], list[list[Row]]] = {}
    for item in rows:
        row = item.row
        runs = runs_of.setdefault((item.attempt.problem_id, row.input_ids[0]), [[]])
        tokens = sum(len(other.input_ids) for other in runs[-1]) + len(row.input_ids)
        if runs[-1] and (len(runs[-1]) == max_rows or tokens > max_tokens):
            runs.append([])
        runs[-1].append(row)
    return [_merged(run) for runs in runs_of.values() for run in runs]


def _merged(run: list[Row]) -> Row:
    """The rows as one tree."""
    row = trim(merge(run[0].id, run, join=False))
    # The tree counts for the tokens of all its rows, so that a step holds as many rows as it would
    # without sharing.
    return replace(row, tokens=sum(r.tokens for r in run))
