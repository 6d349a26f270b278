"""The rows `score_samples` and `score_wrong`: log-probs of attempts.

Samples of one problem are scored together. The score of a wrong attempt comes from the first pass
of its correction, so it costs no pass of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from benchmarks import library
from benchmarks.authors import score_one_by_one
from benchmarks.batches import PAD
from benchmarks.bench import Bench
from benchmarks.forward_passes import counted
from benchmarks.measurement import Result, alternate, at_most, timed_result
from benchmarks.samples import Sample
from benchmarks.work.rewrites import NO_END
from rlmec.data.row import Row
from rlmec.lm.draft_decoding import rewrite
from rlmec.lm.logprobs import TokenScorer, score_rows

LIMIT = {"32-true": 1e-4, "bf16-mixed": 0.2, "bf16-true": 0.5}
"""The allowed difference between two log-probs of one token (nats), by precision."""


def largest_difference(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float:
    """Return the largest difference of two lists of log-probs; ValueError for other lengths."""
    return max(
        abs(a - b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)
    )


def score_samples(bench: Bench, *, problems: int, samples: int, bound: float) -> list[Result]:
    """Time the log-probs of `samples` attempts per problem, given the policy's prompt."""
    groups: dict[int, list[Sample]] = defaultdict(list)
    for sample in bench.samples.all:
        groups[sample.problem].append(sample)
    pool = [s[0] for s in groups.values() if len(s) >= samples]
    chosen = [groups[s.problem][:samples] for s in bench.drawn(pool, problems, salt=4)]
    texts = [(s.prompt, s.attempt) for group in chosen for s in group]
    rows = [
        Row.likelihood(f"r{i}", [*prompt, *attempt], len(prompt))
        for i, (prompt, attempt) in enumerate(texts)
    ]
    network = bench.network()
    net = TokenScorer(network)

    def baseline() -> list[list[float]]:
        with bench.arithmetic():
            return score_one_by_one(network, texts)

    def ours() -> list[list[float]]:
        with bench.arithmetic():
            return score_rows(net, rows, PAD)

    error = largest_difference(baseline(), ours())
    timing = alternate(baseline, ours, bench.repeats, bench.device, warm=False)
    return [
        timed_result(
            "score_samples",
            f"{problems} problems x {samples}",
            timing,
            bound=bound,
            error=error,
            error_limit=LIMIT[bench.precision],
        )
    ]


def score_wrong(bench: Bench, *, attempts: int, tokens: int) -> list[Result]:
    """Return what scoring wrong attempts adds to correcting them, given the GRM's prompt.

    The baseline corrects and then scores in a pass of its own. Ours takes the log-probs from the
    first pass of the correction. The first line counts the passes beyond correcting: if greedy
    decoding generates the attempt itself, one pass verifies it, and every further pass is for the
    score. The second line is the wall time of both together for real wrong attempts, with
    corrections cut after `tokens`.
    """
    chosen = bench.drawn(bench.samples.wrong, attempts, salt=16)
    prompts = [s.rewrite_prompt for s in chosen]
    drafts = [s.attempt for s in chosen]
    network = bench.network()
    net = TokenScorer(network)
    with bench.arithmetic():
        texts = library.generate(network, prompts, tokens)

    def correct(some: Sequence[list[int]], limit: int = tokens) -> list[list[float]]:
        with bench.arithmetic():
            made = rewrite(network, prompts, some, limit, end_ids=NO_END, pad_id=PAD)
        return [r.draft_logprobs for r in made]

    def both(some: Sequence[list[int]]) -> list[list[float]]:
        correct(some)
        pairs = zip(prompts, some, strict=True)
        rows = [Row.likelihood(f"r{i}", [*p, *d], len(p)) for i, (p, d) in enumerate(pairs)]
        with bench.arithmetic():
            return score_rows(net, rows, PAD)

    error = largest_difference(both(drafts), correct(drafts))
    with counted(network) as apart:
        both(texts)
    with counted(network) as together:
        correct(texts)
    timing = alternate(
        lambda: both(drafts), lambda: correct(drafts), bench.repeats, bench.device, warm=False
    )
    extra = together.calls - 1
    first = Result(
        "score_wrong",
        f"extra passes, {attempts} attempts",
        "passes",
        apart.calls - 1,
        extra,
        [apart.calls / together.calls],
        promises=(at_most(0, extra),),
        error=error,
        error_limit=LIMIT[bench.precision],
        note="score_wrong: the ratio of the first line is of all passes, including verification",
    )
    return [first, timed_result("score_wrong", f"correct and score {attempts}", timing)]
