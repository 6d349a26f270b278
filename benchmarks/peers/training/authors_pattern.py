"""The pattern of the authors' scripts, in this project's own code (`benchmarks/authors.py`)."""

from __future__ import annotations

from functools import partial

from benchmarks import authors
from benchmarks.peers.base import OURS, Peer, Work
from benchmarks.peers.jobs import TrainingJob


def _prepare(job: TrainingJob) -> Work:
    # The pattern pads in fours, so its head sees the longest row of each four.
    size = authors.BATCH
    head = 0
    for start in range(0, len(job.pairs), size):
        some = job.pairs[start : start + size]
        for texts in ([p.attempt.completion_ids for p in some], [p.target_ids for p in some]):
            lengths = [len(p.attempt.prompt_ids) + len(t) for p, t in zip(some, texts, strict=True)]
            head += len(some) * max(lengths)
    step = partial(authors.training_step, job.network, job.pairs, job.arithmetic)
    return Work(step, head)


PEERS = (
    Peer(
        "authors' pattern",
        "RLMEC; two full rows per pair, padded on the left in fours, all logits in float32",
        _prepare,
        equals=OURS,
        loss="rlmec",
    ),
)
