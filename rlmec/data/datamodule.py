"""SolutionPairDataModule: builds erroneous/corrected solution pairs and serves both trainings.

In: problems, attempts, accepted corrections and raw scores. It joins them into pairs
(`data.pairs`), writes the training rows of the pairs to a temporary file (`data.row_file`), and
hands out the batches of a deterministic plan, whose rows are read when a batch is made. One
Lightning epoch is the whole stage. Data epochs are in the plan, and the position travels in the
checkpoint, so that a resumed fit continues with the next optimizer step.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from rlmec.data.collate import collate, step_normalizers
from rlmec.data.pairs import PairTable, RewardRule, check_records, join_pairs
from rlmec.data.prefix_tree import flat_rows
from rlmec.data.row import Row, step_sizes
from rlmec.data.row_file import RowFile
from rlmec.data.step_plan import StepPlan, like_lengths
from rlmec.on_demand import Made
from rlmec.prompts import Prompts
from rlmec.records import Attempt, Correction, Pair, Problem, Score, by_id

WORKERS_STAY = 30
"""Seconds for which a loader worker outlives the signal that asks it to end."""

VAL_TOKENS = 4096
"""Padded tokens of a validation batch if the trainer sets no limit."""


class NothingToTrain(ValueError):
    """No pair gives a row, whatever its length."""


@dataclass(frozen=True)
class PlanSettings:
    """How rows are cut into optimizer steps, micro-batches and ranks (see `data.step_plan`)."""

    tokens_per_step: int
    seed: int
    steps: int | None = None
    epochs: float | None = None
    max_length: int = 2048
    max_tokens_per_micro_batch: int | None = None
    accumulate: int | None = None
    num_workers: int = 0


class SolutionPairDataModule(L.LightningDataModule):
    """Joins attempts with corrections and serves the rows that `rows` builds from them.

    `rows` and `val_rows` are functions of this object: they read `pairs`, `problems`, `prompts`,
    `start_logprobs`, `draws`, `solve` and the two limits, count with `leave_out` the attempts that
    have no row, and return or yield rows. `edited_weight`, `kept_weight`, `keep_uncorrected`,
    `max_right_per_problem`, `imitate_corrections`, `reward` and `dropped` are those of
    `data.pairs.join_pairs`. Attempts, corrections and scores may be lists, or
    `store.tables.TableRecords`, of which only a few are in memory. `draws` says how often an
    attempt was drawn, by its id (default: once). `solve` writes the teacher's own solution of a
    problem. `scratch` is the folder of the temporary file (default: the system's). Records that
    were made with another tokenizer than the prompts' are refused with a ValueError.
    """

    def __init__(
        self,
        prompts: Prompts,
        problems: Sequence[Problem],
        rows: Callable[[Any], Iterable[Row]],
        plan: PlanSettings,
        *,
        val_rows: Callable[[Any], Iterable[Row]] | None = None,
        attempts: Sequence[Attempt] = (),
        corrections: Sequence[Correction] = (),
        scores: Sequence[Score] = (),
        reward: RewardRule | None = None,
        edited_weight: float = 1.0,
        kept_weight: float = 0.5,
        keep_uncorrected: bool = False,
        max_right_per_problem: int | None = None,
        imitate_corrections: bool = True,
        dropped: Mapping[str, int] | None = None,
        draws: Mapping[str, int] | None = None,
        solve: Callable[[Problem], str | None] | None = None,
        scratch: Path | None = None,
    ) -> None:
        super().__init__()
        check_records(prompts.codec.digest, attempts, corrections, scores)
        self.prompts = prompts
        self.problems = by_id(problems)
        self.settings = plan
        self.draws = draws or {}
        self.solve = solve
        self.start_logprobs: Mapping[str, list[float]] = {}
        self.position = 0  # micro-batches handed out on this rank
        self._rows = rows
        self._val_rows = val_rows
        self._records = (problems, attempts, corrections, scores)
        self._joining = {
            "tokenizer": prompts.codec.digest,
            "reward": reward,
            "edited_weight": edited_weight,
            "kept_weight": kept_weight,
            "keep_uncorrected": keep_uncorrected,
            "max_right_per_problem": max_right_per_problem,
            "imitate_corrections": imitate_corrections,
            "dropped": dropped,
        }
        self._share_prefixes = True
        self._dropped_rows: Counter[str] = Counter()
        self._scratch = scratch
        self._val: RowFile | None = None  # this rank's share of the validation rows

    @cached_property
    def table(self) -> PairTable:
        """The joined pairs, with what was dropped; joined when first asked for."""
        return join_pairs(*self._records, **self._joining)

    @property
    def records(
        self,
    ) -> tuple[Sequence[Problem], Sequence[Attempt], Sequence[Correction], Sequence[Score]]:
        """What the pairs are joined from: problems, attempts, corrections and scores."""
        return self._records

    @property
    def pairs(self) -> Sequence[Pair]:
        """Every attempt that has a target, with its tokens' credit, in the attempts' order.

        A pair is made each time when it is asked for.
        """
        return self.table.pairs

    @property
    def dropped(self) -> Counter[str]:
        """How many attempts and rows were left out, by reason; attempts once they are joined."""
        found = Counter(self.table.dropped) if "table" in vars(self) else Counter[str]()
        found.update(self._dropped_rows)
        return found

    def leave_out(self, reason: str, count: int) -> None:
        """Adds to `dropped`; a row function calls it for attempts that it makes no row of."""
        self._dropped_rows[reason] += count

    @property
    def max_length(self) -> int:
        """Most tokens of one sequence, and of a row that holds several pairs."""
        return self.settings.max_length

    @property
    def max_tokens(self) -> int | None:
        """Most tokens of one row with all its branches; None without a limit."""
        return self.settings.max_tokens_per_micro_batch

    def plan_for(
        self,
        world_size: int,
        rank: int,
        *,
        share_prefixes: bool = True,
        start_logprobs: Mapping[str, list[float]] | None = None,
    ) -> StepPlan:
        """Builds rows and plan for this many ranks.

        Rows whose longest sequence is over `max_length` are dropped and counted. Without
        `share_prefixes`, for a network that cannot attend along branches, rows that branch are
        taken apart. `start_logprobs` are the log-probs (nats) of corrections under the policy's
        start, by the attempt's id, for row functions that compare with them. Raises ValueError if
        no row is left, NothingToTrain if there was none.
        """
        self._share_prefixes = share_prefixes
        self.start_logprobs = start_logprobs or {}
        self._dropped_rows.clear()
        self.rows, too_long = self._filed(self._rows(self))
        self._dropped_rows["longer_than_max_length"] = too_long
        if not self.rows:
            message = f"no row to train on (dropped: {dict(self.dropped)})"
            raise ValueError(message) if too_long else NothingToTrain(message)

        s = self.settings
        self.plan = StepPlan(
            self.rows.lengths,
            s.tokens_per_step,
            steps=s.steps,
            epochs=s.epochs,
            seed=s.seed,
            world_size=world_size,
            max_tokens_per_micro_batch=s.max_tokens_per_micro_batch,
            accumulate=s.accumulate,
            counts=self.rows.tokens,
        )
        self._rows_digest = self.rows.digest
        self.rank = rank
        self._val = None
        return self.plan

    def train_dataloader(self) -> PlanLoader:
        batches = PlannedBatches(self.rows, self.plan, self.rank, self.prompts.codec.pad_id)
        self.loader = PlanLoader(batches, self.position, self.settings.num_workers)
        return self.loader

    def val_dataloader(self) -> Sequence[dict[str, torch.Tensor]]:
        """Batches of this rank's share of the validation rows; none without `val_rows`."""
        if self._val is None:
            rows, _ = self._filed(self._val_rows(self) if self._val_rows else ())
            longest_first = np.argsort(-rows.lengths, kind="stable")
            self._val = rows.chosen(longest_first[self.rank :: self.plan.world_size])
        return self._batches(self._val)

    def watched_batches(self, count: int) -> Sequence[dict[str, torch.Tensor]]:
        """Batches of this rank's share of `count` training rows, spread evenly over the rows and
        the same at every call."""
        some = range(0, len(self.rows), max(1, len(self.rows) // max(count, 1)))[:count]
        return self._batches(self.rows.chosen(some[self.rank :: self.plan.world_size]))

    def _batches(self, rows: RowFile) -> Made[dict[str, torch.Tensor]]:
        """Batches that stand outside the plan, each collated when it is read."""
        groups = like_lengths(rows.lengths.tolist(), self.max_tokens or VAL_TOKENS)
        pad_id = self.prompts.codec.pad_id

        def batch(number: int) -> dict[str, torch.Tensor]:
            return collate([rows[i] for i in groups[number]], pad_id, 1.0, 1.0)

        return Made(len(groups), batch)

    def filed(self, rows: Iterable[Row]) -> RowFile:
        """Rows, written to a temporary file."""
        return RowFile(rows, self._scratch)

    def _filed(self, rows: Iterable[Row]) -> tuple[RowFile, int]:
        """The rows of at most `max_length` tokens in a file, and how many others there are.

        Rows that branch are taken apart if the network cannot attend along them.
        """
        if not self._share_prefixes:
            rows = (flat for row in rows for flat in flat_rows(row))
        if isinstance(rows, RowFile):  # they are written already
            kept = rows.chosen(np.flatnonzero(rows.longest <= self.max_length))
            return kept, len(rows) - len(kept)

        too_long = 0

        def kept_rows() -> Iterator[Row]:
            nonlocal too_long
            for row in rows:
                if row.longest <= self.max_length:
                    yield row
                else:
                    too_long += 1

        filed = self.filed(kept_rows())
        return filed, too_long

    def place(self, step: int) -> str:
        """Where an optimizer step is in the plan, in words, with the id of the row that is next."""
        plan = self.plan
        if step >= plan.steps:
            return f"of {plan.steps}, the last"
        done = sum(len(plan.rows(s)) for s in range(step))
        return f"of {plan.steps}, after {done} rows, with {self.rows[plan.rows(step)[0]].id} next"

    def has_plan_of(self, checkpoint: dict[str, Any]) -> bool:
        """Whether a checkpoint was written with this plan: these rows, ranks and micro-batches."""
        state = checkpoint[type(self).__qualname__]
        return state | self.state_at(state["position"]) == state

    def state_at(self, position: int) -> dict[str, Any]:
        """The state to save after so many micro-batches, with the digests of plan and rows."""
        return {"position": position, "plan": self.plan.digest, "rows": self._rows_digest}

    def state_dict(self) -> dict[str, Any]:
        return self.state_at(self.loader.position)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        advice = (
            "continue with the same ones, with resume=weights (no longer bit for bit), or start "
            "again with resume=never"
        )
        if state_dict["plan"] != self.plan.digest:
            raise ValueError(
                "the checkpoint was written with other rows, another number of ranks or another "
                f"accumulation; {advice}"
            )
        if state_dict.get("rows") != self._rows_digest:
            raise ValueError(
                f"the checkpoint was written with other token ids in its {len(self.rows)} rows, "
                f"such as those of another prompt or another tokenizer; {advice}"
            )
        self.position = int(state_dict["position"])


class PlannedBatches(Dataset):
    """Micro-batches of one rank in the plan's order; item i belongs to step i // accumulate."""

    def __init__(self, rows: Sequence[Row], plan: StepPlan, rank: int, pad_id: int) -> None:
        self.rows = rows
        self.plan = plan
        self.rank = rank
        self.pad_id = pad_id
        # A step's normalizers count all its micro-batches, so they are kept, with the step's rows,
        # for the last step asked.
        self._step = -1
        self._rows_of_step: dict[int, Row] = {}
        self._counted: Any = None

    def __len__(self) -> int:
        return self.plan.steps * self.plan.accumulate

    def __getitem__(self, at: int) -> dict[str, torch.Tensor]:
        step, index = divmod(at, self.plan.accumulate)
        if self._step != step:
            numbers = self.plan.rows(step)
            self._rows_of_step = {i: self.rows[i] for i in numbers}
            rows = [self._rows_of_step[i] for i in numbers]
            self._counted = (step_normalizers(rows), step_sizes(rows))
            self._step = step
        (policy, imitation), sizes = self._counted
        mine = [self._rows_of_step[i] for i in self.plan.micro_batch(step, self.rank, index)]
        return collate(mine, self.pad_id, policy, imitation, step, sizes)


def _outlive_signals(worker: int) -> None:
    """Lets a loader worker ignore signals that are sent to all processes of a job.

    The main process acts on them, and it still needs the batches of its current step. SIGTERM,
    which also ends a worker that hangs, ends the worker WORKERS_STAY seconds later.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(WORKERS_STAY))


class PlanLoader(DataLoader):
    """Hands out the plan's batches from a position on; its length is that of the whole stage.

    The position is counted in the main process as a batch is handed out, so that batches which
    workers have prepared ahead do not count.
    """

    def __init__(self, batches: PlannedBatches, position: int, num_workers: int) -> None:
        super().__init__(
            batches,
            batch_size=None,
            sampler=range(position, len(batches)),
            num_workers=num_workers,
            worker_init_fn=_outlive_signals,
            generator=torch.Generator().manual_seed(0),
        )
        self.position = position
        self._total = len(batches)

    def __len__(self) -> int:
        return self._total

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        batches = super().__iter__()

        def counted() -> Iterator[dict[str, torch.Tensor]]:
            for batch in batches:
                self.position += 1
                yield batch

        return counted()
