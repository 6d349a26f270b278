"""A fit that was killed anywhere, and goes on, ends with the same bits."""

import pytest
import torch
from small_fits import (
    adapted_network,
    credited_rows,
    data_of,
    dropping_network,
    fitted,
    run_of,
    tear,
    torn_save,
)
from small_resume import STEPS, Case, Killed, kill_it, resumed_steps

from rlmec.training.checkpoints import saved_checkpoints, step_of


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


A1, A3 = Case(), Case(accumulate=3)
L1, L3 = Case(lora=True), Case(accumulate=3, lora=True)
S1 = Case(schedule=(2, 3))
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
        (L1, [6], [3]),
        (L1, [5, 4, 1], [3, 6, 6]),
        (L3, [18], [3]),
        (L3, [11, 8], [3, 3]),
        (S1, [5, 4, 1], [3, 6, 6]),
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
        m.setattr("rlmec.pipeline.fit._check_finished", kill_it)
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
            m.setattr("rlmec.pipeline.fit._check_finished", kill_it)
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
    tear(saved_checkpoints(tmp_path / "checkpoints")[0])
    same_end(A1.once(tmp_path, said=said), uninterrupted(A1))
    assert resumed_steps(said) == [3]
    assert "step-00000006.ckpt: does not load" in said[0]


def test_the_two_newest_checkpoints_and_the_best_weights_stay(uninterrupted):
    files = uninterrupted(A1)["files"]
    kept = [f for f in files if f.startswith("step")]
    assert kept == ["step-00000006.ckpt", "step-00000008.ckpt"]
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


def test_a_checkpoint_of_an_adapter_holds_the_adapter_alone(uninterrupted):
    """And all of it learnt something, while the weights below stayed as they were."""
    end, start = uninterrupted(L1), adapted_network()
    held = end["checkpoint"]["state_dict"]
    adapter = {n for n, p in start.named_parameters() if p.requires_grad}
    assert {n.removeprefix("net.network.") for n in held} == adapter
    for name, before in start.named_parameters():
        assert torch.equal(end["weights"][name], before.detach()) == (name not in adapter), name


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
    assert said[0].startswith(f"policy: continues from {three} (ckpt_path), step 3 of 8, after ")
    assert found["history"] == uninterrupted(A1)["history"]
    assert equal(found["checkpoint"]["state_dict"], uninterrupted(A1)["checkpoint"]["state_dict"])
    elsewhere = []
    A1.once(tmp_path / "third", said=elsewhere, ckpt_path=str(three), stage="grm")
    assert not any("continues from" in text for text in elsewhere)


def test_an_older_checkpoint_of_the_same_folder_drops_the_newer_ones(uninterrupted, tmp_path):
    """Going on from step 3 where 6 lies: 6 is made again, and a kill before that resumes from 3."""
    with pytest.raises(Killed):
        A1.once(tmp_path, objective_at=8)
    folder, said = tmp_path / "checkpoints", []
    assert [step_of(p) for p in saved_checkpoints(folder)] == [6, 3]
    with pytest.raises(Killed):
        A1.once(tmp_path, objective_at=2, ckpt_path=str(folder / "step-00000003.ckpt"))
    assert [step_of(p) for p in saved_checkpoints(folder)] == [3]
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
