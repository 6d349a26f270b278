"""The law of the normaliser under each strategy: the gradient is that of the whole step, whoever
computes it; checkpoints and exports under sharded weights are those of a single process."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator
from lightning.pytorch.strategies import DeepSpeedStrategy, ModelParallelStrategy
from ranked_fit import CASES, run_fit
from small_fits import credited_rows, data_of, validation_of
from small_models import network

from rlmec.pipeline.early_check import check_accelerator
from rlmec.pipeline.fit import check_strategy
from rlmec.runtime.ranks import Ranks, launched_outside
from rlmec.settings.binding import build

CHILD = Path(__file__).with_name("ranked_fit.py")
ROOT = Path(__file__).resolve().parents[2]
RESUMED = "adam:6"  # killed in the middle of step 3, after the checkpoint of step 2
ALONE = "compiled"  # on one rank: compiling is slow, and twice as slow on two
OF_TORCH = pytest.mark.filterwarnings("ignore")  # warnings about its own code
COMPILED = pytest.param(ALONE, marks=[pytest.mark.slow, OF_TORCH])
JOBS = [f"{strategy}:{case}" for strategy in ("ddp", "fsdp2") for case in (*CASES, RESUMED)]
JOBS = [job for job in JOBS if ALONE not in job and job not in ("ddp:adapter", "ddp:validated")]


def start(folder, rank, world, port, jobs):
    env = os.environ | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    env |= {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "HF_HUB_OFFLINE": "1"}
    with (folder / f"log{rank}.txt").open("w") as log:
        return subprocess.Popen(
            [sys.executable, str(CHILD), str(folder), *jobs],
            env=env,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """The folder with what two ranks left of every job."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [start(folder, rank, 2, port, JOBS) for rank in range(2)]
    try:
        codes = [rank.wait(300) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert codes == [0, 0], (folder / "log0.txt").read_text()[-3000:]
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process leaves of a case, each worked out once."""
    known = {}

    def end(case):
        if case not in known:
            folder = tmp_path_factory.mktemp("alone")
            known[case] = (run_fit(folder, "auto", case, Ranks()), weights(folder))
        return known[case]

    return end


def weights(folder):
    return torch.load(folder / "weights.pt", weights_only=True)


def same_weights(found, wanted, limit):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=limit, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_two_ranks_train_as_one(job, two_ranks, alone):
    """Weights after some steps, and the last loss; AdamW's division enlarges rounding."""
    folder, (strategy, case) = two_ranks / job.replace(":", "_"), job.split(":")[:2]
    found = torch.load(folder / "result.pt", weights_only=True)
    wanted, theirs = alone(case)
    assert found["steps"] == wanted["steps"] == CASES[case]["steps"]
    assert found["strategy"] == {"ddp": "DDPStrategy", "fsdp2": "FullyShardedStrategy"}[strategy]
    assert found["loss"] == pytest.approx(wanted["loss"], abs=1e-5)
    for line, theirs_line in zip(found["history"], wanted["history"], strict=True):
        assert line == pytest.approx(theirs_line, abs=1e-5)
    same_weights(weights(folder), theirs, 1e-4 if case == "adam" else 2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_killed_fit_of_two_ranks_ends_with_the_same_bits(strategy, two_ranks):
    whole, resumed = (weights(two_ranks / f"{strategy}_{name}") for name in ("adam", "adam_6"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("case", ["clipped", "adapter", COMPILED])
def test_sharded_over_one_rank(case, alone, tmp_path):
    """The same fit where each weight is cut into one part: names, clipping, gathering, export."""
    found = run_fit(tmp_path, "fsdp2", case, Ranks())
    wanted, theirs = alone(case)
    assert found["strategy"] == "FullyShardedStrategy"
    assert found["loss"] == pytest.approx(wanted["loss"], abs=1e-5)
    same_weights(weights(tmp_path), theirs, 2e-6)
    assert not torch.distributed.is_initialized()
    assert not launched_outside(), "a later job would take itself for a rank"


def test_what_a_strategy_cannot_do_is_refused_before_training(tmp_path):
    data = data_of(credited_rows(network(), count=6), steps=1)
    with pytest.raises(ValueError, match=r"cannot validate by generation: set its val_problems=0"):
        check_strategy("policy", Deep(2), data, validation_of(tmp_path))
    check_strategy("policy", Deep(2), data, validation_of(tmp_path, prompts=[]))
    check_strategy("policy", Deep(2), data, None)
    sharded = build({"_target_": "rlmec.training.fsdp.FullyShardedStrategy"})
    check_strategy("policy", sharded, data, validation_of(tmp_path))
    check_strategy("policy", "ddp", data, validation_of(tmp_path))


class Deep(DeepSpeedStrategy):
    """The strategy as configured, without the package that it needs."""

    def __init__(self, stage):
        self.config = {"zero_optimization": {"stage": stage}}


def test_deepspeed_takes_one_micro_batch_a_step_and_no_stage_3():
    rows = credited_rows(network(), count=6)
    check_strategy("policy", Deep(2), data_of(rows, steps=1), None)
    with pytest.raises(ValueError, match="2 micro-batches per step under DeepSpeed"):
        check_strategy("policy", Deep(2), data_of(rows, steps=1, accumulate=2), None)
    with pytest.raises(ValueError, match="DeepSpeed stage 3 is not supported"):
        check_strategy("policy", Deep(3), data_of(rows, steps=1), None)


def test_deepspeed_on_a_cpu_is_refused_before_the_first_fit():
    cpu = CPUAccelerator()
    with pytest.raises(ValueError, match="DeepSpeed needs CUDA GPUs"):
        check_accelerator(SimpleNamespace(strategy=Deep(2), accelerator=cpu))
    check_accelerator(SimpleNamespace(strategy=Deep(2), accelerator=CUDAAccelerator()))
    check_accelerator(SimpleNamespace(strategy="ddp", accelerator=cpu))


@pytest.mark.parametrize("strategy", ["fsdp", "deepspeed_stage_3", ModelParallelStrategy()])
def test_a_strategy_whose_weights_could_not_be_written_is_refused(strategy):
    data = data_of(credited_rows(network(), count=6), steps=1)
    with pytest.raises(ValueError, match=r"is not supported: use trainer=fsdp2"):
        check_strategy("policy", strategy, data, None)
