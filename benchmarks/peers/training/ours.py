"""This project's steps: RLMEC, and DPO and SFT on the same pairs with the same code."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

from benchmarks.batches import CLIPPED, planned, policy_module, step_gradients
from benchmarks.peers.base import OURS, Peer, Work
from benchmarks.peers.jobs import TrainingJob, completion_row
from rlmec.data.baseline_rows import correction_preferences
from rlmec.data.policy_rows import pair_rows, separate_rows
from rlmec.data.row import Row
from rlmec.method.objectives import dpo, weighted_likelihood

BETA = 0.1


def correction_rows(data: Any) -> Iterator[Row]:
    """Yield one row per pair for plain likelihood of its correction."""
    for pair in data.pairs:
        yield completion_row(pair, pair.target_ids)


def _rlmec(job: TrainingJob, rows_of: Any = pair_rows) -> Work:
    return _step(job, SimpleNamespace(rows_of=rows_of), CLIPPED)


def _dpo(job: TrainingJob) -> Work:
    pairs, start = job.preferences
    given = SimpleNamespace(rows_of=correction_preferences, pairs=pairs, start_logprobs=start)
    return _step(job, given, partial(dpo, beta=BETA))


def _sft(job: TrainingJob) -> Work:
    return _step(job, SimpleNamespace(rows_of=correction_rows), weighted_likelihood)


def _step(job: TrainingJob, given: SimpleNamespace, objective: Any) -> Work:
    """The step of the policy stage on the job's pairs, or on other ones that are `given`."""
    options = vars(given)
    data = planned(options.pop("pairs", job.pairs), job.micro_batch, **options)
    module = policy_module(job.network, objective=objective)
    module.train()
    head = sum(len(row.targets) for row in data.rows)
    return Work(partial(step_gradients, module, data, job.arithmetic), head)


_SEPARATE = partial(_rlmec, rows_of=separate_rows)

PEERS = (
    Peer(OURS, "RLMEC; a pair in one row, chosen tokens through the head", _rlmec, loss="rlmec"),
    Peer(
        "ours, two rows per pair",
        "RLMEC; as ours, but nothing is shared",
        _SEPARATE,
        equals=OURS,
        loss="rlmec",
    ),
    Peer("ours, DPO", "DPO; corrections preferred, a pair in one row", _dpo, loss="dpo"),
    Peer("ours, SFT", "likelihood of the corrections alone", _sft, loss="sft"),
)
