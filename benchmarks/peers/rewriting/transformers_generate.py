"""Greedy `generate` of Transformers, which does not use the draft, and its prompt look-up."""

from __future__ import annotations

from functools import partial

from benchmarks import library
from benchmarks.forward_passes import told
from benchmarks.peers.base import Peer, Work
from benchmarks.peers.jobs import RewritingJob

NAME = "Transformers generate"
LOOKUPS = (10, 32)


def _prepare(job: RewritingJob, together: bool) -> Work:
    count = len(job.prompts) if together else 1

    def run() -> list[list[int]]:
        texts: list[list[int]] = []
        with job.arithmetic():
            for start in range(0, len(job.prompts), count):
                some = job.prompts[start : start + count]
                texts += library.generate(job.network, some, job.tokens)
        return texts

    return Work(run)


def _lookup(job: RewritingJob, most: int) -> Work:
    drafts = job.drafts(job.attempts)
    asked = [prompt + draft for prompt, draft in zip(job.prompts, drafts, strict=True)]

    def run() -> list[list[int]]:
        texts: list[list[int]] = []
        for prompt, attempt in zip(asked, job.attempts, strict=True):
            with told(job.network, prompt + attempt), job.arithmetic():
                texts += library.generate(
                    job.network, [prompt], job.tokens, prompt_lookup_num_tokens=most
                )
        if texts != job.attempts:
            raise RuntimeError("prompt look-up did not generate the attempts that it was told")
        return texts

    return Work(run)


PEERS = (
    Peer(NAME, "one text at a time, token by token", partial(_prepare, together=False)),
    Peer(
        "Transformers generate, in a batch",
        "all texts in one batch, token by token",
        partial(_prepare, together=True),
        equals=NAME,
    ),
    *(
        Peer(
            f"Transformers prompt look-up, {most}",
            f"one text at a time, up to {most} tokens from a draft in the prompt; "
            "told to generate an attempt",
            partial(_lookup, most=most),
        )
        for most in LOOKUPS
    ),
)
