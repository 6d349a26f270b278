"""This project's generation: all prompts in one batch, rows leave when they end."""

from __future__ import annotations

from benchmarks.batches import PAD
from benchmarks.peers.base import OURS, Peer, Work
from benchmarks.peers.jobs import SamplingJob
from rlmec.lm.generation import generate


def _prepare(job: SamplingJob) -> Work:
    def run() -> list[list[int]]:
        with job.arithmetic():
            made = generate(
                job.network,
                job.prompts,
                job.decoding,
                end_ids=job.end_ids,
                pad_id=PAD,
                seed=job.bench.seed,
            )
        return [completion.ids for completion in made]

    return Work(run)


PEERS = (
    Peer(
        OURS,
        "one batch, ended rows leave, prompts computed once; returns log-probs, too",
        _prepare,
        equals="Transformers generate",
    ),
)
