"""The plan that cuts rows into optimizer steps, micro-batches and ranks.

In: the lengths of rows. Out: a deterministic plan, whose entries are row numbers. No text, no
model, no disk.

Departs from the paper: a step is a number of tokens, not of sequences. The rows of a step do not
depend on the number of ranks or micro-batches, so neither does its loss.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np

MOST_EXTRA = 3
PASS_SHARE = 1 / 8
"""A rank gets up to MOST_EXTRA more micro-batches per step where that saves more padding than it
costs: a forward and backward pass counts as PASS_SHARE of the limit in tokens, for the weights that
it casts and the gradients that it adds up, whatever it has of tokens (docs/speed.md)."""


def like_lengths(
    lengths: Sequence[int], limit: int, most_padding: float = 1.0, least: int = 0
) -> list[list[int]]:
    """Row numbers by falling length, in runs of at most `limit` padded tokens.

    A single row over the limit is a run of its own. A run of at least `least` padded tokens takes
    no further row that would make its share of padding exceed `most_padding`.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    groups: list[list[int]] = []
    longest = 0  # row of the last run, in tokens
    padded = 0  # tokens of the last run with padding
    real = 0  # and without

    for i in order:
        more = padded + longest
        too_empty = real + lengths[i] < (1 - most_padding) * more and padded >= least
        if not groups or more > limit or too_empty:
            groups.append([])
            longest = lengths[i]
            padded = 0
            real = 0

        groups[-1].append(i)
        padded += longest
        real += lengths[i]
    return groups


class StepPlan:
    """The rows of each step, rank and micro-batch: a pure function of the arguments.

    The epochs are permutations of all rows, epoch e drawn from (seed, e), one after the other. A
    step is the next run of this stream whose tokens reach `tokens_per_step`; the last step may have
    fewer where `epochs` ends the stream. A row counts there for its entry in `counts`, by default
    its length.

    Within a step, the rows are sorted by length and cut into at most world_size * accumulate runs
    of about equal padded size. The runs go to the ranks by falling size. Every step has
    `accumulate` micro-batches on every rank, some of which may be empty.

    Arguments: `lengths` of all rows in tokens; exactly one of `steps` and `epochs` (a fraction is
    allowed); `max_tokens_per_micro_batch`, the limit of rows * longest row. The default of
    `accumulate` is the smallest number that keeps to this limit in every step, or up to MOST_EXTRA
    more where less padding outweighs the passes (PASS_SHARE); without a limit it is 1. Raises
    ValueError if there is nothing to plan, a row is over the limit, or the given `accumulate` is
    too small for it.
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        tokens_per_step: int,
        *,
        steps: int | None = None,
        epochs: float | None = None,
        seed: int = 0,
        world_size: int = 1,
        max_tokens_per_micro_batch: int | None = None,
        accumulate: int | None = None,
        counts: Sequence[int] | np.ndarray | None = None,
    ) -> None:
        self._lengths = np.asarray(lengths, dtype=np.int64)  # [rows]
        self._counts = self._lengths if counts is None else np.asarray(counts, dtype=np.int64)
        self._check(tokens_per_step, steps, epochs, world_size, accumulate)

        self._stream, self._bounds = self._cut(tokens_per_step, steps, epochs, seed)
        self.steps = len(self._bounds) - 1
        self.world_size = world_size
        needed = self._groups_needed(max_tokens_per_micro_batch, accumulate)
        if max_tokens_per_micro_batch is None or accumulate is not None:
            self.accumulate = needed
        else:
            self.accumulate = self._cheapest(needed, max_tokens_per_micro_batch * PASS_SHARE)

        self.digest = self._digest()
        self._dealt: tuple[int, list[list[list[int]]]] = (-1, [])  # the last step that was dealt

    def rows(self, step: int) -> list[int]:
        """Row numbers of an optimizer step over all ranks, in the order of the stream."""
        return self._rows(step).tolist()

    def micro_batch(self, step: int, rank: int, index: int) -> list[int]:
        """Row numbers of one micro-batch, longest first; empty if the step has fewer batches."""
        if not (0 <= rank < self.world_size and 0 <= index < self.accumulate):
            raise IndexError(
                f"rank {rank} of {self.world_size}, micro-batch {index} of {self.accumulate}"
            )
        if self._dealt[0] != step:
            self._dealt = (step, self._deal(step))
        return self._dealt[1][rank][index]

    def epoch_at(self, step: int) -> float:
        """Number of epochs before `step`; with `self.steps`, that of the whole plan."""
        return float(self._bounds[step] / len(self._lengths))

    def padding_share(self) -> float:
        """Share of padding in the processed tokens, over at most 64 evenly spread steps."""
        return self._padding_share(self.accumulate, 64)

    def _padding_share(self, accumulate: int, sample: int) -> float:
        """The share over at most `sample` evenly spread steps, each in so many micro-batches."""
        real = 0
        padded = 0
        steps = np.unique(np.linspace(0, self.steps - 1, min(sample, self.steps)).astype(int))
        for step in steps:
            for group in self._groups(int(step), accumulate):
                sizes = self._lengths[group]  # [rows of the group], longest first
                real += int(sizes.sum())
                padded += len(group) * int(sizes[0])
        return 1.0 - real / padded

    def _check(
        self,
        tokens_per_step: int,
        steps: int | None,
        epochs: float | None,
        world_size: int,
        accumulate: int | None,
    ) -> None:
        if (steps is None) == (epochs is None):
            raise ValueError(f"steps is {steps} and epochs is {epochs}: set exactly one of them")
        if self._lengths.ndim != 1 or not len(self._lengths) or self._lengths.min() < 1:
            raise ValueError(
                f"{len(self._lengths)} rows to plan: there must be one, and none without a token"
            )
        if self._counts.shape != self._lengths.shape or self._counts.min() < 1:
            raise ValueError(
                f"{len(self._counts)} counts of {len(self._lengths)} rows: each row needs one, "
                "and none may be below 1"
            )

        amounts = {
            "tokens_per_step": tokens_per_step,
            "steps": 1 if steps is None else steps,
            "world_size": world_size,
            "accumulate": 1 if accumulate is None else accumulate,
        }
        for name, amount in amounts.items():
            if amount < 1:
                raise ValueError(f"{name} is {amount}: it must be at least 1")
        if epochs is not None and epochs <= 0:
            raise ValueError(f"epochs is {epochs}: it must be above 0")

    def _cut(
        self, tokens_per_step: int, steps: int | None, epochs: float | None, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The stream of row numbers and its cuts: step s is stream[bounds[s]:bounds[s + 1]]."""
        count = len(self._lengths)
        if steps is None:
            wanted = int(np.ceil(count * (epochs or 0.0)))
            repeats = -(-wanted // count)
        else:
            # A step takes fewer tokens than tokens_per_step + the largest count.
            enough = steps * (tokens_per_step + int(self._counts.max()))
            repeats = -(-enough // int(self._counts.sum()))
            wanted = repeats * count

        stream = np.concatenate(
            [np.random.default_rng((seed, e)).permutation(count) for e in range(repeats)]
        )[:wanted].astype(np.int32)  # [wanted]

        tokens = np.concatenate([[0], np.cumsum(self._counts[stream])])  # [wanted + 1]
        bounds = [0]
        while bounds[-1] < wanted and (steps is None or len(bounds) <= steps):
            goal = tokens[bounds[-1]] + tokens_per_step
            bounds.append(min(int(np.searchsorted(tokens, goal)), wanted))
        return stream[: bounds[-1]].copy(), np.asarray(bounds, dtype=np.int64)

    def _rows(self, step: int) -> np.ndarray:
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of a plan with {self.steps}")
        return self._stream[self._bounds[step] : self._bounds[step + 1]]

    def _sorted(self, step: int) -> np.ndarray:
        rows = self._rows(step)
        return rows[np.argsort(-self._lengths[rows], kind="stable")]

    def _groups_needed(self, limit: int | None, accumulate: int | None) -> int:
        """Micro-batches per rank and step: the given number, or the fewest within the limit."""
        if limit is None:
            return accumulate or 1

        longest = int(self._lengths[self._stream].max())
        if longest > limit:
            row = int(self._stream[np.argmax(self._lengths[self._stream])])
            raise ValueError(
                f"row {row} has {longest} tokens, max_tokens_per_micro_batch is {limit}"
            )

        most = max(
            len(_cuts(self._lengths[self._sorted(step)], limit)) for step in range(self.steps)
        )
        needed = -(-most // self.world_size)
        if accumulate is not None and accumulate < needed:
            raise ValueError(
                f"accumulate is {accumulate}, but {needed} micro-batches per rank are needed to "
                f"stay within {limit} tokens"
            )
        return accumulate or needed

    def _cheapest(self, needed: int, pass_tokens: float) -> int:
        """Micro-batches per rank that cost least: their padded tokens, and `pass_tokens` each."""
        tokens = int(self._lengths[self._stream].sum()) / self.steps / self.world_size

        def cost(count: int) -> float:
            return tokens / (1 - self._padding_share(count, 16)) + count * pass_tokens

        return min(range(needed, needed + MOST_EXTRA + 1), key=cost)

    def _groups(self, step: int, accumulate: int) -> list[np.ndarray]:
        """The step's rows in runs of similar length, the largest padded size as small as possible.

        The number of runs falls as the allowed size grows, so a binary search finds the size.
        """
        rows = self._sorted(step)
        sizes = self._lengths[rows]  # [rows of the step], falling
        slots = self.world_size * accumulate
        low = int(sizes[0])
        high = int(sizes[0]) * len(sizes)
        while low < high:
            middle = (low + high) // 2
            if len(_cuts(sizes, middle)) <= slots:
                high = middle
            else:
                low = middle + 1
        starts = _cuts(sizes, low)
        return [rows[a:b] for a, b in zip(starts, [*starts[1:], len(rows)], strict=True)]

    def _deal(self, step: int) -> list[list[list[int]]]:
        """The micro-batches of each rank: the largest first, to the rank with the least work."""
        costs = [
            (len(g) * int(self._lengths[g[0]]), g) for g in self._groups(step, self.accumulate)
        ]
        batches: list[list[list[int]]] = [[] for _ in range(self.world_size)]
        work = [0] * self.world_size
        for cost, group in sorted(costs, key=lambda pair: -pair[0]):
            open_ranks = [r for r in range(self.world_size) if len(batches[r]) < self.accumulate]
            rank = min(open_ranks, key=lambda r: (work[r], r))
            batches[rank].append(group.tolist())
            work[rank] += cost
        # Every rank takes part in every forward pass, so that all have as many micro-batches.
        return [own + [[]] * (self.accumulate - len(own)) for own in batches]

    def _digest(self) -> str:
        shape = json.dumps([self.world_size, self.accumulate, self.steps])
        found = hashlib.sha256(shape.encode())
        for array in (self._lengths, self._stream, self._bounds):
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()


def _cuts(sizes: np.ndarray, capacity: int) -> list[int]:
    """Starts of the fewest runs of falling `sizes` with rows * longest <= capacity.

    A single row above the capacity is a run of its own.
    """
    starts = []
    at = 0
    while at < len(sizes):
        starts.append(at)
        at += max(capacity // int(sizes[at]), 1)
    return starts
