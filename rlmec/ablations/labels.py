"""The token discriminator: a GRM that says of every token of an attempt whether to keep it.

In: a rewriting prompt, which shows the attempt. Out: rows in which the hidden state at each of the
attempt's tokens predicts one of two label tokens, `KEPT` or `REMOVED`; and p(kept) from their
log-probs. The network's own head is the classifier: its two rows for the labels are a linear head
on the state that has just read the token. Pure.

Labels come from the teacher's corrections: 0 where the correction removes the token, 1 where it
keeps it, and 1 on all of a right attempt. The label of the end token is read at the prompt's next
token behind the attempt. Source: the token-level labels of minimum edits of arXiv 2402.14346 and
the token discriminator D of TLCR, arXiv 2407.16574. Departs from both in that the discriminator
also reads the reference solution, as the GRM does, and is the GRM itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from rlmec.data.row import Row
from rlmec.method.alignment import edit_script
from rlmec.prompts import Codec, Prompts
from rlmec.records import Attempt, Correction, Problem

KEPT, REMOVED = "+", "-"
"""Texts whose last token is the label."""


def label_ids(codec: Codec) -> tuple[int, int]:
    """Ids of the two labels, kept first; ValueError where the tokenizer has one for both."""
    kept, removed = codec.encode(KEPT)[-1], codec.encode(REMOVED)[-1]
    if kept == removed:
        raise ValueError(f"the tokenizer gives {KEPT!r} and {REMOVED!r} the same id {kept}")
    return kept, removed


def reading_row(prompts: Prompts, problem: Problem, attempt_ids: Sequence[int], id_: str) -> Row:
    """The rewriting prompt, scored at each of the attempt's n tokens for both labels: n times kept,
    then n times removed; no credit."""
    ids, places = _read(prompts, problem, attempt_ids, id_)
    kept, removed = label_ids(prompts.codec)
    targets = np.repeat([kept, removed], len(places))  # [2n]
    zeros = np.zeros(len(targets), dtype=np.float32)  # [2n]
    return Row(id_, ids, np.tile(places, 2), targets, zeros, zeros, zeros)


def kept_logprobs(values: Sequence[float]) -> list[float]:
    """log p(kept) of n tokens from the 2n log-probs of a `reading_row`: p of the two labels alone,
    log p(kept) = l_kept - log(exp l_kept + exp l_removed)."""
    kept, removed = np.asarray(values, dtype=np.float64).reshape(2, -1)  # [n], [n]
    return (kept - np.logaddexp(kept, removed)).tolist()


def labelled_rows(
    rows: Sequence[Row],
    prompts: Prompts,
    problems: Mapping[str, Problem],
    attempts: Sequence[Attempt],
    corrections: Sequence[Correction],
    weight: float,
) -> list[Row]:
    """Flat rows of `rows.grm_rows`; those that rewrite or copy an attempt learn its tokens' labels
    too, each with `weight` (a target token has 1).

    Of an attempt to rewrite the kept tokens are those that its accepted correction leaves, of one
    to copy all. Rows that locate stay as they are.
    """
    known = {attempt.id: attempt for attempt in attempts}
    targets = {c.attempt_id: c.completion_ids for c in corrections if c.accepted}
    out = []
    for row in rows:
        id_, _, kind = row.id.rpartition("/")
        if kind in ("rewrite", "copy"):
            attempt = known[id_]
            target = targets[id_] if kind == "rewrite" else attempt.completion_ids
            kept = ~edit_script(attempt.completion_ids, target).removed  # [n]
            problem = problems[attempt.problem_id]
            row = _with_labels(row, prompts, problem, attempt.completion_ids, kept, weight)
        out.append(row)
    return out


def _with_labels(
    row: Row,
    prompts: Prompts,
    problem: Problem,
    attempt_ids: Sequence[int],
    kept: np.ndarray,
    weight: float,
) -> Row:
    """The row, which begins with the attempt's rewriting prompt, with its tokens' labels first."""
    _, places = _read(prompts, problem, attempt_ids, row.id)
    zeros = np.zeros(len(places), dtype=np.float32)  # [n]
    return replace(
        row,
        sources=np.concatenate([places, row.sources]),
        targets=np.concatenate([np.where(kept, *label_ids(prompts.codec)), row.targets]),
        token_rewards=np.concatenate([zeros, row.token_rewards]),
        old_logprobs=np.concatenate([zeros, row.old_logprobs]),
        weights=np.concatenate([zeros + weight, row.weights]),
    )


def _read(
    prompts: Prompts, problem: Problem, attempt_ids: Sequence[int], id_: str
) -> tuple[list[int], np.ndarray]:
    """The rewriting prompt, and the places in it [n] at which the attempt's tokens have been read.

    The end token does not stand in the prompt: its place is that of the token behind the attempt.
    ValueError where there is none.
    """
    ids, start = prompts.rewrite(problem, attempt_ids), prompts.attempt_place(problem)
    places = np.arange(start, start + len(attempt_ids))  # [n]
    if len(places) and places[-1] >= len(ids):
        raise ValueError(
            f"{id_}: nothing follows the attempt in the rewriting prompt, where its end would be "
            f"judged; end prompt.rewrite with some text"
        )
    return ids, places
