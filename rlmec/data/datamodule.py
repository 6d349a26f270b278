"""SolutionPairDataModule: builds erroneous/corrected solution pairs and serves every training.

In: problems, attempts, accepted corrections and raw scores. It joins them into pairs, aligns each
attempt with its correction, applies the reward rule and the edit weights, counts what it drops and
why, and hands out the batches of a deterministic plan. One Lightning epoch is the whole stage; data
epochs live in the plan, and the position travels in the checkpoint, so that a resumed fit goes on
with the next optimizer step.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from rlmec.data.collate import collate, step_normalizers
from rlmec.data.prefix_tree import flat_rows
from rlmec.data.row import Row, step_sizes
from rlmec.data.step_plan import StepPlan, like_lengths
from rlmec.method.alignment import EditScript, edit_script, edit_weights
from rlmec.method.rewards import asked
from rlmec.prompts import Prompts
from rlmec.records import (
    Attempt,
    Correction,
    Pair,
    Problem,
    Score,
    by_id,
    require_same_tokenizer,
)

RewardRule = Callable[..., np.ndarray]

WORKERS_STAY = 30
VAL_TOKENS = 4096
"""Padded tokens of a validation batch where the trainer sets no limit."""


@dataclass(frozen=True)
class PlanSettings:
    """How rows are cut into optimizer steps, micro-batches and ranks (see `batching.StepPlan`)."""

    tokens_per_step: int
    seed: int
    steps: int | None = None
    epochs: float | None = None
    max_length: int = 2048
    max_tokens_per_micro_batch: int | None = None
    accumulate: int | None = None
    num_workers: int = 0


class SolutionPairDataModule(L.LightningDataModule):
    """Joins attempts with corrections and serves the rows that `rows` makes of them.

    `rows` and `val_rows` map this object to training and validation rows. `reward` is a reward rule
    (grm_logprobs, is_right, removed) -> token rewards, which is given `old_logprobs` and
    `first_edit` where it has parameters of these names; without one all rewards are zero. Records
    made with another tokenizer than the prompts' are refused.
    """

    def __init__(
        self,
        prompts: Prompts,
        problems: Sequence[Problem],
        rows: Callable[[Any], list[Row]],
        plan: PlanSettings,
        *,
        val_rows: Callable[[Any], list[Row]] | None = None,
        attempts: Sequence[Attempt] = (),
        corrections: Sequence[Correction] = (),
        scores: Sequence[Score] = (),
        reward: RewardRule | None = None,
        edited_weight: float = 1.0,
        kept_weight: float = 0.5,
        keep_uncorrected: bool = False,
        max_right_per_problem: int | None = None,
    ) -> None:
        super().__init__()
        for record in (*attempts, *corrections, *scores):
            name = f"a table of {type(record).__name__}s"
            require_same_tokenizer(prompts.codec.digest, record.tokenizer, name)
        self.prompts = prompts
        self.problems = by_id(problems)
        self.attempts = list(by_id(attempts).values())
        self.corrections = by_id([c for c in corrections if c.accepted], "attempt_id")
        self.scores = by_id(scores, "attempt_id")
        self.settings = plan
        self.dropped: Counter[str] = Counter()
        self._rows, self._val_rows, self._reward = rows, val_rows, reward
        self._weights = (edited_weight, kept_weight)
        self._keep_uncorrected, self._max_right = keep_uncorrected, max_right_per_problem
        self._pairs: list[Pair] | None = None
        self._val: list[Row] | None = None  # this rank's share of the validation rows
        self.start_logprobs: dict[str, list[float]] = {}  # of corrections, by their attempt's id
        self.shares_prefixes = True  # False: rows that branch are taken apart (see plan_for)
        self.position = 0  # micro-batches handed out on this rank

    @property
    def max_length(self) -> int:
        """Tokens that the rows of several pairs may have together, and a sequence at most."""
        return self.settings.max_length

    @property
    def max_tokens(self) -> int | None:
        """Tokens that a row may have, all its branches together."""
        return self.settings.max_tokens_per_micro_batch

    @property
    def pairs(self) -> list[Pair]:
        """Every attempt that has a target, with its tokens' credit, in the attempts' order."""
        if self._pairs is None:
            right_seen: Counter[str] = Counter()
            found = (self._pair(attempt, right_seen) for attempt in self.attempts)
            self._pairs = [pair for pair in found if pair is not None]
        return self._pairs

    def _pair(self, attempt: Attempt, right_seen: Counter[str]) -> Pair | None:
        if attempt.problem_id not in self.problems:
            raise ValueError(f"attempt {attempt.id!r}: no problem {attempt.problem_id!r}")
        if attempt.is_right:
            right_seen[attempt.problem_id] += 1
            if self._max_right is not None and right_seen[attempt.problem_id] > self._max_right:
                self.dropped["right_beyond_cap"] += 1
                return None
        elif not attempt.is_wrong:
            self.dropped["undecided"] += 1
            return None
        correction = self.corrections.get(attempt.id)
        if not attempt.is_right and correction is None and not self._keep_uncorrected:
            self.dropped["uncorrected"] += 1
            return None
        if attempt.is_right:
            target = attempt.completion_ids
        else:
            target = correction.completion_ids if correction else []
        script = edit_script(attempt.completion_ids, target or attempt.completion_ids)
        rewards, old = self._credit(attempt, script)
        edited, kept = self._weights
        weights = edit_weights(script, edited_weight=edited, kept_weight=kept)
        if attempt.is_right:  # the authors weigh a right attempt's own tokens as kept ones
            weights = np.full(len(target), kept, dtype=np.float32)
        return Pair(
            attempt,
            target,
            old_logprobs=old,
            token_rewards=rewards,
            edit_weights=weights if target else weights[:0],
            corrected_by=correction.source if correction else "",
        )

    def _credit(self, attempt: Attempt, script: EditScript) -> tuple[np.ndarray, np.ndarray]:
        """Token rewards and old log-probs of an attempt, both float32 [n]."""
        zeros = np.zeros(len(attempt.completion_ids), dtype=np.float32)  # [n]
        if self._reward is None:
            return zeros, zeros
        score = self.scores.get(attempt.id)
        if score is None:
            raise ValueError(f"attempt {attempt.id!r}: it has no score")
        if len(score.grm_logprobs) != len(zeros):
            raise ValueError(
                f"attempt {attempt.id!r} has {len(zeros)} tokens, "
                f"its score {len(score.grm_logprobs)}"
            )
        grm = np.asarray(score.grm_logprobs, dtype=np.float32)  # [n]
        old = np.asarray(score.old_logprobs, dtype=np.float32)  # [n]
        more = asked(self._reward, old_logprobs=old, first_edit=script.first_edit)
        return self._reward(grm, attempt.is_right, script.removed, **more), old

    def plan_for(self, world_size: int, rank: int) -> StepPlan:
        """Builds rows and plan for this many ranks; rows over `max_length` are dropped, counted.

        Of a row that branches the longest sequence counts there. Where `shares_prefixes` is False
        such rows are taken apart. Raises ValueError where no row is left.
        """
        s = self.settings
        rows = self._whole(self._rows(self))
        self.rows = [row for row in rows if row.longest <= s.max_length]
        self.dropped["longer_than_max_length"] = len(rows) - len(self.rows)
        if not self.rows:
            raise ValueError(f"no row to train on (dropped: {dict(self.dropped)})")
        self.plan = StepPlan(
            [len(row.input_ids) for row in self.rows],
            s.tokens_per_step,
            steps=s.steps,
            epochs=s.epochs,
            seed=s.seed,
            world_size=world_size,
            max_tokens_per_micro_batch=s.max_tokens_per_micro_batch,
            accumulate=s.accumulate,
            counts=[row.tokens for row in self.rows],
        )
        self.rank, self._val = rank, None
        return self.plan

    def train_dataloader(self) -> PlanLoader:
        batches = PlannedBatches(self.rows, self.plan, self.rank, self.prompts.codec.pad_id)
        self.loader = PlanLoader(batches, self.position, self.settings.num_workers)
        return self.loader

    def val_dataloader(self) -> list[dict[str, torch.Tensor]]:
        """Batches of this rank's share of the validation rows (none without `val_rows`)."""
        if self._val is None:
            rows = self._whole(self._val_rows(self) if self._val_rows else [])
            rows = [row for row in rows if row.longest <= self.settings.max_length]
            rows.sort(key=lambda row: -len(row.input_ids))
            self._val = rows[self.rank :: self.plan.world_size]
        return self._batches(self._val)

    def watched_batches(self, count: int) -> list[dict[str, torch.Tensor]]:
        """Batches of this rank's share of `count` training rows, the same ones at every call,
        spread evenly over the rows."""
        some = self.rows[:: max(1, len(self.rows) // max(count, 1))][:count]
        return self._batches(some[self.rank :: self.plan.world_size])

    def _batches(self, rows: list[Row]) -> list[dict[str, torch.Tensor]]:
        lengths = [len(row.input_ids) for row in rows]
        limit = self.max_tokens or VAL_TOKENS
        pad = self.prompts.codec.pad_id
        return [
            collate([rows[i] for i in group], pad, 1.0, 1.0)
            for group in like_lengths(lengths, limit)
        ]

    def _whole(self, rows: list[Row]) -> list[Row]:
        """The rows, those that branch taken apart where the network cannot attend along them."""
        if self.shares_prefixes:
            return rows
        return [flat for row in rows for flat in flat_rows(row)]

    def place(self, step: int) -> str:
        """Where an optimizer step stands in the plan, in words, with the row that comes next."""
        plan = self.plan
        if step >= plan.steps:
            return f"of {plan.steps}, the last"
        done = sum(len(plan.rows(s)) for s in range(step))
        return f"of {plan.steps}, after {done} rows, with {self.rows[plan.rows(step)[0]].id} next"

    def has_plan_of(self, checkpoint: dict[str, Any]) -> bool:
        """Whether a checkpoint was written with this plan: these rows, ranks and micro-batches."""
        return checkpoint[type(self).__qualname__]["plan"] == self.plan.digest

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.loader.position, "plan": self.plan.digest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["plan"] != self.plan.digest:
            raise ValueError(
                "the checkpoint was written with other rows, another number of ranks or another "
                "accumulation; go on with the same ones, with resume=weights (no longer bit for "
                "bit), or start anew with resume=never"
            )
        self.position = int(state_dict["position"])


class PlannedBatches(Dataset):
    """Micro-batches of one rank in the order of the plan; item i is of step i // accumulate."""

    def __init__(self, rows: Sequence[Row], plan: StepPlan, rank: int, pad_id: int) -> None:
        self.rows, self.plan, self.rank, self.pad_id = rows, plan, rank, pad_id
        self._counted: tuple[int, Any] = (-1, None)  # the last step asked for, what it divides by

    def __len__(self) -> int:
        return self.plan.steps * self.plan.accumulate

    def __getitem__(self, at: int) -> dict[str, torch.Tensor]:
        step, index = divmod(at, self.plan.accumulate)
        if self._counted[0] != step:
            rows = [self.rows[i] for i in self.plan.rows(step)]
            self._counted = (step, (step_normalizers(rows), step_sizes(rows)))
        (policy, imitation), sizes = self._counted[1]
        mine = [self.rows[i] for i in self.plan.micro_batch(step, self.rank, index)]
        return collate(mine, self.pad_id, policy, imitation, step, sizes)


def _outlive_signals(worker: int) -> None:
    """In a worker: a signal to all processes of a job is for the main one, which still wants the
    batches of its step. SIGTERM, by which a worker that hangs is ended too, ends it WORKERS_STAY
    seconds later."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(WORKERS_STAY))


class PlanLoader(DataLoader):
    """Hands out the plan's batches from a position on; its length is that of the whole stage.

    The position is counted in the main process where a batch is handed out, so that batches which
    workers have made ahead do not count.
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
