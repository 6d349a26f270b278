"""Checkpoints do not tear; a fit that was killed anywhere ends with the same bits."""

import multiprocessing
import os
import random
import signal
import time
from dataclasses import dataclass, field
from functools import partial

import lightning as L
import numpy as np
import pytest
import torch
from small_fits import (
    Judge,
    credited_rows,
    data_of,
    dropping_network,
    fitted,
    module_of,
    run_of,
    validation_of,
    weights_of,
)
from transformers import get_cosine_schedule_with_warmup

from rlmec.checkpointing import (
    AtomicCheckpointIO,
    BestWeights,
    RandomStates,
    ResumeCheckpoint,
    checkpoints,
    newest_loadable,
    step_of,
)
from rlmec.objectives import rlmec_clipped


def forked(work):
    """Runs `work` in a forked process and returns its exit code."""
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join()
    return child.exitcode


def torn_save(end):
    """A torch.save that writes half of its bytes and then calls `end`."""
    whole = torch.save

    def save(obj, stream):
        at = stream.tell()
        whole(obj, stream)
        stream.truncate(at + (stream.tell() - at) // 2)
        stream.flush()
        end()

    return save


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


def tear(path, share=0.5):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])


def test_the_newest_by_number_is_taken(tmp_path):
    write(tmp_path, 9, 100, 20)
    (tmp_path / "best-00000200.ckpt").write_bytes(b"x")
    (tmp_path / "step-300.ckpt").write_bytes(b"x")
    assert [step_of(p) for p in checkpoints(tmp_path)] == [100, 20, 9]
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
    for path in checkpoints(tmp_path):
        tear(path)
    with pytest.raises(RuntimeError, match="none of 2 checkpoints loads"):
        newest_loadable(tmp_path, lambda text: None)


def test_a_checkpoint_with_code_in_it_is_not_run(tmp_path):
    torch.save({"x": partial(print, "run")}, tmp_path / "step-00000010.ckpt")
    with pytest.raises(RuntimeError, match="none of 1 checkpoints loads"):
        newest_loadable(tmp_path, lambda text: None)


def test_left_over_parts_are_swept(tmp_path):
    write(tmp_path, 10)
    (tmp_path / "step-00000020.ckpt.123.part").write_bytes(b"x")
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
        trainer = L.Trainer(
            accelerator="cpu",
            max_epochs=1,
            limit_val_batches=0,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[RandomStates(), spy, ResumeCheckpoint(tmp_path, 3, 2, None)],
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


# --- the law ---

STEPS = 8


class Killed(Exception):
    pass


def kill_it(*args):
    raise Killed("after the fit")


@dataclass
class Objective:
    """The clipped objective, killed at its `at`-th micro-batch (0: never)."""

    at: int = 0
    seen: int = 0

    def __call__(self, tokens):
        self.seen += 1
        if self.seen == self.at:
            raise Killed(f"at micro-batch {self.at}")
        return rlmec_clipped(tokens)


@dataclass
class KillingJudge(Judge):
    """Killed at its `at`-th validation (0: never)."""

    at: int = 0
    seen: int = field(default=0)

    def __call__(self, numbers, done):
        self.seen += 1
        if self.seen == self.at:
            raise Killed(f"at validation {self.at}")
        return super().__call__(numbers, done)


@dataclass
class Case:
    """A fit with dropout, AdamW, a falling rate and clipping, validated every 2 steps."""

    accumulate: int = 1
    workers: int = 0
    target: float | None = None
    save_every: int = 3

    def once(self, folder, *, objective_at=0, judge_at=0, said=None, **settings):
        """One try; raises Killed where it is killed. Returns what must be equal."""
        rows = credited_rows(dropping_network())
        data = data_of(rows, steps=STEPS, accumulate=self.accumulate, workers=self.workers)
        judge = KillingJudge(at=judge_at)
        validation = validation_of(folder, judge=judge, target=self.target)
        module, history = fitted(
            folder,
            dropping_network(),
            data,
            run=run_of(said=said, save_every=self.save_every, **settings),
            validation=validation,
            clip=1.0,
            objective=Objective(objective_at),
            optimizer=partial(torch.optim.AdamW, lr=0.01),
            scheduler=get_cosine_schedule_with_warmup,
            ratio_tolerance=1e-4,
        )
        newest = checkpoints(folder / "checkpoints")[0]
        return {
            "weights": weights_of(module),
            "history": history,
            "best": (validation.best.score, validation.best.step),
            "steps": module.trainer.global_step,
            "files": sorted(p.name for p in (folder / "checkpoints").iterdir()),
            "checkpoint": without_progress(torch.load(newest, weights_only=True)),
        }


def without_progress(checkpoint):
    """All of a checkpoint but Lightning's loop counters."""
    return {name: value for name, value in checkpoint.items() if name != "loops"}


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def same_end(found, wanted):
    assert [name for name in wanted if not equal(found[name], wanted[name])] == []


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """What a case ends with when nothing happens to it; each worked out once."""
    known = {}

    def end(case):
        key = repr(case)
        if key not in known:
            known[key] = case.once(tmp_path_factory.mktemp("uninterrupted"))
        return known[key]

    return end


def resumed_steps(said):
    return [int(t.split("optimizer step ")[1].split(" ")[0]) for t in said if "resumes" in t]


A1, A3 = Case(), Case(accumulate=3)
W1, W3 = Case(workers=2), Case(accumulate=3, workers=2)


@pytest.mark.parametrize(
    ("case", "kills", "resumed"),
    [
        (A1, [1], []),
        (A1, [3], []),  # before the first checkpoint: from the start
        (A1, [4], [3]),
        (A1, [6], [3]),
        (A1, [7], [6]),
        (A1, [8], [6]),  # in the last step
        (A1, [5, 3], [3, 3]),  # twice in a row, before the next checkpoint
        (A1, [5, 4, 1, 2], [3, 6, 6, 6]),
        (A3, [8], []),
        (A3, [11], [3]),  # in the middle of step 4
        (A3, [18], [3]),  # in the last micro-batch of step 6
        (A3, [24], [6]),
        (A3, [12, 8], [3, 3]),
        (A3, [15, 11, 5], [3, 6, 6]),
        (W1, [5, 4], [3, 6]),
        (W3, [11, 8], [3, 3]),
    ],
)
def test_killed_in_a_micro_batch(case, kills, resumed, uninterrupted, tmp_path):
    said = []
    for at in kills:
        with pytest.raises(Killed):
            case.once(tmp_path, objective_at=at, said=said)
    same_end(case.once(tmp_path, said=said), uninterrupted(case))
    assert resumed_steps(said) == resumed


@pytest.mark.parametrize("case", [A1, A3])
@pytest.mark.parametrize("at", [1, 2, 3, 4, 5])  # at steps 0, 2, 4, 6 and 8
def test_killed_in_a_validation(case, at, uninterrupted, tmp_path):
    with pytest.raises(Killed):
        case.once(tmp_path, judge_at=at)
    same_end(case.once(tmp_path), uninterrupted(case))


@pytest.mark.parametrize("at", [1, 2, 3, 4, 5])
def test_killed_in_a_save(at, uninterrupted, tmp_path, monkeypatch):
    """Half of the bytes are written. Saves: weights where a score is best, and steps 3, 6 and 8."""
    left = [at]

    def end():
        left[0] -= 1
        if left[0] == 0:
            raise Killed("in a save")

    whole, torn = torch.save, torn_save(end)

    def save(obj, stream):
        if left[0] == 1:
            torn(obj, stream)
        else:
            end()
            whole(obj, stream)

    assert at <= 3 + len(list(new_bests(uninterrupted(A1)["history"])))
    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(Killed):
        A1.once(tmp_path)
    monkeypatch.undo()
    same_end(A1.once(tmp_path), uninterrupted(A1))


def new_bests(history):
    best = -1.0
    for line in history[1:]:
        if line["dev/accuracy"] > best:
            best = line["dev/accuracy"]
            yield line


@pytest.mark.parametrize("case", [A1, A3, W1])
def test_killed_after_the_last_step(case, uninterrupted, tmp_path, monkeypatch):
    """All steps are done and saved, but the stage is not finished: nothing is trained again."""
    said = []
    with monkeypatch.context() as m:
        m.setattr("rlmec.stages.fitting._check_finished", kill_it)
        for _ in range(2):
            with pytest.raises(Killed):
                case.once(tmp_path, said=said)
    same_end(case.once(tmp_path, objective_at=1, said=said), uninterrupted(case))
    assert resumed_steps(said) == [8, 8]


def early(uninterrupted):
    """A target that the uninterrupted fit first reaches at its second validation or later."""
    scores = [line["dev/accuracy"] for line in uninterrupted(A1)["history"]]
    return max(scores[2:-1])


@pytest.mark.parametrize("kills", [[], [3], [5, 2], "end"])
def test_a_fit_that_a_target_stopped_early(kills, uninterrupted, tmp_path, monkeypatch):
    """Its last checkpoint is not due otherwise: of every 4 steps, but step 6 is the last."""
    case = Case(target=early(uninterrupted), save_every=4)
    wanted = uninterrupted(case)
    assert wanted["steps"] == 6
    assert wanted["history"][-1]["step"] == wanted["steps"]
    if kills == "end":
        with monkeypatch.context() as m:
            m.setattr("rlmec.stages.fitting._check_finished", kill_it)
            with pytest.raises(Killed):
                case.once(tmp_path)
        same_end(case.once(tmp_path, objective_at=1), wanted)
        return
    for at in kills:
        with pytest.raises(Killed):
            case.once(tmp_path, objective_at=at)
    same_end(case.once(tmp_path), wanted)


def test_a_torn_newest_checkpoint_costs_steps_and_nothing_else(uninterrupted, tmp_path):
    said = []
    with pytest.raises(Killed):
        A1.once(tmp_path, objective_at=8)
    tear(checkpoints(tmp_path / "checkpoints")[0])
    same_end(A1.once(tmp_path, said=said), uninterrupted(A1))
    assert resumed_steps(said) == [3]
    assert "step-00000006.ckpt: does not load" in said[0]


def test_the_two_newest_checkpoints_and_the_best_weights_stay(uninterrupted):
    files = uninterrupted(A1)["files"]
    assert [f for f in files if f.startswith("step")] == [
        "step-00000006.ckpt",
        "step-00000008.ckpt",
    ]
    assert f"best-{uninterrupted(A1)['best'][1]:08d}.ckpt" in files
    assert not [f for f in files if f.endswith(".part")]


def test_the_weights_left_are_those_of_the_best_score(uninterrupted):
    end = uninterrupted(A1)
    score, step = end["best"]
    scores = {line["step"]: line["dev/accuracy"] for line in end["history"] if line["step"]}
    assert score == max(scores.values())
    assert step == min(s for s, value in scores.items() if value == score)
    last = end["checkpoint"]["state_dict"]
    names = {f"net.network.{name}": value for name, value in end["weights"].items()}
    assert all(torch.equal(last[n], v) for n, v in names.items()) == (step == STEPS)


def test_accumulation_changes_the_dropout_but_not_the_law(uninterrupted):
    """The cases differ from one another, so that equal ends mean something."""
    assert not equal(uninterrupted(A1)["weights"], uninterrupted(A3)["weights"])
    same_end(uninterrupted(W1), uninterrupted(A1))
    same_end(uninterrupted(W3), uninterrupted(A3))


def test_a_checkpoint_holds_plain_values_only(uninterrupted):
    def kinds(value):
        if isinstance(value, dict):
            return set().union(*map(kinds, value.values()), *map(kinds, value), set())
        if isinstance(value, list | tuple):
            return set().union(*map(kinds, value), set())
        return {type(value)}

    plain = {int, float, str, bool, type(None), torch.Tensor}
    assert kinds(uninterrupted(A1)["checkpoint"]) <= plain


def test_data_of_another_kind_are_refused_on_resuming(tmp_path):
    with pytest.raises(Killed):
        A1.once(tmp_path, objective_at=5)
    with pytest.raises(ValueError, match="written with other rows"):
        A3.once(tmp_path)


# --- which checkpoint a stage goes on from ---


def test_a_named_checkpoint_is_taken_for_its_own_stage(uninterrupted, tmp_path):
    with pytest.raises(Killed):
        A1.once(tmp_path / "first", objective_at=8)
    three = tmp_path / "first/checkpoints/step-00000003.ckpt"
    said = []
    found = A1.once(tmp_path / "second", said=said, ckpt_path=str(three))
    assert said[0] == f"policy: goes on from {three} (ckpt_path)"
    assert found["history"] == uninterrupted(A1)["history"]
    assert equal(found["checkpoint"]["state_dict"], uninterrupted(A1)["checkpoint"]["state_dict"])
    elsewhere = []
    A1.once(tmp_path / "third", said=elsewhere, ckpt_path=str(three), stage="grm")
    assert not any("goes on from" in text for text in elsewhere)


def test_an_older_checkpoint_of_the_same_folder_drops_the_newer_ones(uninterrupted, tmp_path):
    """Going on from step 3 where 6 lies: 6 is made anew, and a kill before that resumes from 3."""
    with pytest.raises(Killed):
        A1.once(tmp_path, objective_at=8)
    folder, said = tmp_path / "checkpoints", []
    assert [step_of(p) for p in checkpoints(folder)] == [6, 3]
    with pytest.raises(Killed):
        A1.once(tmp_path, objective_at=2, ckpt_path=str(folder / "step-00000003.ckpt"))
    assert [step_of(p) for p in checkpoints(folder)] == [3]
    same_end(A1.once(tmp_path, said=said), uninterrupted(A1))
    assert resumed_steps(said) == [3]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"ckpt_path": "/nowhere/x.ckpt"}, "ckpt_path: /nowhere/x.ckpt is no file"),
        ({"resume": "required"}, "resume=required: .* holds no checkpoint of policy"),
    ],
)
def test_a_checkpoint_that_must_be_there_and_is_not(settings, named, tmp_path):
    rows = credited_rows(dropping_network(), 6)
    with pytest.raises(FileNotFoundError, match=named):
        fitted(tmp_path, dropping_network(), data_of(rows), run=run_of(**settings))
