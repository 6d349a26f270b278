"""Rows of the generative reward model's training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rlmec.data.prefix_tree import merge, trim
from rlmec.data.row import Row
from rlmec.prompts import Prompts
from rlmec.records import (
    Attempt,
    Correction,
    Problem,
    hash_share,
)


def together(rows: Sequence[Row], group_of: Mapping[str, str], most: int, limit: int) -> list[Row]:
    """Flat rows of one group and first token as trees, up to `most` rows and `limit` tokens each,
    groups in the order of their first rows: what the rows have in common is computed once, every
    scored token stays. `group_of` has the group of a row by its id."""
    if most < 2:
        return list(rows)
    groups: dict[tuple[str, int], list[list[Row]]] = {}
    for row in rows:
        runs = groups.setdefault((group_of[row.id], row.input_ids[0]), [[]])
        if len(runs[-1]) == most or sum(len(r.input_ids) for r in [*runs[-1], row]) > limit:
            runs.append([])
        runs[-1].append(row)
    return [_counted(run) for runs in groups.values() for run in runs if run]


def _counted(run: list[Row]) -> Row:
    """The rows as one that counts for all of them: steps hold as many rows as without sharing."""
    row = trim(merge(run[0].id, run, join=False))
    return replace(row, tokens=sum(r.tokens for r in run))


def first_changed_line(attempt: str, correction: str) -> int:
    """Number of the attempt's first line that the correction lacks (its last line at most)."""
    ours, theirs = attempt.split("\n"), correction.split("\n")
    for i, line in enumerate(ours):
        if i >= len(theirs) or line != theirs[i]:
            return i
    return len(ours) - 1


def rewriting_row(
    prompts: Prompts, problem: Problem, attempt_ids: Sequence[int], target: Sequence[int], id_: str
) -> Row:
    """The GRM's view: rewriting prompt, then `target` (when scoring, the attempt itself)."""
    prompt = prompts.rewrite(problem, attempt_ids)
    return Row.likelihood(id_, [*prompt, *target], len(prompt))


def grm_rows(
    prompts: Prompts,
    problems: dict[str, Problem],
    attempts: Sequence[Attempt],
    corrections: Sequence[Correction],
    *,
    copy: float,
    locate: float,
    seed: int,
    most: int = 1,
    limit: int = 2048,
) -> list[Row]:
    """Rows of the GRM's training mixture over the given problems.

    Every accepted correction gives a rewriting row; `copy` and `locate` are the numbers of copying
    rows (of right attempts) and locating rows for each of them, chosen by a hash. Up to `most` rows
    of a problem, at most `limit` tokens, are put `together`: they begin with the same prompt.
    """
    wrong = {a.id: a for a in attempts if not a.is_right}
    taught = [c for c in corrections if c.accepted and c.attempt_id in wrong]
    rows = [
        rewriting_row(
            prompts,
            problems[c.problem_id],
            wrong[c.attempt_id].completion_ids,
            c.completion_ids,
            f"{c.attempt_id}/rewrite",
        )
        for c in taught
    ]
    right = [a for a in attempts if a.is_right]
    right.sort(key=lambda a: hash_share(seed, "copy", a.id))
    for a in right[: round(copy * len(taught))]:
        rows.append(
            rewriting_row(
                prompts, problems[a.problem_id], a.completion_ids, a.completion_ids, f"{a.id}/copy"
            )
        )
    taught.sort(key=lambda c: hash_share(seed, "locate", c.attempt_id))
    for c in taught[: round(locate * len(taught))]:
        attempt = wrong[c.attempt_id]
        prompt = prompts.locate(problems[c.problem_id], attempt.text)
        target = prompts.located(first_changed_line(attempt.text, c.text))
        rows.append(Row.likelihood(f"{attempt.id}/locate", [*prompt, *target], len(prompt)))
    problem_of = {a.id: a.problem_id for a in attempts}
    groups = {row.id: problem_of[row.id.rpartition("/")[0]] for row in rows}
    return together(rows, groups, most, limit)
