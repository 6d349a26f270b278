"""Pairs as training batches, with this project's own rows, plan, and padding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch

from rlmec.data.datamodule import PlanSettings, SolutionPairDataModule
from rlmec.data.policy_rows import pair_rows
from rlmec.data.row import Row
from rlmec.method.objectives import rlmec_clipped
from rlmec.records import Pair
from rlmec.training.module import Objective, normalized
from rlmec.training.policy_module import PolicyModule

PAD = 0
LONGEST = 4096


def stand_in_prompts() -> Any:
    """Return the part of prompts that the DataModule reads if pairs are given: the padding id."""
    return SimpleNamespace(codec=SimpleNamespace(pad_id=PAD, digest="benchmark"))


def planned(
    pairs: Sequence[Pair],
    micro_batch: int,
    *,
    steps: int | None = None,
    tokens_per_step: int = 0,
    accumulate: int | None = None,
    rows_of: Callable[[Any], Iterable[Row]] = pair_rows,
    start_logprobs: Mapping[str, Sequence[float]] | None = None,
) -> SolutionPairDataModule:
    """Return a DataModule that serves `pairs`, planned for one rank.

    `micro_batch` limits the padded tokens of one forward pass. Without `steps`, one optimizer step
    has all pairs. `rows_of` makes the rows of the pairs; for preferences it reads `start_logprobs`.
    """

    def rows(data: Any) -> Iterable[Row]:
        seen = SimpleNamespace(
            pairs=pairs,
            max_length=data.max_length,
            max_tokens=data.max_tokens,
            problems={},
            start_logprobs=start_logprobs or {},
        )
        return rows_of(seen)

    plan = PlanSettings(
        tokens_per_step=tokens_per_step or 10**12,
        seed=1,
        steps=steps,
        epochs=None if steps else 1.0,
        max_length=LONGEST,
        max_tokens_per_micro_batch=micro_batch,
        accumulate=accumulate,
    )
    data = SolutionPairDataModule(stand_in_prompts(), [], rows, plan)
    data.plan_for(1, 0)
    return data


CLIPPED = partial(rlmec_clipped, policy_coef=1.0, per_attempt_token=False)


def policy_module(
    network: Any, *, steps: int = 1, objective: Objective = CLIPPED, **optimizing: Any
) -> PolicyModule:
    """Return the module of the policy stage, by default with the clipped objective."""
    return PolicyModule(
        network, pad_id=PAD, end_ids=(1,), objective=objective, steps=steps, **optimizing
    )


def step_gradients(
    module: PolicyModule, data: SolutionPairDataModule, arithmetic: Callable[[], Any]
) -> float:
    """Add the gradients of the plan's only step to the parameters and return the loss."""
    total = 0.0
    data.position = 0
    device = next(module.parameters()).device
    for batch in data.train_dataloader():
        batch = {name: value.to(device) for name, value in batch.items()}
        with arithmetic():
            loss = batch_loss(module, batch)
        loss.backward()
        total += float(loss.detach())
    return total


def batch_loss(module: PolicyModule, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return a micro-batch's share of its step's loss, like `training_step` without a Trainer."""
    return normalized(module.run_objective(batch, module.token_batch(batch)), batch)[2]
