"""The token discriminator: a GRM that also learns which tokens of an attempt a correction keeps.

In: a rewriting prompt, which shows an attempt. Out: rows in which the hidden state at each of the
attempt's tokens predicts one of two label tokens, `KEPT` or `REMOVED`, and p(kept) from their
log-probabilities. The two rows of the network's own head for these tokens are a linear classifier
on the state that has just read the attempt's token. Pure.

The labels come from the teacher's corrections. A token of a wrong attempt is kept unless the
correction removes it; every token of a right attempt is kept. The prompt shows an attempt without
its end token, so the label of the end token is read at the next token of the prompt. Source: the
token-level labels of minimum edits of arXiv 2402.14346, and the token discriminator D of TLCR,
arXiv 2407.16574. Departs from both: the discriminator is the GRM itself and, as the GRM does, also
reads the reference solution.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from rlmec.data.grm_rows import GrmRow
from rlmec.data.row import Row
from rlmec.method.alignment import edit_script
from rlmec.prompts import Codec, Prompts
from rlmec.records import Problem

KEPT = "+"
REMOVED = "-"
"""The label of a token is the last token of one of these texts."""


def label_ids(codec: Codec) -> tuple[int, int]:
    """Token ids of the labels kept and removed; raises ValueError if they are the same id."""
    kept = codec.encode(KEPT)[-1]
    removed = codec.encode(REMOVED)[-1]
    if kept == removed:
        raise ValueError(f"the tokenizer gives {KEPT!r} and {REMOVED!r} the same id {kept}")
    return kept, removed


def reading_row(prompts: Prompts, problem: Problem, attempt_ids: Sequence[int], id_: str) -> Row:
    """The rewriting prompt, scored at each of the attempt's n tokens for both labels.

    The 2n scored tokens are n times kept, then n times removed. None has credit.
    """
    ids, places = _read(prompts, problem, attempt_ids, id_)
    kept, removed = label_ids(prompts.codec)
    targets = np.repeat([kept, removed], len(places))  # [2n]
    zeros = np.zeros(len(targets), dtype=np.float32)  # [2n]
    return Row(id_, np.asarray(ids), np.tile(places, 2), targets, zeros, zeros, zeros)


def kept_logprobs(values: Sequence[float]) -> list[float]:
    """log p(kept) of n tokens (nats) from the 2n log-probabilities of a `reading_row`.

    p is taken over the two labels alone: log p(kept) = l_kept - log(exp l_kept + exp l_removed).
    """
    kept, removed = np.asarray(values, dtype=np.float64).reshape(2, -1)  # [n], [n]
    return (kept - np.logaddexp(kept, removed)).tolist()


def labelled_rows(
    rows: Iterable[GrmRow], prompts: Prompts, problems: Mapping[str, Problem], weight: float
) -> Iterator[GrmRow]:
    """The rows of `grm_rows`, with the labels of the attempt's tokens as further targets.

    Each label has the given `weight`, while a target token has 1. Locating rows stay as they are,
    because their prompt shows the attempt as numbered lines of text.
    """
    for item in rows:
        if item.task == "locate":
            yield item
            continue
        # What the row is trained to write is the correction, or the right attempt itself.
        target = item.row.targets.tolist()
        attempt_ids = prompts.codec.as_written(item.attempt.completion_ids)
        kept = ~edit_script(attempt_ids, target).removed  # [n]
        problem = problems[item.attempt.problem_id]
        row = _with_labels(item.row, prompts, problem, attempt_ids, kept, weight)
        yield item._replace(row=row)


def _with_labels(
    row: Row,
    prompts: Prompts,
    problem: Problem,
    attempt_ids: Sequence[int],
    kept: np.ndarray,
    weight: float,
) -> Row:
    """A row that begins with the attempt's rewriting prompt, with the labels scored first."""
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
    """The rewriting prompt, and the place in it [n] at which each of the attempt's tokens is read.

    The end token is not in the prompt: its place is the token that follows the attempt. Raises
    ValueError if no token follows.
    """
    ids = prompts.rewrite(problem, attempt_ids)
    start = prompts.attempt_place(problem)
    places = np.arange(start, start + len(attempt_ids))  # [n]
    if len(places) and places[-1] >= len(ids):
        raise ValueError(
            f"{id_}: the attempt is the end of the rewriting prompt ({len(ids)} tokens), so its "
            "end token has no place to be judged at; add some text behind it in prompt.rewrite"
        )
    return ids, places
