"""Continuous batching of Transformers (`generate_batch`), with its cache sized for the prompts."""

from __future__ import annotations

import copy
import logging
import math
import warnings

from benchmarks.batches import PAD
from benchmarks.peers.base import Peer, Work
from benchmarks.peers.jobs import SamplingJob
from benchmarks.peers.sampling.transformers_generate import NAME, arguments

PAGE = 256


def _prepare(job: SamplingJob) -> Work:
    from transformers import GenerationConfig
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    count = job.decoding.num_generations
    limit = job.decoding.max_completion_length
    pages = math.ceil((max(map(len, job.prompts)) + limit) / PAGE) + 1
    network = copy.deepcopy(job.network)
    generation = GenerationConfig(
        max_new_tokens=limit,
        eos_token_id=job.end_ids or -1,
        pad_token_id=PAD,
        num_return_sequences=count,
        **arguments(job),
    )

    # Left to itself it fills most of the machine's memory with its cache, in every call.
    batching = ContinuousBatchingConfig(
        page_size=PAGE,
        num_blocks=pages * len(job.prompts) * count,
        max_batch_tokens=max(1024, len(job.prompts) * count),
        seed=job.bench.seed,
    )

    def run() -> list[list[int]]:
        with warnings.catch_warnings(), job.arithmetic():
            warnings.simplefilter("ignore")
            found = network.generate_batch(
                job.prompts, generation_config=generation, continuous_batching_config=batching
            )
        if len(found) != len(job.prompts) * count:
            raise RuntimeError(f"{len(found)} of {len(job.prompts) * count} requests were answered")
        names = sorted(found, key=_number) if count == 1 else list(found)
        return [list(found[name].generated_tokens) for name in names]

    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
    return Work(run)


def _number(name: str) -> int:
    return int(name.rpartition("_")[2])


PEERS = (
    Peer(
        "Transformers continuous batching",
        "paged cache, rows leave when they end; PyTorch attention over all requests in one row",
        _prepare,
        needs=("transformers",),
        equals=NAME,
    ),
)
