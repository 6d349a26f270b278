"""Signals ask a run to stop; it stops where its work is saved, and resumes to the same end."""

import multiprocessing
import os
import pickle
import signal
import sys
import time
from dataclasses import dataclass

import pytest
import torch
from paper_objective import rlmec_clipped
from small_fits import (
    credited_rows,
    data_of,
    equal_weights,
    fitted,
    run_of,
    validation_of,
    weights_of,
)
from small_models import network
from small_resume import STEPS, Case, Killed, Objective, resumed_steps
from small_runs import run as run_chain
from small_runs import start_model

from rlmec.lm.generation import Decoding, generate
from rlmec.runtime import signals
from rlmec.runtime.ranks import stop_with_parent
from rlmec.runtime.signals import RunStopped
from rlmec.store.artifacts import ArtifactError, ArtifactStore
from rlmec.teachers.base import OneByOne, WrongAttempt

TERM, INT, USR1 = signal.SIGTERM, signal.SIGINT, signal.SIGUSR1


@pytest.fixture(autouse=True)
def unasked(monkeypatch):
    """No signal of another test, nor of this one for the next."""
    monkeypatch.setattr(signals, "_state", signals._State())


def ask(number=TERM):
    signals._state.number = int(number)


def code_of(work):
    """The exit code of a forked process that listens and then does `work`."""

    def child():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background
        signals.listen()
        sys.exit(work())

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    return process.exitcode


def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


# --- signals ---


@pytest.mark.parametrize(("number", "code"), [(TERM, 143), (INT, 130), (USR1, 138)])
def test_a_signal_is_noted_and_raised_where_the_work_looks(number, code):
    def work():
        with signals.working():
            send(number)
            assert signals.requested() == number
            signals.check("in the middle")
        return 0

    assert code_of(work) == code


@pytest.mark.parametrize(
    ("numbers", "code"), [((INT, INT), 130), ((TERM, TERM), 7), ((INT, TERM), 7), ((TERM, INT), 7)]
)
def test_a_second_interrupt_ends_at_once_and_nothing_else_does(numbers, code):
    def work():
        with signals.working():
            send(*numbers)
            return 7

    assert code_of(work) == code


@pytest.mark.parametrize(("number", "code"), [(TERM, 143), (INT, 130)])
def test_before_the_work_a_signal_ends_at_once(number, code):
    assert code_of(lambda: send(number)) == code


def test_signals_that_are_ignored_or_another_s_are_left_alone():
    def work():
        found = []
        signal.signal(INT, signal.SIG_IGN)
        signal.signal(USR1, lambda *args: found.append(args[0]))
        signals.listen()
        with signals.working():
            send(INT, USR1)
            return 5 if found == [USR1] and signals.requested() is None else 0

    assert code_of(work) == 5


def test_a_noted_signal_stops_the_next_job_of_a_sweep():
    ask()
    with pytest.raises(RunStopped), signals.working():
        pytest.fail("it began")


def test_a_stop_can_be_sent_to_another_process():
    stop = pickle.loads(pickle.dumps(RunStopped(int(TERM), "policy")))
    assert (stop.code, str(stop)) == (143, "stopped by SIGTERM: policy")


# --- fits ---


@dataclass
class Asking(Objective):
    """Asks to stop at its `at`-th micro-batch instead of failing."""

    def __call__(self, tokens):
        self.seen += 1
        if self.seen == self.at:
            send(TERM)
        return rlmec_clipped(tokens)


@pytest.fixture
def listening():
    before = {number: signal.getsignal(number) for number in (TERM, INT, USR1)}
    signals.listen()
    signals._state.working = True
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("case", "at", "step"),
    [(Case(), 4, 4), (Case(accumulate=3), 11, 4), (Case(accumulate=3, workers=2), 24, 8)],
)
def test_sigterm_stops_at_the_end_of_the_step_and_loses_nothing(
    case, at, step, listening, monkeypatch, tmp_path
):
    whole, said = case.once(tmp_path / "whole"), []
    with monkeypatch.context() as m:
        m.setitem(Case.once.__globals__, "Objective", Asking)
        with pytest.raises(RunStopped, match=f"policy at optimizer step {step} of {STEPS}") as stop:
            case.once(tmp_path / "cut", objective_at=at)
    assert stop.value.code == 143
    assert signal.getsignal(TERM) is signals._received, "lightning has put its own in our place"
    signals._state.number = None
    end = case.once(tmp_path / "cut", said=said)
    assert resumed_steps(said) == [step]
    same(end, whole)


def same(end, whole):
    assert equal_weights(end["weights"], whole["weights"])
    for name in ("history", "best", "steps"):
        assert end[name] == whole[name], name


@pytest.mark.parametrize("at", [1, 2, 5])  # before step 1, after step 2, after the last
def test_a_stop_in_a_validation_leaves_it_to_be_done(at, monkeypatch, tmp_path):
    whole, said = Case().once(tmp_path / "whole"), []

    class AskingJudge:
        seen = 0

    def judged(self, numbers, done):
        AskingJudge.seen += 1
        if AskingJudge.seen == at:
            ask()
            signals.check()
        return real(self, numbers, done)

    from small_fits import Judge

    real = Judge.__call__
    with monkeypatch.context() as m:
        m.setattr(Judge, "__call__", judged)
        with pytest.raises(RunStopped):
            Case().once(tmp_path / "cut")
    signals._state.number = None
    same(Case().once(tmp_path / "cut", said=said), whole)
    assert resumed_steps(said) == ([] if at == 1 else [2 * (at - 1)])


# --- another number of micro-batches, as on another number of ranks ---


def plain(folder, accumulate, at=0, **settings):
    """A fit without dropout, whose end does not depend on how its steps are cut."""
    net = network("gpt2", seed=5)
    data = data_of(credited_rows(net), steps=STEPS, accumulate=accumulate)
    module, history = fitted(
        folder,
        net,
        data,
        run=run_of(**settings),
        validation=validation_of(folder),
        objective=Objective(at),
    )
    return module, history, data.position


def test_weights_alone_go_on_in_another_plan_at_the_same_step(tmp_path):
    whole, wanted, _ = plain(tmp_path / "whole", 3)
    with pytest.raises(Killed):
        plain(tmp_path / "cut", 1, at=6)
    with pytest.raises(ValueError, match="resume=weights"):
        plain(tmp_path / "cut", 3)
    said = []
    module, history, _ = plain(tmp_path / "cut", 3, resume="weights", said=said)
    assert module.trainer.global_step == STEPS
    assert resumed_steps(said) == [3]
    assert "not bit for bit" in said[1]
    assert "not bit for bit" in (tmp_path / "cut" / "inexact.txt").read_text()
    assert [line["step"] for line in history] == [line["step"] for line in wanted]
    for name, value in weights_of(whole).items():
        torch.testing.assert_close(weights_of(module)[name], value, rtol=1e-4, atol=1e-5)


def test_weights_of_the_same_plan_are_resumed_exactly(tmp_path):
    with pytest.raises(Killed):
        Case().once(tmp_path / "cut", objective_at=5)
    end = Case().once(tmp_path / "cut", resume="weights")
    same(end, Case().once(tmp_path / "whole"))
    assert not (tmp_path / "cut" / "inexact.txt").exists()


# --- other work ---


def test_generation_stops_between_two_tokens():
    ask()
    with pytest.raises(RunStopped):
        generate(network(), [[5, 6]], Decoding(4), end_ids=(1,), pad_id=0)


def test_a_teacher_is_asked_no_further():
    class Teacher:
        name, asked = "t", 0

        def correct(self, problem, attempt):
            self.asked += 1
            ask()

    teacher = Teacher()
    with pytest.raises(RunStopped):
        OneByOne(teacher).correct_all(
            [WrongAttempt(None, "a"), WrongAttempt(None, "b")], spent={}, tick=lambda: None
        )
    assert teacher.asked == 1


def test_required_refuses_to_begin_from_nothing(tmp_path):
    model = start_model(tmp_path / "model")
    with pytest.raises(FileNotFoundError, match="resume=required"):
        run_chain(tmp_path, model, "stage=sample", "resume=required")
    assert not list((tmp_path / "artifacts").rglob("*.parquet"))


@pytest.mark.parametrize("damage", ["shorter", "gone"])
def test_an_artifact_whose_files_are_not_those_committed_is_refused(damage, tmp_path):
    store = ArtifactStore(tmp_path)
    work = store.work("sample", "f" * 20)
    (work / "model").mkdir(parents=True)
    (work / "model" / "weights").write_bytes(b"12345678")
    (work / "parts").mkdir()
    (work / "parts" / "one").write_bytes(b"1")
    final = store.commit("sample", "f" * 20, {}, drop=("parts",)).path
    assert store.find("sample", "f" * 20).manifest["files"] == {"model/weights": 8}
    if damage == "gone":
        (final / "model" / "weights").unlink()
    else:
        os.truncate(final / "model" / "weights", 4)
    with pytest.raises(ArtifactError, match=r"weights (is gone|has 4 bytes, not 8)"):
        store.find("sample", "f" * 20)


def test_a_sweeps_worker_is_asked_to_stop_when_its_launcher_ends():
    fork = multiprocessing.get_context("fork")
    heard, tell = fork.Pipe(duplex=False)

    def worker():
        signal.signal(signal.SIGTERM, lambda *_: tell.send("asked"))
        stop_with_parent()
        tell.send("ready")
        time.sleep(120)

    def launcher():
        child = fork.Process(target=worker, name="LokyProcess-1")
        child.start()
        child.join()

    parent = fork.Process(target=launcher)
    parent.start()
    assert heard.poll(60)
    assert heard.recv() == "ready"
    parent.kill()
    assert heard.poll(60)
    assert heard.recv() == "asked"
