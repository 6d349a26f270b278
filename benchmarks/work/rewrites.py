"""The row `rewrite`: decoding a correction from its draft.

The baselines are greedy decoding by transformers and the prompt look-up of transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import library
from benchmarks.bench import Bench
from benchmarks.forward_passes import counted, told
from benchmarks.measurement import Promise, Result, alternate, at_least, timed_result
from benchmarks.samples import VOCABULARY, replaced
from rlmec.data.row import Row
from rlmec.lm.draft_decoding import rewrite as rewrite_from
from rlmec.lm.logprobs import TokenScorer, score_rows

LOOKUP_TOKENS = 10
FEW_EDITS = 3
END = (1,)
NO_END = (-1,)
"""An end id that no token has, so that every text has the same length."""


@dataclass(frozen=True)
class Streams:
    """The prompts of the GRM (question, reference, and attempt) and the greedy text of each."""

    bench: Bench
    network: Any
    prompts: list[list[int]]
    texts: list[list[int]]
    tokens: int

    def edited(self, count: int) -> list[list[int]]:
        """Return drafts: the greedy texts with `count` tokens of each replaced."""
        draw = np.random.default_rng((self.bench.seed, 12, count))
        return [
            replaced(ids, sorted(draw.choice(len(ids) - 1, count, replace=False)), draw)
            for ids in self.texts
        ]

    def useless(self) -> list[list[int]]:
        """Return drafts of random tokens."""
        draw = np.random.default_rng((self.bench.seed, 13))
        return [draw.integers(2, VOCABULARY, self.tokens).tolist() for _ in self.texts]

    def greedy(self, number: int | None) -> list[list[int]]:
        """Return the library's greedy text of one stream, or of all streams in one batch."""
        some = self.prompts if number is None else [self.prompts[number]]
        with self.bench.arithmetic():
            return library.generate(self.network, some, self.tokens)

    def ours(self, number: int | None, drafts: Sequence[list[int]]) -> list[list[int]]:
        """Return the same texts, decoded from drafts."""
        one = slice(None) if number is None else slice(number, number + 1)
        with self.bench.arithmetic():
            made = rewrite_from(
                self.network, self.prompts[one], drafts[one], self.tokens, end_ids=NO_END, pad_id=0
            )
        return [r.completion.ids for r in made]


def rewrite(
    bench: Bench,
    *,
    edits: list[int],
    tokens: int,
    streams: int,
    one_bound: float,
    batch_bound: float,
    call_share: float,
    useless_bound: float,
) -> list[Result]:
    """Return three lines per number of edits: one stream, a batch, and calls of prompt look-up.

    The network has random weights, and a draft is its greedy text with some tokens replaced.
    `error` is `library.greedy_error`. Two more lines are for useless drafts.
    """
    network = bench.network(**library.spread(bench.shape))
    chosen = bench.drawn(bench.samples.wrong, streams, salt=14)
    prompts = [s.rewrite_prompt for s in chosen]
    with bench.arithmetic():
        texts = library.generate(network, prompts, tokens)
    work = Streams(bench, network, prompts, texts, tokens)
    work.ours(0, texts)  # prepares what is computed once per network

    results = []
    for count in edits:
        drafts = work.edited(count)
        few = count <= FEW_EDITS
        one = one_bound if few else None
        several = batch_bound if few else useless_bound
        alone = f"{_edits(count)}, one stream"
        batch = f"{_edits(count)}, batch of {streams}"
        results.append(_line(work, alone, 0, drafts, one, call_share))
        results.append(_line(work, batch, None, drafts, several))
        results.append(_lookup(work, count))

    drafts = work.useless()
    results.append(_line(work, f"useless drafts, batch of {streams}", None, drafts, useless_bound))
    results.append(_scored(work, drafts))
    return results


def _line(
    work: Streams,
    case: str,
    number: int | None,
    drafts: list[list[int]],
    bound: float | None,
    call_share: float | None = None,
) -> Result:
    """One stream, or all streams in a batch: wall time, passes, and columns against greedy.

    `call_share` is the promised factor between the numbers of passes.
    """
    network = work.network
    precision = work.bench.precision
    prompts = work.prompts if number is None else [work.prompts[number]]
    with counted(network) as plain:
        first = work.greedy(number)
    with counted(network) as passes:
        second = work.ours(number, drafts)

    timing = alternate(
        lambda: work.greedy(number),
        lambda: work.ours(number, drafts),
        work.bench.repeats,
        work.bench.device,
        warm=False,
    )
    promises = ()
    if call_share is not None:
        kept = plain.calls >= call_share * passes.calls
        promises = (Promise(f"calls <= 1/{call_share:g}", kept),)
    return timed_result(
        "rewrite",
        case,
        timing,
        bound=bound,
        promises=promises,
        error=library.greedy_error(network, prompts, first, second, precision),
        error_limit=library.greedy_limit(precision),
        more={
            "calls": f"{plain.calls} -> {passes.calls}",
            "columns": f"{plain.columns} -> {passes.columns}",
        },
    )


def _lookup(work: Streams, count: int) -> Result:
    """Passes of the library's prompt look-up, with the draft in its prompt, against ours.

    Look-up guesses from the text generated so far, so the text must be realistic. It is an attempt
    of the data, which the network is made to generate; the draft has `count` of its tokens
    replaced.
    """
    pool = [t for s in work.bench.samples.wrong for t in s.attempt if t not in END]
    draw = np.random.default_rng((work.bench.seed, 15, count))
    start = int(draw.integers(len(pool) - work.tokens))
    text = pool[start : start + work.tokens]
    draft = replaced(text, sorted(draw.choice(len(text) - 1, count, replace=False)), draw)
    asked = work.prompts[0] + draft

    with told(work.network, asked + text), counted(work.network) as theirs:
        generated = library.generate(
            work.network, [asked], work.tokens, prompt_lookup_num_tokens=LOOKUP_TOKENS
        )
    if generated != [text]:
        raise ValueError("prompt look-up did not generate the given text")

    drafts = work.edited(count)
    with counted(work.network) as ours:
        work.ours(0, drafts)
    return Result(
        "rewrite",
        f"{_edits(count)}, calls against prompt look-up",
        "calls",
        theirs.calls,
        ours.calls,
        [theirs.calls / ours.calls],
        promises=(at_least(2.0 if count <= FEW_EDITS else 1.0, theirs.calls / ours.calls),),
    )


def _scored(work: Streams, drafts: list[list[int]]) -> Result:
    """Useless drafts, where the baseline must also compute their log-probs, as ours does."""
    net = TokenScorer(work.network)
    pairs = zip(work.prompts, drafts, strict=True)
    rows = [Row.likelihood(f"r{i}", [*p, *d], len(p)) for i, (p, d) in enumerate(pairs)]

    def plain() -> None:
        work.greedy(None)
        with work.bench.arithmetic():
            score_rows(net, rows, 0)

    timing = alternate(
        plain, lambda: work.ours(None, drafts), work.bench.repeats, work.bench.device
    )
    return timed_result("rewrite", "useless drafts, scored on both sides", timing)


def _edits(count: int) -> str:
    return "1 edit" if count == 1 else f"{count} edits"
