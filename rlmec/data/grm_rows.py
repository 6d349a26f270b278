"""Training rows of the generative reward model (GRM).

In: problems, attempts and accepted corrections. Out: the rows of the three tasks that the GRM
learns (docs/method.md, step 4), each with its task, its attempt and its place in the mixture. Rows
come in the order in which the tables are read, not in that of the mixture. Pure.

Departs from the paper: the numbers of copying and locating rows are settings, and rows of one
problem may share its prompt.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from rlmec.data.pairs import fields_of
from rlmec.data.prefix_tree import merge, trim
from rlmec.data.row import Row
from rlmec.prompts import Prompts
from rlmec.records import (
    Attempt,
    Correction,
    Problem,
    hash_share,
    is_right,
)


class GrmRow(NamedTuple):
    """A row of the GRM's training, the task that it belongs to and the attempt that it shows.

    `place` is its number in the mixture.
    """

    task: Literal["rewrite", "copy", "locate"]
    attempt: Attempt
    row: Row
    place: int


def grm_rows(
    prompts: Prompts,
    problems: Mapping[str, Problem],
    attempts: Sequence[Attempt],
    corrections: Sequence[Correction],
    *,
    copy: float,
    locate: float,
    seed: int,
) -> Iterator[GrmRow]:
    """Rows of the GRM's training mixture: all rewriting rows, then the copying and locating ones.

    Every accepted correction of one of the attempts gives a rewriting row. `copy` and `locate` are
    numbers of rows per rewriting row: `copy` of copying rows, whose target is a right attempt
    itself, and `locate` of locating rows, whose target is the number of the attempt's first wrong
    line. A hash of the seed and the attempt's id decides which attempts are taken, and orders them.
    """
    chosen = _chosen(attempts, corrections, copy, locate, seed)
    copies_from = len(chosen.taught)
    locating_from = copies_from + len(chosen.copied)

    for place, (number, wrong) in enumerate(zip(chosen.taught, chosen.wrong, strict=True)):
        correction = corrections[number]
        attempt = attempts[wrong]
        problem = problems[attempt.problem_id]
        ids = attempt.completion_ids
        id_ = f"{attempt.id}/rewrite"
        row = rewriting_row(prompts, problem, ids, correction.completion_ids, id_)
        yield GrmRow("rewrite", attempt, row, place)

        if place in chosen.located:
            prompt = prompts.locate(problem, attempt.text)
            target = prompts.located(first_changed_line(attempt.text, correction.text))
            row = Row.likelihood(f"{attempt.id}/locate", [*prompt, *target], len(prompt))
            yield GrmRow("locate", attempt, row, locating_from + chosen.located[place])

    for number, rank in sorted(chosen.copied.items()):
        attempt = attempts[number]
        ids = attempt.completion_ids
        id_ = f"{attempt.id}/copy"
        row = rewriting_row(prompts, problems[attempt.problem_id], ids, ids, id_)
        yield GrmRow("copy", attempt, row, copies_from + rank)


class _Chosen(NamedTuple):
    """What the mixture is made of, as numbers of records.

    `taught` are the corrections with a rewriting row, `wrong` their attempts. `copied` are the
    attempts with a copying row and `located` the rewriting rows whose attempt has a locating row;
    both map to their places among their kind.
    """

    taught: array[int]
    wrong: array[int]
    copied: dict[int, int]
    located: dict[int, int]


def _chosen(
    attempts: Sequence[Attempt],
    corrections: Sequence[Correction],
    copy: float,
    locate: float,
    seed: int,
) -> _Chosen:
    wrong_at: dict[str, int] = {}
    right: list[tuple[float, int]] = []  # hash and number of the right attempts
    facts = fields_of(attempts, "id", "verdict", "clipped")
    for number, (id_, verdict, clipped) in enumerate(facts):
        if is_right(verdict, clipped):
            right.append((hash_share(seed, "copy", id_), number))
        else:
            wrong_at[id_] = number

    taught = array("i")
    wrong = array("i")
    shares: list[tuple[float, int]] = []  # hash and place of the rewriting rows
    for number, (id_, reason) in enumerate(fields_of(corrections, "attempt_id", "reason")):
        if reason == "accepted" and id_ in wrong_at:
            shares.append((hash_share(seed, "locate", id_), len(taught)))
            taught.append(number)
            wrong.append(wrong_at[id_])

    return _Chosen(
        taught,
        wrong,
        _first(right, round(copy * len(taught))),
        _first(shares, round(locate * len(taught))),
    )


def _first(shares: list[tuple[float, int]], count: int) -> dict[int, int]:
    """The numbers with the smallest hashes, and the rank of each."""
    shares.sort()
    return {number: rank for rank, (_, number) in enumerate(shares[:count])}


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


def merge_by_problem(
    rows: Sequence[Row], problem_of: Sequence[object], max_rows: int, max_tokens: int
) -> Iterator[Row]:
    """Training rows in which the rows of one problem share their common beginnings.

    `problem_of` names the problem of each row. Up to `max_rows` rows with up to `max_tokens` tokens
    in total become one tree if they belong to one problem and begin with the same token. Every
    scored token is kept. The trees of a problem follow one another, and problems keep the order of
    their first rows.
    """
    runs_of: dict[tuple[object, int], list[list[int]]] = {}
    tokens_of: dict[tuple[object, int], int] = {}  # of the last run
    for number, (row, problem) in enumerate(zip(rows, problem_of, strict=True)):
        key = (problem, int(row.input_ids[0]))
        length = len(row.input_ids)
        runs = runs_of.setdefault(key, [[]])
        tokens = tokens_of.get(key, 0) + length
        if runs[-1] and (len(runs[-1]) == max_rows or tokens > max_tokens):
            runs.append([])
            tokens = length
        runs[-1].append(number)
        tokens_of[key] = tokens

    for runs in runs_of.values():
        for run in runs:
            yield _merged([rows[number] for number in run])


def _merged(run: list[Row]) -> Row:
    """The rows as one tree."""
    row = trim(merge(run[0].id, run, join=False))
    # The tree counts for the tokens of all its rows, so that a step holds as many rows as it would
    # without sharing.
    return replace(row, tokens=sum(r.tokens for r in run))
