"""AccuracyMetric: figures worked by hand, however the attempts were cut into batches and ranks."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from rlmec.evaluation.accuracy import AccuracyMetric

FLAGS = {
    "right": [True, True, False, False, True],
    "clipped": [False, True, False, False, False],
    "no_answer": [False, False, True, False, False],
    "tokens": [4, 10, 1, 2, 3],
}
FIGURES = {  # by hand: the second right one was clipped
    "accuracy": 2 / 5,
    "clipped_rate": 1 / 5,
    "no_answer_rate": 1 / 5,
    "completion_tokens/mean": 20 / 5,
    "attempts": 5.0,
}


def _some(rows: list[int]) -> dict[str, list]:
    return {name: [values[i] for i in rows] for name, values in FLAGS.items()}


def _judge_on_rank(rank: int, meeting: str, folder: str) -> None:
    """One of two ranks: 4 attempts on the first, 1 on the second, which then has an empty part."""
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    metric = AccuracyMetric()
    metric.update(**_some([0, 1, 2, 3] if rank == 0 else [4]))
    if rank == 1:
        metric.update(**_some([]))
    torch.save(metric.compute(), Path(folder, f"{rank}.pt"))
    alone = AccuracyMetric(sync_on_compute=False)
    alone.update(**_some([rank]))
    torch.save(alone.compute(), Path(folder, f"{rank}-alone.pt"))
    dist.destroy_process_group()


def test_figures() -> None:
    metric = AccuracyMetric()
    metric.update(**FLAGS)
    assert {k: float(v) for k, v in metric.compute().items()} == pytest.approx(FIGURES)


def test_does_not_depend_on_how_the_attempts_were_cut() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    order = random.Random(seed).sample(range(5), 5)
    metric = AccuracyMetric()
    for rows in (order[:1], [], order[1:4], order[4:]):
        metric.update(**_some(rows))
    assert {k: float(v) for k, v in metric.compute().items()} == pytest.approx(FIGURES)
    metric.reset()
    metric.update(**_some([0]))
    assert float(metric.compute()["accuracy"]) == 1.0


def test_long_runs_are_counted_exactly() -> None:
    metric = AccuracyMetric()
    metric.update([True], [False], [False], [2**24])
    metric.update([True], [False], [False], [1])  # lost where sums are float32
    assert float(metric.compute()["completion_tokens/mean"]) == (2**24 + 1) / 2


def test_refuses() -> None:
    metric = AccuracyMetric()
    with pytest.raises(ValueError, match="differ in number"):
        metric.update([True], [False], [], [3])
    metric.update([], [], [], [])
    with pytest.raises(ValueError, match="no attempt to judge"):
        metric.compute()


def test_sums_over_ranks() -> None:
    there = AccuracyMetric()
    there.update(**_some([4]))
    others = iter([there.right, there.total, there.clipped, there.no_answer, there.tokens])
    here = AccuracyMetric(
        dist_sync_fn=lambda mine, group: [mine, next(others)],
        distributed_available_fn=lambda: True,
    )
    here.update(**_some([0, 1, 2, 3]))
    assert {k: float(v) for k, v in here.compute().items()} == pytest.approx(FIGURES)
    assert int(here.total) == 4  # each rank keeps its own sums after a figure


@pytest.mark.slow
def test_two_ranks_give_the_figures_of_one(tmp_path: Path) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    spawn(_judge_on_rank, (str(tmp_path / "meeting"), str(tmp_path)), nprocs=2)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert {k: float(v) for k, v in found.items()} == pytest.approx(FIGURES)
    alone = [torch.load(tmp_path / f"{rank}-alone.pt")["accuracy"] for rank in range(2)]
    assert [float(a) for a in alone] == [1.0, 0.0]  # row 0 is right, row 1 clipped
