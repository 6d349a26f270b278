"""Greedy decoding from drafts: exact, and fast where a draft is nearly the text to be written.

In: prompts, and a draft of the completion for each (a wrong attempt, of which a correction is
nearly a copy). Out: what greedy decoding writes, token for token, and the log-probability of every
token of the draft, which the first pass computes on the way; on request also the likeliest tokens
where a token of the draft is not the likeliest.

Each pass feeds the last token of a row and a guess of what follows. The pass tells which token
greedy decoding writes after each of these tokens. The longest correct beginning of the guess is
taken, and one token more. Where a guess comes from has no effect on the text.

A guess is a piece of the draft from the place that the text has got to in it (`Realignment`). Where
the text has left the draft, another place is looked up: one that the last tokens of the text
precede, in the draft or in the prompt and the text written so far (`draft_lookup`). All rows of a
pass guess equally many tokens: more while guesses are correct, none while they are wrong, so that a
useless draft costs a single pass.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from rlmec.data.row import Row
from rlmec.lm.chunked_head import evaluating
from rlmec.lm.draft_lookup import longest_match
from rlmec.lm.generation import Completion, Decoding, generate
from rlmec.lm.kv_cache import (
    Slots,
    batches,
    slots_obstacle,
    table_of,
)
from rlmec.lm.logprobs import TokenScorer, score_rows
from rlmec.runtime import signals
from rlmec.runtime.display import within

GUESSES = np.array([0, 4, 8, 16, 32, 64, 128, 256])
"""Lengths of a guess to choose from."""
PASS_COST = 192.0
"""Cost of a pass besides that of its tokens, in tokens."""
ROW_COST = 4.0
"""Cost of a row in a pass besides that of its tokens (its cache is read), in tokens."""
CPU_PASS_COST = 32.0
CPU_ROW_COST = 1.0
"""The same costs on a CPU, where further tokens are dear. A single row is planned as on a GPU: its
time per token hardly depends on the length of its guesses, and longer ones save passes."""
MEMORY = 24.0
"""Number of recent tokens from which the worth of guesses is estimated."""
LONGEST = 8
"""Last tokens of a text that are looked up, at most."""
TRUST = 5.0
"""How many matching tokens a doubling of the draft's odds is worth."""
LEAST_SHARE = 0.125
"""Expected share of correct tokens below which a place that was looked up is not guessed from."""
CONFIRMED = 3
"""Tokens of a guess that must be correct before its place in the draft counts as found."""
LOGITS_AT_ONCE = 2**24
NOTHING = -1
"""Marks positions after the end of a draft or a guess. No token has this id."""


class Alternative(NamedTuple):
    """The likeliest tokens at the draft's token `place`, the likeliest first, with log-probs."""

    place: int
    ids: list[int]
    logprobs: list[float]


@dataclass(frozen=True)
class Rewrite:
    """What was written, and the network's log-probs (nats, float32) of the draft's n tokens.

    `alternatives` are for the tokens of the draft that are not the likeliest ones, in their order.
    """

    completion: Completion
    draft_logprobs: list[float]
    alternatives: list[Alternative] = field(default_factory=list)


@torch.no_grad()
def rewrite(
    network: Any,
    prompts: Sequence[Sequence[int]],
    drafts: Sequence[Sequence[int]],
    max_completion_length: int,
    *,
    end_ids: Sequence[int],
    pad_id: int,
    alternatives: int = 0,
) -> list[Rewrite]:
    """Greedy completions of `prompts`, with one draft each, in the order of the prompts.

    `alternatives` is the number of likeliest tokens to keep where they are not the draft's.

    In float32 they equal those of `generate`, except where the two best logits differ by rounding
    alone. A draft may be empty, end too early or too late, or have no end token. A network that
    `Slots` cannot be used with is decoded token by token and scored in a pass of its own, without
    alternatives and with a warning that says why. The network is in eval mode meanwhile and then
    returns to the mode it was in. Raises ValueError if there are not as many drafts as prompts.
    """
    if len(prompts) != len(drafts):
        raise ValueError(f"{len(prompts)} prompts and {len(drafts)} drafts")
    obstacle = slots_obstacle(network)
    if obstacle is not None:
        warnings.warn(f"drafts are not used in decoding: {obstacle}", stacklevel=3)
        return _token_by_token(network, prompts, drafts, max_completion_length, end_ids, pad_id)

    rewrites: list[Rewrite | None] = [None] * len(prompts)
    columns = [
        len(prompt) + max(len(draft), max_completion_length)
        for prompt, draft in zip(prompts, drafts, strict=True)
    ]
    before = 0  # rewrites of the groups before
    with evaluating(network):
        for group in batches(network, columns):
            batch = RewriteBatch(
                Slots(network),
                [prompts[i] for i in group],
                [drafts[i] for i in group],
                max_completion_length,
                end_ids,
                alternatives,
            )
            for i, done in zip(group, batch.run(before, len(prompts)), strict=True):
                rewrites[i] = done
            before += len(group)
    return [done for done in rewrites if done is not None]


def _token_by_token(
    network: Any,
    prompts: Sequence[Sequence[int]],
    drafts: Sequence[Sequence[int]],
    limit: int,
    end_ids: Sequence[int],
    pad_id: int,
) -> list[Rewrite]:
    completions = generate(network, prompts, Decoding(limit), end_ids=end_ids, pad_id=pad_id)

    rows = {
        i: Row.likelihood(f"draft {i}", [*prompts[i], *draft], len(prompts[i]))
        for i, draft in enumerate(drafts)
        if len(draft)
    }
    scored = score_rows(TokenScorer(network), list(rows.values()), pad_id) if rows else []
    logprobs = dict(zip(rows, scored, strict=True))
    return [Rewrite(done, logprobs.get(i, [])) for i, done in enumerate(completions)]


@dataclass(frozen=True)
class Aim:
    """Where the guess of each open row comes from, S rows in all."""

    place: np.ndarray  # [S], index of the guess's first token in its source
    left: np.ndarray  # [S], tokens that a guess can have
    looked_up: np.ndarray  # [S], whether the place is not the pointer of `Realignment`
    from_text: np.ndarray  # [S], whether the source is the text itself rather than the draft
    share: np.ndarray  # [S], expected share of correct tokens, below 1


class Worth:
    """Recent hits and misses of guesses, by row. Both counts fade with MEMORY."""

    def __init__(self, count: int) -> None:
        self.hits = np.zeros(count)  # [R], correct tokens
        self.misses = np.zeros(count)  # [R], guesses that ended with a wrong token
        self.failed = np.zeros(count, dtype=bool)  # [R], whether all of the last guess was wrong

    def add(self, rows: np.ndarray, hits: np.ndarray, misses: np.ndarray) -> None:
        """Adds counts [S]. Scales a row's total down to MEMORY, so that recent tokens prevail."""
        self.hits[rows] += hits
        self.misses[rows] += misses
        kept = MEMORY / np.maximum(self.hits[rows] + self.misses[rows], MEMORY)
        self.hits[rows] *= kept
        self.misses[rows] *= kept

    def doubt(self, rows: np.ndarray, guessed: np.ndarray, failed: np.ndarray) -> None:
        """Halves the hits after two guesses in a row that were wrong from their first token.

        A single such guess may be due to a token that the draft lacks.
        """
        twice = guessed & failed & self.failed[rows]
        self.hits[rows] *= np.where(twice, 0.5, 1.0)
        self.failed[rows] = np.where(guessed, failed, self.failed[rows])

    def share(self, rows: np.ndarray, match: np.ndarray | None = None) -> np.ndarray:
        """The share of hits, [S], below 1.

        With the length of a match, `match` [S], the estimate begins with match / (match + 2), which
        counts as 4 tokens.
        """
        hits = self.hits[rows]
        total = hits + self.misses[rows]
        if match is None:
            return hits / (total + 0.5)
        return (hits + 4 * match / (match + 2)) / (total + 4)

    def log_odds(self, rows: np.ndarray) -> np.ndarray:
        """The logarithm to base 2 of hits per miss, [S], at least 0."""
        return np.log2(np.maximum(self.hits[rows] / (self.misses[rows] + 0.5), 1))


class RewriteBatch:
    """Rows that are rewritten together.

    Arrays are by row, R rows in all; `rows` names the row in each slot of the cache. An open row
    has all its tokens in the cache except the last one, which the next pass feeds.
    """

    def __init__(
        self,
        slots: Slots,
        prompts: Sequence[Sequence[int]],
        drafts: Sequence[Sequence[int]],
        limit: int,
        end_ids: Sequence[int],
        alternatives: int = 0,
    ) -> None:
        self.slots = slots
        self.limit = limit
        self.wanted = alternatives
        self.alternatives: list[list[Alternative]] = [[] for _ in prompts]  # by row
        self.end_ids = np.array(list(end_ids))
        self.sequences = [[*p, *d] for p, d in zip(prompts, drafts, strict=True)]
        self.prompt_lengths = np.array([len(p) for p in prompts])  # [R]
        self.align = Realignment(drafts)

        count = len(prompts)
        self.rows = np.arange(count)  # [slots in use]
        self.open = np.ones(count, dtype=bool)  # [R]
        self.begun = max(int(self.prompt_lengths.max()), LONGEST)  # P
        self.texts = np.full((count, self.begun + limit), NOTHING)  # [R, P + limit], token ids
        for text, prompt in zip(self.texts, prompts, strict=True):
            text[self.begun - len(prompt) : self.begun] = prompt
        self.written = self.texts[:, self.begun :]  # [R, limit], a view
        self.logprobs = np.zeros((count, limit), dtype=np.float32)  # [R, limit]
        self.lengths = np.zeros(count, dtype=np.int64)  # [R], tokens written

        self.draft_worth = Worth(count)
        self.lookup_worth = Worth(count)

    def run(self, before: int, total: int) -> list[Rewrite]:
        """Rewrites all rows, in the order they were given.

        Progress is shown as if `before` of `total` rows were rewritten already.
        """
        draft_logprobs = self._first_pass()  # [R, N + 1]
        self._release_finished()
        while len(self.rows):
            signals.check()
            within(before + len(self.open) - len(self.rows), total, "rewrites")
            aim = self._aim()
            self._pass(aim, self._sizes(aim))
            self._release_finished()

        rewrites = []
        for i, length in enumerate(self.lengths):
            ids = self.written[i, :length].tolist()
            clipped = not np.isin(ids[-1], self.end_ids)
            completion = Completion(ids, self.logprobs[i, :length].tolist(), bool(clipped))
            own = draft_logprobs[i, : self.align.lengths[i]].tolist()
            rewrites.append(Rewrite(completion, own, self.alternatives[i]))
        return rewrites

    def _first_pass(self) -> np.ndarray:
        """Feeds prompts and whole drafts at once. Returns the log-probs of the drafts' tokens, of
        shape [R, N + 1] where N is the length of the longest draft."""
        # The whole draft is fed, however bad it is, because its log-probs are wanted anyway.
        drafts = self.align.drafts  # [R, N]
        lengths = self.align.lengths  # [R]
        real = np.arange(drafts.shape[1] + 1) <= lengths[:, None]  # [R, N + 1]
        row, at = np.nonzero(real)
        columns = self.prompt_lengths[row] - 1 + at
        states = self.slots.begin(*table_of(self.sequences), row, columns)  # [M, size]

        # One position more than the draft has tokens: what follows its last one has no target.
        targets = np.append(drafts, np.full((len(drafts), 1), NOTHING), 1)[real]  # [M]
        best, best_logprobs, draft_logprobs = self._read(states, real, np.maximum(targets, 0))
        if self.wanted:
            self._keep_alternatives(states, row, at, (best[real] != targets) & (targets != NOTHING))

        rows = np.arange(len(drafts))
        sizes = np.minimum(lengths, self.limit - 1)
        taken, last = self._take(rows, drafts, sizes, best, best_logprobs)
        self.align.start_with_copy(rows, taken)
        self.align.advance(rows, last[:, None], np.ones_like(taken))

        # The pass shows for every draft token whether greedy decoding agrees with it, also after
        # the first edit: a first estimate of the draft's worth.
        agreed = (best[:, :-1] == drafts).sum(1)  # [R]
        self.draft_worth.add(rows, agreed, lengths - agreed)
        return draft_logprobs

    def _keep_alternatives(
        self, states: torch.Tensor, row: np.ndarray, at: np.ndarray, differs: np.ndarray
    ) -> None:
        """Keeps the likeliest tokens at the draft's tokens for which `differs` [M] is True.

        `states` [M, size] predict the tokens `at` [M] of the rows `row` [M].
        """
        vocabulary = self.slots.network.config.get_text_config().vocab_size
        part = max(1, LOGITS_AT_ONCE // vocabulary)
        which = np.flatnonzero(differs)  # [D]
        for group in np.split(which, np.arange(part, len(which), part)):
            logits = self.slots.logits(states[self.slots.tensor(group)])  # [part, V]
            values, ids = logits.topk(min(self.wanted, logits.shape[-1]))  # [part, k]
            logprobs = (values - logits.logsumexp(-1, keepdim=True)).tolist()
            for i, own, own_logprobs in zip(group, ids.tolist(), logprobs, strict=True):
                self.alternatives[row[i]].append(Alternative(int(at[i]), own, own_logprobs))

    def _aim(self) -> Aim:
        """Where the next guess of each open row comes from.

        A place that was looked up must have a longer match than the pointer. At the pointer few
        tokens may match, after an edit none: what speaks for it is how often the draft was right.
        """
        rows = self.rows
        lengths = self.align.lengths[rows]  # [S]
        pointer = self.align.pointer[rows]  # [S]
        run = np.minimum(self.align.run[rows], LONGEST)
        evidence = run + TRUST * self.draft_worth.log_odds(rows)
        evidence = np.where(pointer < lengths, evidence, 0)  # [S], a draft that has ended has none

        ends = self.begun + self.lengths[rows]  # [S]
        last = ends[:, None] - np.arange(LONGEST, 0, -1)
        endings = self.texts[rows[:, None], last]  # [S, LONGEST]
        in_draft, match = longest_match(self.align.drafts[rows], endings, lengths, pointer)
        in_text, text_match = longest_match(self.texts[rows, : ends.max()], endings, ends, ends)
        from_text = text_match > match
        match = np.maximum(match, text_match)  # [S]
        looked_up = match > evidence
        from_text &= looked_up

        place = np.where(from_text, in_text, np.where(looked_up, in_draft, pointer))
        left = np.where(from_text, ends, lengths) - place
        left = np.minimum(left, self.limit - self.lengths[rows] - 1)
        found_share = self.lookup_worth.share(rows, match)
        left[looked_up & (found_share < LEAST_SHARE)] = 0
        share = np.where(looked_up, found_share, self.draft_worth.share(rows))
        return Aim(place, left, looked_up, from_text, share)

    def _sizes(self, aim: Aim) -> np.ndarray:
        """The size of the guess of each open row, [S].

        All rows of a pass are as wide as the widest. The width is the one of least expected cost
        per token written, if each token of a guess is correct with the row's share of hits.
        """
        count = len(self.rows)
        sizes = np.minimum(GUESSES, aim.left[:, None])  # [S, G]

        # A guess of g tokens, each correct with probability s, gives 1 + s + ... + s^g tokens.
        share = aim.share[:, None]
        expected = 1 + share * (1 - share**sizes) / (1 - share)  # [S, G]
        pass_cost = PASS_COST
        row_cost = ROW_COST
        if self.slots.device.type == "cpu" and count > 1:
            pass_cost = CPU_PASS_COST
            row_cost = CPU_ROW_COST
        cost = pass_cost + count * (row_cost + 1 + sizes.max(0))  # [G]
        return sizes[:, (cost / expected.sum(0)).argmin()]

    def _pass(self, aim: Aim, sizes: np.ndarray) -> None:
        """Feeds the last token and a guess of every open row, and takes what is correct."""
        rows = self.rows
        widest = int(sizes.max())

        last = self.written[rows, self.lengths[rows] - 1]  # [S]
        step = np.arange(widest)
        real = step < sizes[:, None]  # [S, g]
        guess = np.where(real, self._tokens(aim, widest), NOTHING)
        ids = np.concatenate([last[:, None], np.where(real, guess, last[:, None])], 1)  # [S, 1 + g]

        starts = self.prompt_lengths[rows] + self.lengths[rows] - 1  # [S]
        states = self.slots.feed(
            self.slots.tensor(ids),
            self.slots.tensor(starts),
            int((starts + sizes).max()) + 1,
            counts=self.slots.tensor(sizes + 1) if sizes.min() < widest else None,
        )  # [S, 1 + g, size]

        asked = np.arange(widest + 1) <= sizes[:, None]  # [S, 1 + g]
        chosen = states[self.slots.tensor(asked)]  # [M, size]
        best, best_logprobs, _ = self._read(chosen, asked)
        taken, _ = self._take(rows, guess, sizes, best, best_logprobs)

        # A place that was looked up and proved right is where the text has got to in the draft.
        found = aim.looked_up & ~aim.from_text & (taken >= CONFIRMED)  # [S]
        self.align.start_with_copy(rows[found], aim.place[found])
        self.align.advance(rows, best, taken + 1)
        self._learn(aim, sizes, taken, found)

    def _tokens(self, aim: Aim, count: int) -> np.ndarray:
        """The `count` tokens of each row's source from its place on, [S, count]."""
        rows = self.rows[:, None]
        index = aim.place[:, None] + np.arange(count)
        in_draft = self.align.drafts[rows, np.minimum(index, self.align.width - 1)]
        in_text = self.texts[rows, np.minimum(index, self.texts.shape[1] - 1)]
        return np.where(aim.from_text[:, None], in_text, in_draft)

    def _read(
        self, states: torch.Tensor, real: np.ndarray, targets: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The best next token, its log-prob, and the log-prob of `targets` [M]: three [S, g].

        `states` [M, size] belong to the places where `real` [S, g] is True, in their order; all
        other places are 0. Without `targets` the third is the second again.
        """
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

        tables = []
        for pieces in zip(*found, strict=True):
            flat = torch.cat(pieces).cpu().numpy()  # [M]
            table = np.zeros(real.shape, dtype=flat.dtype)
            table[real] = flat
            tables.append(table)
        return tables[0], tables[1], tables[2]

    def _take(
        self,
        rows: np.ndarray,
        guess: np.ndarray,
        sizes: np.ndarray,
        best: np.ndarray,
        best_logprobs: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Writes the correct beginning of each guess and the best token after it.

        Returns how many tokens of the guess were taken, [S], and the token after them, [S].
        """
        correct = (best[:, :-1] == guess) & (np.arange(guess.shape[1]) < sizes[:, None])
        # An end token is written as the token after the guess, so that nothing is taken after it.
        correct &= ~np.isin(guess, self.end_ids)
        taken = np.cumprod(correct, axis=1).sum(1)  # [S]

        row, at = np.nonzero(np.arange(best.shape[1]) <= taken[:, None])
        place = self.lengths[rows][row] + at
        self.written[rows[row], place] = best[row, at]
        self.logprobs[rows[row], place] = best_logprobs[row, at]
        self.lengths[rows] += taken + 1

        last = best[np.arange(len(rows)), taken]
        self.open[rows] = ~np.isin(last, self.end_ids) & (self.lengths[rows] < self.limit)
        return taken, last

    def _learn(self, aim: Aim, sizes: np.ndarray, taken: np.ndarray, found: np.ndarray) -> None:
        """Updates the worth of guesses after a pass."""
        rows = self.rows
        guessed = (sizes > 0) & ~aim.looked_up
        looked_up = (sizes > 0) & aim.looked_up
        missed = taken < sizes

        # Without a guess at the pointer, the token written tells: it counts as the draft's own if
        # the one before it was, too, since one alone may be chance.
        own = self.align.run[rows] > 1
        self.draft_worth.doubt(rows, guessed, taken == 0)
        self.draft_worth.add(
            rows, np.where(guessed | found, taken, own), np.where(guessed, missed, ~own)
        )
        self.lookup_worth.add(rows, looked_up * taken, looked_up & missed)

    def _release_finished(self) -> None:
        """Takes finished rows out of their slots, which rows from the end then fill."""
        going = self.open[self.rows]
        if not going.any():
            self.rows = self.rows[:0]
        elif not going.all():
            order = self.slots.keep(self.slots.tensor(going))
            self.rows = self.rows[order.cpu().numpy()]


class Realignment:
    """Where the text written so far has got to in each draft.

    `pointer` [R] is the index at which the draft goes on. `run` [R] is how many of the tokens
    written last were the draft's own, one after the other. `table` [R, N + 1] is the last row of
    the Levenshtein table between the text written and the draft: entry j is the number of edits
    between the text and the first j tokens of the draft.
    """

    def __init__(self, drafts: Sequence[Sequence[int]]) -> None:
        self.lengths = np.array([len(d) for d in drafts], dtype=np.int64)  # [R]
        self.width = max(int(self.lengths.max()), 1)  # N
        self.drafts = np.full((len(drafts), self.width), NOTHING, dtype=np.int64)  # [R, N]
        for row, draft in zip(self.drafts, drafts, strict=True):
            row[: len(draft)] = draft

        self.places = np.arange(self.width + 1, dtype=np.int32)  # [N + 1]
        self.table = np.tile(self.places, (len(drafts), 1))  # [R, N + 1], nothing written yet
        self.pointer = np.zeros(len(drafts), dtype=np.int64)  # [R]
        self.run = np.zeros(len(drafts), dtype=np.int64)  # [R]

    def start_with_copy(self, rows: np.ndarray, counts: np.ndarray) -> None:
        """Sets `rows` [S] to having written the first `counts` [S] tokens of their drafts."""
        # Between the first c and the first j tokens of one draft there are |j - c| edits.
        self.table[rows] = np.abs(self.places - counts[:, None]).astype(np.int32)
        self.pointer[rows] = counts
        self.run[rows] = counts

    def advance(self, rows: np.ndarray, tokens: np.ndarray, counts: np.ndarray) -> None:
        """`rows` [S] have written the first `counts` [S], at least 1, of `tokens` [S, m].

        The pointer moves to the place in the draft before which the draft is the fewest edits from
        the text. Of several such places it takes the last: a token that differs is taken for a
        replaced token rather than for an inserted one.
        """
        drafts = self.drafts[rows]  # [S, N]
        table = self.table[rows]  # [S, N + 1]
        for at in range(int(counts.max())):
            table = self._after_token(table, drafts, tokens[:, at], counts > at)
        self.table[rows] = table

        # The last of equal minima is the first one from the end.
        after_draft = self.places > self.lengths[rows][:, None]  # [S, N + 1]
        edits = np.where(after_draft, np.iinfo(np.int32).max, table)
        found = self.width - edits[:, ::-1].argmin(1)  # [S]

        last = tokens[np.arange(len(rows)), counts - 1]  # [S]
        own = (found > 0) & (drafts[np.arange(len(rows)), np.maximum(found, 1) - 1] == last)
        follows = found == self.pointer[rows] + counts
        self.run[rows] = np.where(own, np.where(follows, self.run[rows] + counts, 1), 0)
        self.pointer[rows] = found

    def _after_token(
        self, table: np.ndarray, drafts: np.ndarray, token: np.ndarray, on: np.ndarray
    ) -> np.ndarray:
        """The Levenshtein rows after one more `token` [S], where `on` [S]; elsewhere unchanged."""
        new = np.empty_like(table)
        new[:, 0] = table[:, 0] + 1
        np.minimum(table[:, 1:] + 1, table[:, :-1] + (drafts != token[:, None]), out=new[:, 1:])

        # The third way to an entry is from its left neighbour, plus 1. Minus the column number that
        # is a running minimum, which NumPy computes for all columns at once.
        new -= self.places
        np.minimum.accumulate(new, axis=1, out=new)
        new += self.places
        return new if on.all() else np.where(on[:, None], new, table)
