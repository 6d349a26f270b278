"""Checkpoints do not tear, the newest that loads is taken, weights and generators come back."""

import multiprocessing
import os
import random
import signal
import time
from functools import partial
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from small_fits import (
    credited_rows,
    data_of,
    dropping_network,
    module_of,
    tear,
    torn_save,
)

from rlmec.training import callbacks
from rlmec.training.callbacks import StopRequests
from rlmec.training.checkpoints import (
    AtomicCheckpointIO,
    BestWeights,
    RandomStates,
    ResumeCheckpoint,
    newest_loadable,
    saved_checkpoints,
    step_of,
)


def forked(work):
    """Runs `work` in a forked process and returns its exit code."""
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join()
    return child.exitcode


def fail():
    raise OSError(28, "No space left on device")


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


# --- writing ---


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("how", ["error", "kill -9"])
def test_a_save_cut_off_leaves_the_old_file_or_none(how, earlier, tmp_path, monkeypatch):
    path = tmp_path / "folder" / "step-00000001.ckpt"
    io = AtomicCheckpointIO()
    if earlier:
        io.save_checkpoint({"x": torch.ones(1000)}, path)
    monkeypatch.setattr(torch, "save", torn_save(fail if how == "error" else kill))
    if how == "error":
        with pytest.raises(OSError, match="No space left"):
            io.save_checkpoint({"x": torch.zeros(1000)}, path)
        assert len(list(path.parent.iterdir())) == earlier  # no part is left behind
    else:
        assert forked(lambda: io.save_checkpoint({"x": torch.zeros(1000)}, path)) == -9
        assert len(list(path.parent.iterdir())) == earlier + 1
    monkeypatch.undo()
    assert newest_loadable(path.parent, print) == (path if earlier else None)
    assert path.exists() is earlier
    if earlier:
        assert torch.load(path, weights_only=True)["x"].sum() == 1000


def test_a_file_is_whole_at_any_moment_of_being_written_again(tmp_path):
    """A child writes one file over and over and is killed at a random moment, ten times."""
    path, io = tmp_path / "step-00000001.ckpt", AtomicCheckpointIO()

    def write_for_ever():
        for number in range(1_000_000):
            io.save_checkpoint({"a": torch.full((20_000,), number), "b": number}, path)

    draw = random.Random(4)
    for _ in range(10):
        child = multiprocessing.get_context("fork").Process(target=write_for_ever)
        child.start()
        time.sleep(0.02 + draw.random() * 0.05)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        found = newest_loadable(tmp_path, print)
        if found is not None:
            held = torch.load(found, weights_only=True)
            assert (held["a"] == held["b"]).all()
        assert [p.name for p in tmp_path.iterdir()] in ([], ["step-00000001.ckpt"])
    assert path.exists()


# --- which one is taken ---


def write(folder, *steps):
    for step in steps:
        AtomicCheckpointIO().save_checkpoint(
            {"x": torch.ones(99)}, folder / f"step-{step:08d}.ckpt"
        )


def test_the_newest_by_number_is_taken(tmp_path):
    write(tmp_path, 9, 100, 20)
    (tmp_path / "best-00000200.ckpt").write_bytes(b"x")
    (tmp_path / "step-300.ckpt").write_bytes(b"x")
    assert [step_of(p) for p in saved_checkpoints(tmp_path)] == [100, 20, 9]
    found = newest_loadable(tmp_path, print)
    assert found is not None
    assert step_of(found) == 100


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_torn_newest_one_is_passed_over_aloud(share, tmp_path):
    write(tmp_path, 10, 20)
    said = []
    tear(tmp_path / "step-00000020.ckpt", share)
    assert newest_loadable(tmp_path, said.append) == tmp_path / "step-00000010.ckpt"
    assert len(said) == 1
    assert "step-00000020.ckpt: does not load" in said[0]
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000010.ckpt"]


def test_where_none_loads_it_is_an_error_and_where_there_is_none_it_is_none(tmp_path):
    assert newest_loadable(tmp_path, print) is None
    write(tmp_path, 10, 20)
    for path in saved_checkpoints(tmp_path):
        tear(path)
    with pytest.raises(RuntimeError, match="none of 2 checkpoints loads"):
        newest_loadable(tmp_path, lambda text: None)


def test_a_checkpoint_with_code_in_it_is_not_run(tmp_path):
    torch.save({"x": partial(print, "run")}, tmp_path / "step-00000010.ckpt")
    with pytest.raises(RuntimeError, match="none of 1 checkpoints loads"):
        newest_loadable(tmp_path, lambda text: None)


def test_left_over_parts_are_swept(tmp_path):
    write(tmp_path, 10)
    (tmp_path / ".step-00000020.ckpt.0a1b2c3d.tmp").write_bytes(b"x")
    newest_loadable(tmp_path, print)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000010.ckpt"]


@pytest.mark.parametrize("name", ["last.ckpt", "step-10.ckpt", "best-00000010.ckpt"])
def test_the_step_of_another_file_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="not a resume checkpoint"):
        step_of(tmp_path / name)


# --- best weights ---


class Saving:
    """What BestWeights sees of a Trainer."""

    def __init__(self):
        self.global_step = 0

    def save_checkpoint(self, path, weights_only=False):
        assert weights_only
        path.write_bytes(b"w")


def offered(best, trainer, *scores):
    for step, score in scores:
        trainer.global_step = step
        best.offer(trainer, score)


def kept(folder):
    return sorted(int(p.stem.split("-")[1]) for p in folder.glob("best-*.ckpt"))


def test_a_tie_keeps_the_earlier_one(tmp_path):
    best, trainer = BestWeights(tmp_path), Saving()
    offered(best, trainer, (1, 0.0), (2, 0.5), (3, 0.5), (4, 0.4), (5, 0.6))
    assert (best.score, best.step) == (0.6, 5)
    assert kept(tmp_path) == [1, 2, 5]


def test_weights_that_a_kept_checkpoint_names_stay(tmp_path):
    """Checkpoints after steps 2, 4, 6, 8, two of them kept; the best are 1, 3 and 7."""
    best, trainer = BestWeights(tmp_path), Saving()
    offered(best, trainer, (1, 0.1))
    best.prune(2)
    offered(best, trainer, (3, 0.2))
    best.prune(2)
    assert kept(tmp_path) == [1, 3]  # checkpoint 2 names 1, checkpoint 4 names 3
    best.prune(2)
    assert kept(tmp_path) == [3]
    offered(best, trainer, (7, 0.3))
    assert kept(tmp_path) == [3, 7]
    best.prune(2)
    assert kept(tmp_path) == [3, 7]
    best.prune(2)
    assert kept(tmp_path) == [7]


def test_a_resumed_one_knows_what_the_checkpoint_before_names(tmp_path):
    best, trainer = BestWeights(tmp_path), Saving()
    offered(best, trainer, (1, 0.1))
    best.prune(2)
    offered(best, trainer, (3, 0.2))
    state = best.state_dict()  # of checkpoint 4; then it is pruned, and goes on to a best at 5
    best.prune(2)
    offered(best, trainer, (5, 0.3))
    again = BestWeights(tmp_path)
    again.load_state_dict(state)
    assert (again.score, again.step) == (0.2, 3)
    again.prune(2)  # checkpoint 6 without the best at 5, which is seen no more
    assert kept(tmp_path) == [3]


# --- random numbers ---


class Spy(L.Callback):
    """Draws from every generator at each optimizer step."""

    def __init__(self):
        self.drawn = []

    def on_train_batch_end(self, trainer, pl_module, *args):
        numbers = (random.random(), float(np.random.rand()), float(torch.rand(())))
        self.drawn.append((*numbers, random.gauss(0, 1), float(np.random.normal())))


def test_all_generators_go_on_where_they_were(tmp_path):
    """Five steps at once, and three and two: the same draws, normal ones (made in pairs) too."""

    def run(seed, resume=None):
        data, spy = (
            data_of(credited_rows(dropping_network(), 6), steps=5, tokens_per_step=20),
            Spy(),
        )
        stops = StopRequests("fit", saves=True)
        trainer = L.Trainer(
            accelerator="cpu",
            max_epochs=1,
            limit_val_batches=0,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[RandomStates(), spy, ResumeCheckpoint(tmp_path, 3, 2, None, stops)],
            plugins=[AtomicCheckpointIO()],
        )
        L.seed_everything(seed, verbose=False)
        trainer.fit(module_of(dropping_network(), data), datamodule=data, ckpt_path=resume)
        return spy.drawn

    whole = run(8)
    assert len(set(whole)) == 5
    assert run(9, tmp_path / "step-00000003.ckpt") == whole[3:]
    assert run(9) != whole


def test_another_number_of_ranks_is_refused():
    states = RandomStates()
    states._loaded = [{}, {}]

    class OneRank:
        world_size = 1

    with pytest.raises(ValueError, match="of 2 ranks, this run has 1"):
        states.on_train_start(OneRank(), None)


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [((None, None), None), ((2, 15), 2), ((15, 2), 15), ((None, 10), 10), ((10, None), 10)],
)
def test_the_first_ranks_signal_decides(monkeypatch, asked, wanted):
    """Ctrl-C on rank 0 reaches rank 1 as SIGTERM: the run ends as by Ctrl-C."""
    given = []

    def ask(tensor, op):
        given.append(tensor.clone())

    trainers = [
        SimpleNamespace(
            world_size=2,
            global_rank=rank,
            strategy=SimpleNamespace(root_device=torch.device("cpu")),
        )
        for rank in range(2)
    ]
    monkeypatch.setattr(callbacks.dist, "all_reduce", ask)
    for trainer, number in zip(trainers, asked, strict=True):
        monkeypatch.setattr(callbacks.signals, "requested", lambda number=number: number)
        callbacks.agreed_signal(trainer)

    def most(tensor, op):
        assert op == callbacks.dist.ReduceOp.MAX
        tensor.copy_(torch.stack(given).max(0).values)

    monkeypatch.setattr(callbacks.dist, "all_reduce", most)
    assert [callbacks.agreed_signal(trainer) for trainer in trainers] == [wanted, wanted]
