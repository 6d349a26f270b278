"""`generate` of Transformers: one padded batch, or prompt look-up with one prompt at a time."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks import library
from benchmarks.peers.base import Peer, Work
from benchmarks.peers.jobs import SamplingJob

NAME = "Transformers generate"
LOOKUP_TOKENS = 10


def arguments(job: SamplingJob) -> dict[str, Any]:
    """Return the decoding as keywords of `generate`, without the number of samples."""
    if job.is_greedy:
        return {}
    decoding = job.decoding
    return {
        "do_sample": True,
        "temperature": decoding.temperature,
        "top_p": decoding.top_p,
        "top_k": 0,
    }


def _batched(job: SamplingJob) -> Work:
    count = job.decoding.num_generations

    def run() -> list[list[int]]:
        torch.manual_seed(job.bench.seed)
        with job.arithmetic():
            return library.generate(
                job.network,
                job.prompts,
                job.decoding.max_completion_length,
                job.end_ids,
                num_return_sequences=count,
                **arguments(job),
            )

    return Work(run)


def _lookup(job: SamplingJob) -> Work:
    each = [ids for ids in job.prompts for _ in range(job.decoding.num_generations)]

    def run() -> list[list[int]]:
        torch.manual_seed(job.bench.seed)
        texts: list[list[int]] = []
        with job.arithmetic():
            for ids in each:
                texts += library.generate(
                    job.network,
                    [ids],
                    job.decoding.max_completion_length,
                    job.end_ids,
                    prompt_lookup_num_tokens=LOOKUP_TOKENS,
                    **arguments(job),
                )
        return texts

    return Work(run)


PEERS = (
    Peer(NAME, "one batch padded on the left; ended rows stay to the last step", _batched),
    Peer(
        "Transformers prompt look-up",
        f"one completion at a time, up to {LOOKUP_TOKENS} tokens looked up in the prompt",
        _lookup,
        equals=NAME,
    ),
)
