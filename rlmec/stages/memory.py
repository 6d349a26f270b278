"""What a run needs of a device's memory: said before weights load, and named where it ran out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rlmec.binding import ConfigurationError

FIT_REMEDIES = (
    "lower trainer.max_tokens_per_micro_batch, set model.gradient_checkpointing=true, or train "
    "an adapter (model.lora={r: 16}, model.dtype=bfloat16)"
)
PREDICT_REMEDIES = (
    "lower the stage's part_size (sample.part_size, score.part_size, evaluate.part_size) or "
    "max_completion_length, or set model.dtype=bfloat16 with model.lora"
)


@contextmanager
def named_memory(title: str, remedies: str) -> Iterator[None]:
    """Turns a device's out-of-memory error into one that names the settings to lower."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        first = str(error).splitlines()[0] if str(error) else "no further message"
        raise ConfigurationError(f"{title}: out of memory ({first}); {remedies}") from error
