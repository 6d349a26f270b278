"""What an engine is: it samples completions of prompts that are token ids.

In: `parts.GenerationPart`, whose composition and seed do not depend on who computes it. Out: token
ids, the log-probability that the model itself (temperature 1, no truncation) gave to each, and
whether the length limit cut them. An engine only samples: what is scored and trained on is computed
by this project's own forward pass.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from rlmec.lm.generation import Completion
from rlmec.training.predict_parts import GenerationPart


class EngineError(ValueError):
    """An engine that cannot run here, or that gave something else than it was asked for."""


@dataclass(frozen=True)
class ModelPlace:
    """A model to load: a directory or hub name, the ids at which a completion ends (all of them),
    and the stage's precision in Lightning's words."""

    path: str
    revision: str | None
    end_ids: tuple[int, ...]
    precision: str


class Sampler(Protocol):
    """A loaded model."""

    def complete(self, part: GenerationPart) -> list[Completion]:
        """Completions of every prompt, `num_generations` in a row for each, in the prompts' order.

        A completion is a function of its part, up to rounding that differs between batches.
        """
        ...


@runtime_checkable
class Engine(Protocol):
    """Chosen in the configuration (`engine`)."""

    name: str

    def check(self) -> None:
        """Raises EngineError where the engine cannot run here; called before anything is made."""
        ...

    def sampler(self, place: ModelPlace) -> AbstractContextManager[Sampler] | None:
        """What loads the model when it is entered and lets go of it when left; on one rank only.

        None where the stage's own network samples, in the Trainer and on every rank.
        """
        ...
