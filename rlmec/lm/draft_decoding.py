"""Greedy decoding from a draft: exact, in a few passes where the draft is nearly what is said.

In: prompts, and for each a draft of its completion (a wrong attempt, whose correction is nearly a
copy of it). Out: what greedy decoding says, token for token, and the log-probability of every token
of the draft, which the first pass computes on the way. Each pass feeds a row's last token and a
guess, the rest of its draft from where what was said so far stands in it; the longest part of the
guess that greedy decoding would have said is taken, and one token more. Guesses grow while they
are right and shrink to nothing while they are wrong: a useless draft costs one pass.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rlmec.data.row import Row
from rlmec.lm.chunked_head import evaluating
from rlmec.lm.generation import Completion, Decoding, generate
from rlmec.lm.kv_cache import (
    Slots,
    batches,
    slots_obstacle,
    table_of,
)
from rlmec.lm.logprobs import TokenScorer, score_rows
from rlmec.runtime import signals

GUESSES = np.array([0, 4, 8, 16, 32, 64, 128, 256])
"""Lengths of a guess to choose from."""
PASS_COST, ROW_COST = 192.0, 4.0
"""What a pass is counted for beside its tokens, and a row of it (which reads its cache), in tokens.
A pass of its own costs about SPLIT; where few rows are open, few passes are worth more."""
SPLIT = 64
"""Rows whose guess is short wait where they would fill up a pass by more tokens than this."""
MEMORY = 24.0
"""How many tokens, at most, the estimate of a draft's worth remembers."""
LOGITS_AT_ONCE = 2**24


@dataclass(frozen=True)
class Rewrite:
    """What was said, and the network's log-probs (nats, float32) of the draft's n tokens."""

    completion: Completion
    draft_logprobs: list[float]


@torch.no_grad()
def rewrite(
    network: Any,
    prompts: Sequence[Sequence[int]],
    drafts: Sequence[Sequence[int]],
    max_completion_length: int,
    *,
    end_ids: Sequence[int],
    pad_id: int,
) -> list[Rewrite]:
    """Greedy completions of `prompts`, as `generate` gives them, by way of `drafts`.

    Equal to `generate` in float32, but where the two best logits differ by rounding alone. A draft
    may be empty, end early, late or not at all. A network that `Slots` cannot be used with is
    decoded token by token and scored in a pass of its own, with a warning that says why. The
    network is put in eval mode and back.
    """
    if len(prompts) != len(drafts):
        raise ValueError(f"{len(prompts)} prompts and {len(drafts)} drafts")
    if (obstacle := slots_obstacle(network)) is not None:
        warnings.warn(f"drafts are not used in decoding: {obstacle}", stacklevel=3)
        return _token_by_token(network, prompts, drafts, max_completion_length, end_ids, pad_id)
    out: list[Rewrite | None] = [None] * len(prompts)
    columns = [
        len(prompt) + max(len(draft), max_completion_length)
        for prompt, draft in zip(prompts, drafts, strict=True)
    ]
    with evaluating(network):
        for group in batches(network, columns):
            batch = _Batch(
                Slots(network),
                [prompts[i] for i in group],
                [drafts[i] for i in group],
                max_completion_length,
                end_ids,
            )
            for i, done in zip(group, batch.run(), strict=True):
                out[i] = done
    return [done for done in out if done is not None]


def _token_by_token(
    network: Any,
    prompts: Sequence[Sequence[int]],
    drafts: Sequence[Sequence[int]],
    limit: int,
    end_ids: Sequence[int],
    pad_id: int,
) -> list[Rewrite]:
    done = generate(network, prompts, Decoding(limit), end_ids=end_ids, pad_id=pad_id)
    rows = {
        i: Row.likelihood(f"draft {i}", [*prompts[i], *draft], len(prompts[i]))
        for i, draft in enumerate(drafts)
        if len(draft)
    }
    scored = score_rows(TokenScorer(network), list(rows.values()), pad_id) if rows else []
    found = dict(zip(rows, scored, strict=True))
    return [Rewrite(completion, found.get(i, [])) for i, completion in enumerate(done)]


class _Batch:
    """Rows that are rewritten together. Arrays are by row; `rows` names the row in each slot.

    Of an open row everything but its last token is in the cache.
    """

    def __init__(
        self,
        slots: Slots,
        prompts: Sequence[Sequence[int]],
        drafts: Sequence[Sequence[int]],
        limit: int,
        end_ids: Sequence[int],
    ) -> None:
        self.slots, self.limit, self.ends = slots, limit, np.array(list(end_ids))
        self.sequences = [[*p, *d] for p, d in zip(prompts, drafts, strict=True)]
        self.prompt_lengths = np.array([len(p) for p in prompts])  # [R]
        self.align = Realignment(drafts)
        count = len(prompts)
        self.said = np.zeros((count, limit), dtype=np.int64)  # [R, limit]
        self.logprobs = np.zeros((count, limit), dtype=np.float32)  # [R, limit]
        self.lengths = np.zeros(count, dtype=np.int64)  # [R], of what was said
        self.right = np.zeros(count)  # [R], tokens of late that were as the draft had them
        self.wrong = np.zeros(count)  # [R], and that were not
        self.missed = np.zeros(count, dtype=bool)  # [R], whether all of the last guess was wrong
        self.open = np.ones(count, dtype=bool)  # [R]
        self.rows = np.arange(count)

    def run(self) -> list[Rewrite]:
        scores = self._first_pass()
        self._leave()
        while len(self.rows):
            signals.check()
            places, sizes = self._planned()
            self._pass(places, sizes)
            self._leave()
        out = []
        for i, length in enumerate(self.lengths):
            ids = self.said[i, :length].tolist()
            clipped = not np.isin(ids[-1], self.ends)
            completion = Completion(ids, self.logprobs[i, :length].tolist(), bool(clipped))
            out.append(Rewrite(completion, scores[i, : self.align.lengths[i]].tolist()))
        return out

    def _first_pass(self) -> np.ndarray:
        """Prompts and whole drafts at once; the log-probs of the drafts' tokens [R, N + 1]."""
        lengths, drafts = self.align.lengths, self.align.drafts
        real = np.arange(drafts.shape[1] + 1) <= lengths[:, None]  # [R, N + 1]
        row, at = np.nonzero(real)
        columns = self.prompt_lengths[row] - 1 + at
        chosen = self.slots.begin(*table_of(self.sequences), row, columns)  # [M, size]
        targets = np.append(drafts, np.full((len(drafts), 1), NOTHING), 1)[real]
        best, own, scores = self._read(chosen, real, np.maximum(targets, 0))
        rows = np.arange(len(drafts))
        taken, last = self._take(rows, drafts, np.minimum(lengths, self.limit - 1), best, own)
        self.align.copied(rows, taken)
        self.align.said(rows, last[:, None], np.ones_like(taken))
        agreed = (best[:, :-1] == drafts).sum(1)  # [R]
        self.right, self.wrong = agreed.astype(float), (lengths - agreed).astype(float)
        self._forget(rows)
        return scores

    def _planned(self) -> tuple[np.ndarray, np.ndarray]:
        """The slots of the next pass and the sizes of their guesses, in the order of slots.

        A size is the one with the least cost for a token said, if each token of the guess is right
        with the row's share of right tokens.
        """
        rows = self.rows
        left = self.align.lengths[rows] - self.align.pointer[rows]
        room = self.limit - self.lengths[rows] - 1
        sizes = np.minimum(GUESSES, np.minimum(left, room)[:, None])  # [open, G]
        share = (self.right[rows] / (self.right[rows] + self.wrong[rows] + 0.5))[:, None]
        said = 1 + share * (1 - share**sizes) / (1 - share)  # [open, G]
        best = ((PASS_COST / len(rows) + ROW_COST + 1 + sizes) / said).argmin(1)
        sizes = sizes[np.arange(len(rows)), best]  # [open]
        short = 2 * (1 + sizes) < 1 + sizes.max()
        if (sizes.max() - sizes[short]).sum() > SPLIT:  # they would fill up the pass: they wait
            places = np.flatnonzero(~short)
            return places, sizes[places]
        return np.arange(len(rows)), sizes

    def _pass(self, places: np.ndarray, sizes: np.ndarray) -> None:
        """Feeds the last token and the guess of the rows in slots `places`, and takes what is
        right."""
        rows, widest = self.rows[places], int(sizes.max())
        last = self.said[rows, self.lengths[rows] - 1]  # [S]
        step = np.arange(widest)
        real = step < sizes[:, None]  # [S, g]
        index = np.minimum(self.align.pointer[rows][:, None] + step, self.align.width - 1)
        guess = np.where(real, self.align.drafts[rows[:, None], index], NOTHING) if widest else real
        ids = np.concatenate([last[:, None], np.where(real, guess, last[:, None])], 1)
        starts = self.prompt_lengths[rows] + self.lengths[rows] - 1  # [S]
        states = self.slots.feed(
            self.slots.tensor(ids),
            self.slots.tensor(starts),
            int((starts + sizes).max()) + 1,
            None if len(places) == len(self.rows) else self.slots.tensor(places),
            self.slots.tensor(sizes + 1) if sizes.min() < widest else None,
        )  # [S, 1 + g, size]
        asked = np.arange(widest + 1) <= sizes[:, None]  # [S, 1 + g]
        chosen = states[self.slots.tensor(asked)]
        best, own, _ = self._read(chosen, asked)
        taken, _ = self._take(rows, guess, sizes, best, own)
        self.align.said(rows, best, taken + 1)
        self._learn(rows, sizes, taken)

    def _read(
        self, states: torch.Tensor, real: np.ndarray, targets: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The best token, its log-prob and that of `targets` [M], for states [M, size] that stand
        where `real` [S, g] is True: three [S, g]."""
        vocabulary = self.slots.network.config.get_text_config().vocab_size
        part = max(1, LOGITS_AT_ONCE // vocabulary)
        wanted = None if targets is None else self.slots.tensor(targets).split(part)
        found = []
        for i, piece in enumerate(states.split(part)):
            logits = self.slots.logits(piece)  # [part, V]
            total = logits.logsumexp(-1)
            value, best = logits.max(-1)
            target = value if wanted is None else logits.gather(-1, wanted[i][:, None])[:, 0]
            found.append((best, value - total, target - total))
        out = []
        for pieces in zip(*found, strict=True):
            flat = torch.cat(pieces).cpu().numpy()
            table = np.zeros(real.shape, dtype=flat.dtype)
            table[real] = flat
            out.append(table)
        return out[0], out[1], out[2]

    def _take(
        self,
        rows: np.ndarray,
        guess: np.ndarray,
        sizes: np.ndarray,
        best: np.ndarray,
        own: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Says the right beginning of each guess and the best token after it; an end token is
        never passed. Returns how much of the guess was taken [S], and that last token [S]."""
        right = (best[:, :-1] == guess) & (np.arange(guess.shape[1]) < sizes[:, None])
        right &= ~np.isin(guess, self.ends)
        taken = np.cumprod(right, axis=1).sum(1)  # [S]
        row, at = np.nonzero(np.arange(best.shape[1]) <= taken[:, None])
        place = self.lengths[rows][row] + at
        self.said[rows[row], place], self.logprobs[rows[row], place] = best[row, at], own[row, at]
        self.lengths[rows] += taken + 1
        last = best[np.arange(len(rows)), taken]
        self.open[rows] = ~np.isin(last, self.ends) & (self.lengths[rows] < self.limit)
        return taken, last

    def _learn(self, rows: np.ndarray, sizes: np.ndarray, taken: np.ndarray) -> None:
        """What a pass says of the drafts' worth. Guesses that are wrong from their start count
        most from the second in a row on: one alone may be a token that the draft lacks."""
        guessed, own = sizes > 0, self.align.run[rows] > 1  # one alone is chance
        missed = guessed & (taken == 0)
        self.right[rows] *= np.where(missed & self.missed[rows], 0.5, 1.0)
        self.right[rows] += np.where(guessed, taken, own)
        self.wrong[rows] += np.where(guessed, taken < sizes, ~own)
        self.missed[rows] = np.where(guessed, missed, self.missed[rows])
        self._forget(rows)

    def _forget(self, rows: np.ndarray) -> None:
        kept = MEMORY / np.maximum(self.right[rows] + self.wrong[rows], MEMORY)
        self.right[rows] *= kept
        self.wrong[rows] *= kept

    def _leave(self) -> None:
        """Finished rows give up their slots."""
        going = self.open[self.rows]
        if going.any() and not going.all():
            order = self.slots.keep(self.slots.tensor(going))
            self.rows = self.rows[order.cpu().numpy()]
        elif not going.any():
            self.rows = self.rows[:0]


NOTHING = -1
"""Stands behind the end of a draft; no token has this id."""


class Realignment:
    """`pointer` [R]: the draft goes on at this index. `run` [R]: how many of the tokens said last
    were the draft's own, one after the other."""

    def __init__(self, drafts: Sequence[Sequence[int]]) -> None:
        self.lengths = np.array([len(d) for d in drafts], dtype=np.int64)  # [R]
        self.width = max(int(self.lengths.max()), 1)
        self.drafts = np.full((len(drafts), self.width), NOTHING, dtype=np.int64)  # [R, N]
        for row, draft in zip(self.drafts, drafts, strict=True):
            row[: len(draft)] = draft
        self.places = np.arange(self.width + 1, dtype=np.int32)  # [N + 1]
        self.table = np.tile(self.places, (len(drafts), 1))  # [R, N + 1], nothing said yet
        self.pointer = np.zeros(len(drafts), dtype=np.int64)
        self.run = np.zeros(len(drafts), dtype=np.int64)

    def copied(self, rows: np.ndarray, counts: np.ndarray) -> None:
        """Rows that have said the first `counts` tokens of their drafts and nothing else."""
        self.table[rows] = np.abs(self.places - counts[:, None]).astype(np.int32)
        self.pointer[rows], self.run[rows] = counts, counts

    def said(self, rows: np.ndarray, tokens: np.ndarray, counts: np.ndarray) -> None:
        """`rows` [S] went on with the first `counts` [S], at least 1, of `tokens` [S, m].

        The pointer goes to where the draft's beginning is fewest edits from what was said, to the
        last of several such places: a token is taken for changed rather than for put in.
        """
        drafts, table = self.drafts[rows], self.table[rows]
        for at in range(int(counts.max())):
            table = self._next(table, drafts, tokens[:, at], counts > at)
        self.table[rows] = table
        last = tokens[np.arange(len(rows)), counts - 1]  # [S]
        behind = self.places > self.lengths[rows][:, None]  # [S, N + 1]
        edits = np.where(behind, np.iinfo(np.int32).max, table)
        found = self.width - edits[:, ::-1].argmin(1)  # [S]
        own = (found > 0) & (drafts[np.arange(len(rows)), np.maximum(found, 1) - 1] == last)
        follows = found == self.pointer[rows] + counts
        self.run[rows] = np.where(own, np.where(follows, self.run[rows] + counts, 1), 0)
        self.pointer[rows] = found

    def _next(
        self, table: np.ndarray, drafts: np.ndarray, token: np.ndarray, on: np.ndarray
    ) -> np.ndarray:
        """The row of the table after one more token, where `on`."""
        new = np.empty_like(table)
        new[:, 0] = table[:, 0] + 1
        np.minimum(table[:, 1:] + 1, table[:, :-1] + (drafts != token[:, None]), out=new[:, 1:])
        new -= self.places
        np.minimum.accumulate(new, axis=1, out=new)
        new += self.places
        return new if on.all() else np.where(on[:, None], new, table)
