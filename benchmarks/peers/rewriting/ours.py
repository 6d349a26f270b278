"""This project's decoding from a draft, one text at a time and all texts in a batch."""

from __future__ import annotations

from functools import partial

from benchmarks.batches import PAD
from benchmarks.peers.base import OURS, Peer, Work
from benchmarks.peers.jobs import RewritingJob
from benchmarks.peers.rewriting.transformers_generate import NAME
from benchmarks.work.rewrites import NO_END
from rlmec.lm.draft_decoding import rewrite


def _prepare(job: RewritingJob, together: bool) -> Work:
    drafts = job.drafts(job.texts)
    count = len(job.prompts) if together else 1

    def run() -> list[list[int]]:
        texts = []
        with job.arithmetic():
            for start in range(0, len(job.prompts), count):
                some = slice(start, start + count)
                made = rewrite(
                    *(job.network, job.prompts[some], drafts[some], job.tokens),
                    end_ids=NO_END,
                    pad_id=PAD,
                )
                texts += [each.completion.ids for each in made]
        return texts

    return Work(run)


PEERS = (
    Peer(
        OURS,
        "one text at a time from its draft; returns the draft's log-probs, too",
        partial(_prepare, together=False),
        equals=NAME,
    ),
    Peer(
        "ours, in a batch",
        "all texts in one batch from their drafts; returns the drafts' log-probs, too",
        partial(_prepare, together=True),
        equals=NAME,
    ),
)
