"""One training row: token ids, and the tokens that are scored in it with their credit.

In: token ids and credit. Out: `Row`, checked, with the positions and ancestors of its segments. A
flat row is one segment. A tree has several segments, for several sequences whose common beginnings
are stored once. The row states which hidden state predicts which token (`sources`, `targets`), so
nothing downstream shifts ids. Pure: no padding, no model, no disk.

Departs from the paper: an attempt and its correction are one row (docs/method.md, step 7).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

CREDIT = ("token_rewards", "old_logprobs", "weights")


class Segment(NamedTuple):
    """The ids [start, stop) of a row; they continue segment `parent` (-1: start at position 0)."""

    start: int
    stop: int
    parent: int


@dataclass(frozen=True, eq=False)
class Row:
    """Token ids in segments, and the credit of each of n scored tokens.

    Scored token i has the id `targets[i]` and is predicted by the hidden state at `sources[i]`, a
    place in `input_ids`. The token itself need not be in the row. `token_rewards` and
    `old_logprobs` (nats) are for the reinforcement term, `weights` (0 or more) for imitation. An
    old log-probability without a reward is never read.

    `segments` cover the row in order, parents before children; the default is one segment. `tokens`
    is what the row counts for when rows are cut into steps (default: its number of ids).
    `attempt_tokens` is the number of completion tokens of the policy's own attempts that the row
    stands for, with credit or without (default: its scored tokens). The sequences of a `whole` row
    are compared with one another, so it is never split.

    The arrays become int64 or float32 [n]. Raises ValueError with the row's id for arrays of
    unequal length, a source outside the row, segments that are no tree, a reward, weight or needed
    old log-probability that is not finite, and a negative weight.
    """

    id: str
    input_ids: list[int] = field(repr=False)
    sources: np.ndarray = field(repr=False)
    targets: np.ndarray = field(repr=False)
    token_rewards: np.ndarray = field(repr=False)
    old_logprobs: np.ndarray = field(repr=False)
    weights: np.ndarray = field(repr=False)
    segments: tuple[Segment, ...] = ()
    tokens: int = 0
    attempt_tokens: int = -1
    whole: bool = False

    def __post_init__(self) -> None:
        one = (Segment(0, len(self.input_ids), -1),)
        object.__setattr__(self, "segments", tuple(self.segments) or one)
        object.__setattr__(self, "tokens", self.tokens or len(self.input_ids))
        for name, kind in (("sources", np.int64), ("targets", np.int64)):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=kind))  # [n]
        for name in CREDIT:
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float32))  # [n]
        if self.attempt_tokens < 0:
            object.__setattr__(self, "attempt_tokens", self.sources.size)
        self._check_segments()
        self._check_scored_tokens()

    def _check_scored_tokens(self) -> None:
        for name in ("targets", *CREDIT):
            shape = getattr(self, name).shape
            if shape != (self.sources.size,):
                raise ValueError(
                    f"row {self.id!r}: {name} has shape {shape}, {self.sources.size} tokens are "
                    "scored"
                )
        if self.sources.size:
            first = self.sources.min()
            last = self.sources.max()
            if first < 0 or last >= len(self.input_ids):
                raise ValueError(
                    f"row {self.id!r}: sources from {first} to {last} in {len(self.input_ids)} ids"
                )

        # An old log-probability that no reward uses may be anything.
        used = np.where(self.token_rewards != 0, self.old_logprobs, 0.0)  # [n]
        if not np.isfinite([self.token_rewards, self.weights, used]).all():
            raise ValueError(f"row {self.id!r}: a reward, weight or old log-prob is not finite")
        if (self.weights < 0).any():
            raise ValueError(f"row {self.id!r}: a weight is below 0: {self.weights.min()}")

    def _check_segments(self) -> None:
        end = 0  # ids that the segments so far cover
        for at, (start, stop, parent) in enumerate(self.segments):
            if start != end or stop <= start or not -1 <= parent < at:
                raise ValueError(
                    f"row {self.id!r}: segment {at} is [{start}, {stop}) after {end} ids, with "
                    f"parent {parent}"
                )
            end = stop
        if end != len(self.input_ids):
            raise ValueError(
                f"row {self.id!r}: segments end at {end}, there are {len(self.input_ids)} ids"
            )

    @classmethod
    def flat(
        cls,
        id: str,
        input_ids: list[int],
        prompt_length: int,
        token_rewards: np.ndarray,
        old_logprobs: np.ndarray,
        weights: np.ndarray,
    ) -> Row:
        """A prompt and its completion, with every completion token scored.

        Each is predicted by the hidden state of the token before it; this is the only place where
        ids are shifted. Raises ValueError for an empty prompt or completion.
        """
        if not 1 <= prompt_length < len(input_ids):
            raise ValueError(
                f"row {id!r}: {len(input_ids)} ids, {prompt_length} of them prompt: "
                "a prompt token and a completion token are needed"
            )
        sources = np.arange(prompt_length - 1, len(input_ids) - 1)  # [n]
        targets = np.asarray(input_ids[prompt_length:])  # [n]
        return cls(id, input_ids, sources, targets, token_rewards, old_logprobs, weights)

    @classmethod
    def likelihood(cls, id: str, input_ids: list[int], prompt_length: int) -> Row:
        """A row for plain likelihood training: weight 1 and reward 0 on every completion token."""
        count = max(len(input_ids) - prompt_length, 0)
        zeros = np.zeros(count, dtype=np.float32)  # [n]
        ones = np.ones(count, dtype=np.float32)  # [n]
        return cls.flat(id, input_ids, prompt_length, zeros, zeros, ones)

    @property
    def prompt_length(self) -> int:
        """Number of ids up to the first source.

        For a flat row whose whole completion is scored, this is the length of its prompt. Raises
        ValueError if no token is scored.
        """
        return int(self.sources.min()) + 1

    @property
    def is_flat(self) -> bool:
        """Whether it has a single segment."""
        return len(self.segments) == 1

    @cached_property
    def position_ids(self) -> np.ndarray:
        """int64 [T]: the positions of a segment continue those of its parent."""
        ends: list[int] = []  # the position behind each segment
        runs = []
        for start, stop, parent in self.segments:
            first = ends[parent] if parent >= 0 else 0
            ends.append(first + stop - start)
            runs.append(np.arange(first, ends[-1]))
        return np.concatenate(runs)

    @property
    def longest(self) -> int:
        """Number of tokens of its longest sequence, from a root to a leaf."""
        return int(self.position_ids.max()) + 1

    @cached_property
    def segment_ids(self) -> np.ndarray:
        """int64 [T]: the segment of each token."""
        sizes = [stop - start for start, stop, _ in self.segments]
        return np.repeat(np.arange(len(sizes)), sizes)

    @cached_property
    def ancestors(self) -> np.ndarray:
        """bool [S, S]: True at (s, a) where segment a is s itself or an ancestor of s."""
        found = np.eye(len(self.segments), dtype=bool)
        for at, (_, _, parent) in enumerate(self.segments):
            if parent >= 0:
                found[at] |= found[parent]
        return found


class StepSizes(NamedTuple):
    """Counts of an optimizer step that its policy term may be divided by, each at least 1."""

    attempt: float  # completion tokens of attempts, with credit or without
    row: float  # rows with a reward


NO_SIZES = StepSizes(1.0, 1.0)


def step_sizes(rows_of_step: Sequence[Row]) -> StepSizes:
    """The `StepSizes` of all rows of a step, over every micro-batch and rank."""
    attempt = sum(row.attempt_tokens for row in rows_of_step)
    rewarded = sum(bool(row.token_rewards.any()) for row in rows_of_step)
    return StepSizes(float(max(attempt, 1)), float(max(rewarded, 1)))


def rows_digest(rows: Sequence[Row]) -> str:
    """A hash of the token ids of rows, in their order: what they hold and which tokens are scored.

    Their credit is left out. It comes from tables that an artifact's fingerprint covers, or from a
    network, whose numbers may differ in the last bit.
    """
    found = hashlib.sha256()
    for row in rows:
        ids = np.fromiter(row.input_ids, np.int64, len(row.input_ids))  # [T]
        segments = np.asarray(row.segments, dtype=np.int64)  # [S, 3]
        sizes = np.asarray([ids.size, row.sources.size, len(segments)], dtype=np.int64)  # [3]
        for array in (sizes, ids, row.sources, row.targets, segments):
            found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
