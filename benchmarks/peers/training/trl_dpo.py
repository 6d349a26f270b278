"""TRL's DPO step on the pairs: the correction is chosen, the attempt is rejected."""

from __future__ import annotations

import copy
import tempfile
from functools import partial
from typing import Any

from benchmarks.peers.base import Peer, Work
from benchmarks.peers.jobs import TrainingJob
from benchmarks.peers.training.ours import BETA
from benchmarks.peers.trl_trainer import TrlStep, arguments, quiet, tiny_tokenizer


def _prepare(job: TrainingJob, tuned: bool) -> Work:
    import trl  # pyright: ignore[reportMissingImports]
    from datasets import Dataset
    from trl.trainer.dpo_trainer import (  # pyright: ignore[reportMissingImports]
        DataCollatorForPreference,
    )

    pairs, start = job.preferences
    examples: list[dict[str, Any]] = []
    for pair in pairs:
        example: dict[str, Any] = {
            "prompt_ids": pair.attempt.prompt_ids,
            "chosen_ids": pair.target_ids,
            "rejected_ids": pair.attempt.completion_ids,
        }
        if tuned:
            example["ref_chosen_logps"] = float(sum(start[pair.attempt.id]))
            example["ref_rejected_logps"] = float(pair.old_logprobs.sum())
        examples.append(example)
    if tuned:
        examples.sort(key=lambda e: len(e["prompt_ids"]) + len(e["chosen_ids"]))

    # Precomputed references are those of the data set; the reference model is then not run.
    changes = {"gradient_checkpointing": False, "precompute_ref_log_probs": True} if tuned else {}
    reference = None if tuned else copy.deepcopy(job.network).requires_grad_(False)
    folder = tempfile.TemporaryDirectory(prefix="peers-")
    with quiet():
        trainer = trl.DPOTrainer(
            model=job.twin(),
            ref_model=reference,
            args=trl.DPOConfig(**arguments(job, folder.name, beta=BETA, **changes)),
            train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}]),
            processing_class=tiny_tokenizer(),
        )
    trainer.data_collator = DataCollatorForPreference(pad_token_id=0)
    step = TrlStep(job, trainer, examples)
    head = sum(len(e["chosen_ids"]) + len(e["rejected_ids"]) for e in examples)
    return Work(step.run, head if tuned else 2 * head, folder.cleanup)


PEERS = (
    Peer(
        "TRL DPO, as it comes",
        "DPO; two padded rows per pair, a pass of the reference, gradient checkpointing",
        partial(_prepare, tuned=False),
        needs=("trl",),
        equals="ours, DPO",
        loss="dpo",
    ),
    Peer(
        "TRL DPO, tuned",
        "DPO; two padded rows per pair by length, reference precomputed, no checkpointing",
        partial(_prepare, tuned=True),
        needs=("trl",),
        equals="ours, DPO",
        loss="dpo",
    ),
)
