"""One training row: token ids, and the tokens that are scored in it with their credit.

In: token ids and credit. Out: `Row`, checked, with the positions and ancestors of its segments. A
flat row is one segment. A tree has several segments, for several sequences whose common beginnings
are stored once. The row states which hidden state predicts which token (`sources`, `targets`), so
nothing downstream shifts ids. Pure: no padding, no model, no disk.

Departs from the paper: an attempt and its correction are one row (docs/method.md, step 7).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

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

    `input_ids` become int64 [T], the other arrays int64 or float32 [n]. Raises ValueError with the
    row's id for arrays of unequal length, a source outside the row, segments that are no tree, a
    reward, weight or needed old log-probability that is not finite, and a negative weight.
    """

    id: str
    input_ids: np.ndarray = field(repr=False)
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
        fields: dict[str, Any] = vars(self)  # a frozen dataclass sets no attribute
        for name in ("input_ids", "sources", "targets"):
            fields[name] = np.asarray(fields[name], dtype=np.int64)  # [T], [n], [n]
        for name in CREDIT:
            fields[name] = np.asarray(fields[name], dtype=np.float32)  # [n]
        length = len(self.input_ids)
        fields["segments"] = tuple(self.segments) or (Segment(0, length, -1),)
        fields["tokens"] = self.tokens or length
        if self.attempt_tokens < 0:
            fields["attempt_tokens"] = self.sources.size
        self._check_segments()
        self._check_scored_tokens()

    @classmethod
    def derived(cls, **fields: Any) -> Row:
        """A row made of the arrays of checked rows; all fields are given, and none is checked."""
        row = object.__new__(cls)
        vars(row).update(fields)
        return row

    def _check_scored_tokens(self) -> None:
        shape = (self.sources.size,)
        for name in ("targets", *CREDIT):
            if vars(self)[name].shape != shape:
                raise ValueError(
                    f"row {self.id!r}: {name} has shape {vars(self)[name].shape}, "
                    f"{self.sources.size} tokens are scored"
                )
        if self.sources.size:
            first = self.sources.min()
            last = self.sources.max()
            if first < 0 or last >= len(self.input_ids):
                raise ValueError(
                    f"row {self.id!r}: sources from {first} to {last} in {len(self.input_ids)} ids"
                )
        self._check_finite()
        if (self.weights < 0).any():
            raise ValueError(f"row {self.id!r}: a weight is below 0: {self.weights.min()}")

    def _check_finite(self) -> None:
        # A value that is not finite makes these products not finite. They take a fifth of the time
        # of the exact test, which follows only if they are not: they may also overflow.
        rewards = self.token_rewards
        with np.errstate(invalid="ignore", over="ignore"):  # 0 times an infinite log-probability
            squares = float(rewards.dot(rewards)) + float(self.weights.dot(self.weights))
            product = float(rewards.dot(self.old_logprobs))
        if math.isfinite(squares + product):
            return

        # An old log-probability that no reward uses may be anything.
        used = np.where(rewards != 0, self.old_logprobs, 0.0)  # [n]
        if not np.isfinite([rewards, self.weights, used]).all():
            raise ValueError(f"row {self.id!r}: a reward, weight or old log-prob is not finite")

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
        input_ids: Sequence[int] | np.ndarray,
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
        ids = np.asarray(input_ids, dtype=np.int64)  # [T]
        sources = np.arange(prompt_length - 1, len(ids) - 1)  # [n]
        targets = ids[prompt_length:]  # [n]
        return cls(id, ids, sources, targets, token_rewards, old_logprobs, weights)

    @classmethod
    def likelihood(cls, id: str, input_ids: Sequence[int] | np.ndarray, prompt_length: int) -> Row:
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
        sizes = [stop - start for start, stop, _ in self.segments]
        runs = [np.arange(end - size, end) for end, size in zip(self._ends, sizes, strict=True)]
        return np.concatenate(runs)

    @property
    def longest(self) -> int:
        """Number of tokens of its longest sequence, from a root to a leaf."""
        return max(self._ends)

    @property
    def _ends(self) -> list[int]:
        """The position behind each segment."""
        ends: list[int] = []
        for start, stop, parent in self.segments:
            first = ends[parent] if parent >= 0 else 0
            ends.append(first + stop - start)
        return ends

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


def row_integers(row: Row) -> np.ndarray:
    """What a row holds and which of its tokens are scored, without its credit; int64.

    These are the numbers of ids, of scored tokens and of segments, then the ids, the sources, the
    targets and the segments.
    """
    sizes = [row.input_ids.size, row.sources.size, len(row.segments)]
    segments = [number for segment in row.segments for number in segment]
    return np.concatenate([sizes, row.input_ids, row.sources, row.targets, segments])


def rows_digest(rows: Iterable[Row]) -> str:
    """A hash of the token ids of rows, in their order: what they hold and which tokens are scored.

    Their credit is left out. It comes from tables that an artifact's fingerprint covers, or from a
    network, whose numbers may differ in the last bit.
    """
    return integers_digest(map(row_integers, rows))


def integers_digest(integers: Iterable[np.ndarray]) -> str:
    """`rows_digest` from the `row_integers` of each row."""
    found = hashlib.sha256()
    for numbers in integers:
        found.update(numbers.data)
    return found.hexdigest()
