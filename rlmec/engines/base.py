"""What an engine is: something that samples completions of prompts.

In: a `GenerationPart`, whose composition and seed do not depend on the engine. Out: completions as
token ids, the log-probability that the model itself (temperature 1, no truncation) gave to each
token, and whether the length limit cut the completion.

An engine only samples. Log-probs to train on always come from this project's own forward pass, so
that old and new log-probs are computed in the same way.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from rlmec.lm.generation import Completion
from rlmec.training.predict_parts import GenerationPart


class EngineError(ValueError):
    """The engine cannot run here, or gave something else than it was asked for."""


@dataclass(frozen=True)
class ModelPlace:
    """A model to load.

    `path` is a directory or hub name, `end_ids` are all ids at which a completion ends, and
    `precision` is that of the stage, by Lightning's names ("bf16-mixed").
    """

    path: str
    revision: str | None
    end_ids: tuple[int, ...]
    precision: str


class Sampler(Protocol):
    """A loaded model that samples."""

    def complete(self, part: GenerationPart) -> list[Completion]:
        """`num_generations` completions for every prompt, one after another, in the prompts' order.

        Completions depend on their part alone, up to rounding that differs between batches.
        """
        ...


@runtime_checkable
class Engine(Protocol):
    """An engine, chosen in the configuration (`engine`)."""

    name: str

    def check(self) -> None:
        """Raises EngineError if the engine cannot run here. Called before anything is made."""
        ...

    def sampler(self, place: ModelPlace) -> AbstractContextManager[Sampler] | None:
        """A context that loads the model on entry and frees it on exit, on rank 0 only.

        None if the stage's own network samples, in the Trainer and on every rank.
        """
        ...
