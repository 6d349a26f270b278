"""The row `sampling`: this project's generation against that of transformers, both batched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import library
from benchmarks.bench import Bench
from benchmarks.measurement import Result, Timing, alternate, timed_result
from rlmec.lm.generation import Decoding, generate

MEAN_LENGTH = 60
"""Mean tokens of a completion: one in so many tokens of the vocabulary ends a text."""


def sampling(bench: Bench, *, prompts: int, num_generations: int, tokens: int) -> list[Result]:
    """Return two lines, greedy and sampled (temperature 0.7, top-p 0.95), in ms per token.

    Prompts have the lengths of the data. Random tokens end a completion, so rows finish at
    different times, at the latest after `tokens`. Greedy texts are compared token by token; `error`
    is `library.greedy_error`.
    """
    network = bench.network(**library.spread(bench.shape))
    draw = np.random.default_rng((bench.seed, 6))
    asked = [s.prompt for s in bench.drawn(bench.samples.all, prompts, salt=5)]
    size = bench.vocabulary_size // MEAN_LENGTH
    ends = draw.choice(np.arange(2, bench.vocabulary_size), size, replace=False).tolist()

    def theirs(**settings: Any) -> list[list[int]]:
        with bench.arithmetic():
            return library.generate(network, asked, tokens, ends, **settings)

    def ours(decoding: Decoding) -> list[list[int]]:
        with bench.arithmetic():
            made = generate(network, asked, decoding, end_ids=ends, pad_id=0, seed=bench.seed)
        return [c.ids for c in made]

    # Each function returns one text per prompt, in the order of the prompts.
    greedy = theirs(), ours(Decoding(tokens))

    nucleus = Decoding(tokens, 0.7, 0.95, num_generations)
    arguments = {"do_sample": True, "temperature": 0.7, "top_p": 0.95, "top_k": 0}
    arguments["num_return_sequences"] = num_generations
    first = _per_token(theirs, lambda: ours(Decoding(tokens)), bench)
    second = _per_token(lambda: theirs(**arguments), lambda: ours(nucleus), bench)
    return [
        timed_result(
            "sampling",
            f"greedy, {prompts} prompts, per token",
            first,
            unit="ms",
            error=library.greedy_error(network, asked, *greedy, bench.precision),
            error_limit=library.greedy_limit(bench.precision),
        ),
        timed_result(
            "sampling",
            f"nucleus, {prompts} x {num_generations}, per token",
            second,
            unit="ms",
        ),
    ]


def _per_token(
    baseline: Callable[[], list[list[int]]], ours: Callable[[], list[list[int]]], bench: Bench
) -> Timing:
    """Seconds per generated token, since the two sides draw completions of different lengths."""
    counts: dict[str, list[int]] = {"baseline": [], "ours": []}

    def noted(side: str, work: Callable[[], list[list[int]]]) -> Callable[[], None]:
        return lambda: counts[side].append(sum(len(ids) for ids in work()))

    # The first count of each side belongs to its untimed warm-up run.
    timing = alternate(
        noted("baseline", baseline), noted("ours", ours), bench.repeats, bench.device
    )
    return Timing(
        [t / n for t, n in zip(timing.baseline, counts["baseline"][1:], strict=True)],
        [t / n for t, n in zip(timing.ours, counts["ours"][1:], strict=True)],
    )
