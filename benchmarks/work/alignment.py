"""The row `alignment`: alignment and edit weights of a pair, against a table filled in Python."""

from __future__ import annotations

import numpy as np

from benchmarks.authors import table_weights
from benchmarks.bench import Bench
from benchmarks.measurement import Result, alternate, timed_result
from benchmarks.samples import edits, replaced
from rlmec.method.alignment import apply, edit_script, edit_weights

CALLS = 50
"""Calls of ours per reading of the clock, because one call is shorter than a clock resolves."""


def alignment(
    bench: Bench, *, tokens: int, edited_shares: list[float], pairs: int, bound: float, few: float
) -> list[Result]:
    """Return one line per share of edited tokens.

    The promised ratio is `few` for shares up to 0.1 and `bound` above. `error` is the largest
    difference between the two edit distances. Weights are not compared, because several minimal
    scripts may exist; instead, our script is checked to produce the target.
    """
    return [
        _line(bench, tokens, share, pairs, few if share <= 0.1 else bound)
        for share in edited_shares
    ]


def _line(bench: Bench, tokens: int, share: float, count: int, bound: float) -> Result:
    draw = np.random.default_rng((bench.seed, 3))
    pairs = []
    for _ in range(count):
        source = _text(bench, tokens, draw)
        pairs.append((source, replaced(source, edits(tokens, 0, share, draw), draw)))

    worst = 0
    for source, target in pairs:
        script = edit_script(source, target)
        if apply(script, source, target) != target:
            raise ValueError(f"the script of a pair of {tokens} tokens misses its target")
        worst = max(worst, abs(script.distance - table_weights(source, target)[0]))

    def ours() -> None:
        for _ in range(CALLS):
            for source, target in pairs:
                edit_weights(edit_script(source, target))

    def baseline() -> None:
        for source, target in pairs:
            table_weights(source, target)

    timing = alternate(baseline, ours, bench.repeats)
    each = [t / CALLS for t in timing.ours]
    return timed_result(
        "alignment",
        f"{tokens} tokens, {share:.0%} edited",
        type(timing)([t / count for t in timing.baseline], [t / count for t in each]),
        unit="ms",
        bound=bound,
        error=float(worst),
        error_limit=0.0,
    )


def _text(bench: Bench, tokens: int, draw: np.random.Generator) -> list[int]:
    """Attempts joined one after the other, cut to `tokens` ids."""
    pool = bench.samples.all
    ids = []
    while len(ids) < tokens:
        ids += pool[int(draw.integers(len(pool)))].attempt
    return ids[:tokens]
