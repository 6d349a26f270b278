"""A TRL trainer as a function that does one step: shared by the peers `trl_dpo` and `trl_sft`.

The trainer is built from a data set of one text, because the pairs are token ids already; its own
collator then makes the batches from the ids. Its `training_step` computes and adds the gradients of
each micro-batch as in `train()`. Clipping and the optimizer are the job's, as for every peer.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.peers.jobs import TrainingJob

ROWS = 8
"""TRL's default for `per_device_train_batch_size`."""


def tiny_tokenizer() -> Any:
    """Return a tokenizer of few words with padding id 0 and end id 1, which a trainer asks for."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<end>": 1, "a": 2, "b": 3, "c": 4}
    made = Tokenizer(models.WordLevel(words, unk_token="a"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<end>")


def arguments(job: TrainingJob, folder: str, **changes: Any) -> dict[str, Any]:
    """Return the arguments of a trainer's configuration that the job fixes."""
    return {
        "output_dir": folder,
        "use_cpu": job.device.type == "cpu",
        "bf16": job.bench.precision == "bf16-mixed",
        "report_to": "none",
        "learning_rate": 0.0,
        "disable_tqdm": True,
        **changes,
    }


class TrlStep:
    """One step of a trainer over `examples`, as dictionaries of ids that its collator reads."""

    def __init__(self, job: TrainingJob, trainer: Any, examples: Sequence[dict[str, Any]]) -> None:
        self.trainer = trainer
        self.size = even_batch(len(examples))
        self.examples = examples
        if trainer.args.gradient_checkpointing:
            options = trainer.args.gradient_checkpointing_kwargs
            with quiet():
                trainer.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
        self.model = trainer.accelerator.prepare(trainer.model)
        trainer.optimizer = job.optimizer

    def run(self, num_items: int | None = None) -> float:
        """Add the gradients of all examples and return the loss.

        `num_items` counts the tokens of the step's loss, where the trainer divides by them.
        """
        trainer = self.trainer
        starts = range(0, len(self.examples), self.size)
        trainer.current_gradient_accumulation_steps = len(starts)
        total = 0.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for start in starts:
                batch = trainer.data_collator(list(self.examples[start : start + self.size]))
                loss = trainer.training_step(self.model, batch, num_items)
                total += float(loss)
        return total


def even_batch(count: int) -> int:
    """Return the largest divisor of `count` up to ROWS: a mean over equal batches is exact."""
    return next(size for size in range(min(ROWS, count), 0, -1) if count % size == 0)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide progress bars and warnings while a trainer is built."""
    import datasets

    datasets.disable_progress_bars()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
