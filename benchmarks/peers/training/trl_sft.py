"""TRL's SFT step on the corrections alone: what remains if the wrong attempts are not used."""

from __future__ import annotations

import tempfile
from functools import partial
from typing import Any

from benchmarks.peers.base import Peer, Work
from benchmarks.peers.jobs import TrainingJob
from benchmarks.peers.trl_trainer import TrlStep, arguments, quiet, tiny_tokenizer

IGNORED = -100


PLAIN = {"gradient_checkpointing": False}
PADDING_FREE = {**PLAIN, "padding_free": True, "max_length": None}


def _prepare(job: TrainingJob, changes: dict[str, Any]) -> Work:
    import trl  # pyright: ignore[reportMissingImports]
    from datasets import Dataset

    examples: list[dict[str, Any]] = []
    for pair in job.pairs:
        prompt = pair.attempt.prompt_ids
        labels = [IGNORED] * len(prompt) + list(pair.target_ids)
        examples.append({"input_ids": [*prompt, *pair.target_ids], "labels": labels})
    if changes:
        examples.sort(key=lambda e: len(e["input_ids"]))

    folder = tempfile.TemporaryDirectory(prefix="peers-")
    with quiet():
        trainer = trl.SFTTrainer(
            model=job.twin(),
            args=trl.SFTConfig(**arguments(job, folder.name, **changes)),
            train_dataset=Dataset.from_list([{"prompt": "a", "completion": "b"}]),
            processing_class=tiny_tokenizer(),
        )
    step = TrlStep(job, trainer, examples)
    head = sum(len(pair.target_ids) for pair in job.pairs)
    return Work(partial(step.run, head), head, folder.cleanup)


PEERS = (
    Peer(
        "TRL SFT, as it comes",
        "likelihood of the corrections alone; padded rows, gradient checkpointing",
        partial(_prepare, changes={}),
        needs=("trl",),
        equals="ours, SFT",
        loss="sft",
    ),
    Peer(
        "TRL SFT, tuned",
        "likelihood of the corrections alone; rows by length, no checkpointing",
        partial(_prepare, changes=PLAIN),
        needs=("trl",),
        equals="ours, SFT",
        loss="sft",
    ),
    Peer(
        "TRL SFT, padding-free",
        "likelihood of the corrections alone; a batch in one row, no checkpointing",
        partial(_prepare, changes=PADDING_FREE),
        needs=("trl",),
        equals="ours, SFT",
        loss="sft",
    ),
)
