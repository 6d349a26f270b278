"""Validation at its steps, progress, and the stop at a loss that is no number."""

import csv
import re
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from small_fits import (
    CSV,
    credited_rows,
    data_of,
    dropping_network,
    fit_settings,
    fitted,
    module_of,
    run_of,
    validation_of,
)
from small_models import network, ragged_ids

from rlmec.lm.generation import Decoding, generate
from rlmec.lm.logprobs import TokenScorer, score_rows
from rlmec.method.objectives import ObjectiveSums, rlmec_clipped
from rlmec.pipeline.fit import fit
from rlmec.training import validation
from rlmec.training.callbacks import FiniteLoss, Progress
from rlmec.training.checkpoints import saved_checkpoints
from rlmec.training.validation import Validation

PROMPTS = ragged_ids([4, 7, 2, 5, 3], seed=9)


@pytest.fixture(scope="module")
def rows():
    return credited_rows(dropping_network())


@dataclass
class Scores:
    """A judge with a given score at each validation, that notes what it is shown."""

    scores: list[float]
    seen: list = field(default_factory=list)

    def __call__(self, numbers, done):
        score = self.scores[min(len(self.seen), len(self.scores) - 1)]
        self.seen.append((numbers, [c.ids for c in done]))
        return {"accuracy": score * len(done), "count": float(len(done))}


def trained(folder, rows, judge, *, steps=5, accumulate=1, net=None, run=None, **changes):
    """Fits with validation of PROMPTS every 2 steps; returns (module, history, validation)."""
    data = data_of(rows, steps=steps, accumulate=accumulate)
    validation = validation_of(folder, judge=judge, prompts=PROMPTS, **changes)
    net = dropping_network() if net is None else net
    module, history = fitted(folder, net, data, run=run, validation=validation)
    return module, history, validation


# --- validation ---


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_validation_computes_in_the_precision_of_the_fit(precision, rows, tmp_path, monkeypatch):
    """Fused AdamW and clipping besides, which Lightning refuses together unless it is told."""
    seen = []

    def generate(*args, **kwargs):
        seen.append(torch.is_autocast_enabled("cpu"))
        return validation_generate(*args, **kwargs)

    validation_generate = validation.generate
    monkeypatch.setattr(validation, "generate", generate)
    data = data_of(rows, steps=2)
    module = module_of(dropping_network(), data, optimizer=partial(torch.optim.AdamW, lr=1e-3))
    settings = fit_settings(gradient_clip=1.0, precision=precision)
    own = validation_of(tmp_path, prompts=PROMPTS)
    fit(run_of(), "policy", settings, tmp_path, module, data, own)
    assert seen == [precision == "bf16-mixed"] * 2
    assert module.trainer.optimizers[0].defaults["fused"]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_validation_runs_at_the_start_every_n_steps_and_at_the_last(accumulate, rows, tmp_path):
    _, history, _ = trained(tmp_path, rows, Scores([0.5]), accumulate=accumulate)
    assert [line["step"] for line in history] == [0, 2, 4, 5]


def test_a_last_step_that_is_due_is_validated_once(rows, tmp_path):
    _, history, _ = trained(tmp_path, rows, Scores([0.5]), steps=4)
    assert [line["step"] for line in history] == [0, 2, 4]


def test_the_loss_is_the_mean_over_target_tokens_without_dropout(rows, tmp_path):
    """Weights and rewards play no part in it, and its batches no part in training."""
    module, history, _ = trained(tmp_path, rows, Scores([0.5]), keep_best=False)
    for net, line in ((dropping_network(), history[0]), (module.network, history[-1])):
        values = [x for row in score_rows(TokenScorer(net), rows[:5], 0) for x in row]
        assert line["val/loss"] == pytest.approx(-sum(values) / len(values), rel=1e-5)
    bare, _ = fitted(tmp_path / "bare", dropping_network(), data_of(rows, steps=5))
    one, other = module.network.state_dict(), bare.network.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(m.training for m in module.net.modules())


def test_the_judge_sees_every_prompts_greedy_text_by_its_number(rows, tmp_path):
    """Five prompts in batches of two."""
    judge = Scores([0.4])
    data = data_of(rows, steps=1)
    validation = Validation(
        PROMPTS, judge, every_steps=9, max_completion_length=4, batch_size=2, prefix="grm"
    )
    net = dropping_network()
    wanted = generate(net, PROMPTS, Decoding(4), end_ids=(1,), pad_id=0)
    _, history = fitted(tmp_path, net, data, validation=validation)
    assert judge.seen[0] == ([0, 1, 2, 3, 4], [c.ids for c in wanted])
    assert history[0]["grm/accuracy"] == pytest.approx(0.4)
    assert "dev/accuracy" not in history[0]


def test_drafts_change_nothing_of_what_the_judge_sees():
    net = network("llama", seed=2)
    wanted = [c.ids for c in generate(net, PROMPTS, Decoding(4), end_ids=(1,), pad_id=0)]
    drafts = [[ids[0], 9, *ids[2:]] for ids in wanted]
    module = SimpleNamespace(network=net, end_ids=(1,), pad_id=0)
    trainer = SimpleNamespace(global_rank=0, world_size=1)
    judges = [Scores([0.5]), Scores([0.5])]
    for judge, given in zip(judges, (None, drafts), strict=True):
        settings = {"every_steps": 1, "max_completion_length": 4, "batch_size": 2}
        Validation(PROMPTS, judge, **settings, drafts=given)._judged(trainer, module)
    assert judges[0].seen == judges[1].seen == [([0, 1, 2, 3, 4], wanted)]


def test_the_best_weights_are_those_of_a_training_step(rows, tmp_path):
    """The highest score is the start's, which is not offered; of the rest step 2 is the best."""
    _, history, validation = trained(tmp_path, rows, Scores([0.9, 0.6, 0.3, 0.6]))
    assert [line["dev/accuracy"] for line in history] == pytest.approx([0.9, 0.6, 0.3, 0.6])
    assert (validation.best.score, validation.best.step) == (pytest.approx(0.6), 2)


def test_a_target_stops_the_fit_at_the_step_that_reaches_it(rows, tmp_path):
    """Not at the start, whose score was high enough; the checkpoint of the last step is written."""
    module, history, validation = trained(tmp_path, rows, Scores([0.9, 0.2, 0.7]), target=0.7)
    assert validation.stopped
    assert module.trainer.global_step == 4
    assert [line["step"] for line in history] == [0, 2, 4]
    assert saved_checkpoints(tmp_path / "checkpoints")[0].name == "step-00000004.ckpt"


def test_a_target_that_is_not_reached_stops_nothing(rows, tmp_path):
    module, _, validation = trained(tmp_path, rows, Scores([0.9, 0.2, 0.69]), target=0.7)
    assert not validation.stopped
    assert module.trainer.global_step == 5


def test_without_prompts_there_is_the_loss_alone(rows, tmp_path):
    validation = validation_of(tmp_path, prompts=[])
    _, history = fitted(tmp_path, dropping_network(), data_of(rows), validation=validation)
    assert [set(line) for line in history] == [{"step", "val/loss"}] * 3
    assert validation.best.step is None


def test_figures_reach_every_logger_at_their_step(rows, tmp_path):
    run = run_of()
    for name in ("one", "two"):
        run.settings.logger[name] = {"_target_": CSV, "save_dir": str(tmp_path / name)}
    module, history, _ = trained(tmp_path / "fit", rows, Scores([0.1, 0.2, 0.3]), run=run)
    for name in ("one", "two"):
        (path,) = (tmp_path / name).rglob("metrics.csv")
        lines = [x for x in csv.DictReader(path.read_text().splitlines()) if x["dev/accuracy"]]
        assert [float(x["step"]) for x in lines] == [x["step"] for x in history]
        found = [float(x["dev/accuracy"]) for x in lines]
        assert found == [x["dev/accuracy"] for x in history]
    assert float(module.trainer.callback_metrics["dev/accuracy"]) == pytest.approx(0.3)


def test_prompts_are_dealt_to_the_ranks_and_their_sums_added():
    """Rank 1 of 2 does prompts 1 and 3; the other's sums are 3 right of 3."""
    judge = Scores([0.5])
    validation = Validation(PROMPTS, judge, every_steps=1, max_completion_length=2)
    other = torch.tensor([3.0, 3.0])

    def reduce(tensor, reduce_op):
        assert reduce_op == "sum"
        return tensor + other

    strategy = SimpleNamespace(root_device="cpu", reduce=reduce)
    trainer = SimpleNamespace(global_rank=1, world_size=2, strategy=strategy)
    module = SimpleNamespace(network=network(), end_ids=(1,), pad_id=0)
    shares = validation._judged_shares(trainer, validation._judged(trainer, module))
    assert shares == {"dev/accuracy": (1 + 3) / (2 + 3)}
    assert judge.seen[0][0] == [1, 3]


# --- the loss ---


@dataclass
class Breaking:
    """The clipped objective, whose policy term is `value` from its `at`-th micro-batch on."""

    at: int
    value: float
    seen: int = 0

    def __call__(self, tokens):
        self.seen += 1
        sums = rlmec_clipped(tokens)
        if self.seen < self.at:
            return sums
        return ObjectiveSums(sums.policy * self.value, sums.imitation, 1.0, sums.metrics)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("accumulate", "step"), [(1, 4), (3, 4)])
def test_a_loss_that_is_no_number_stops_before_it_is_saved(value, accumulate, step, rows, tmp_path):
    """Checkpoints every step; the last one written is of the step before."""
    at = accumulate * (step - 1) + 1
    with pytest.raises(RuntimeError, match=r"loss is (nan|-?inf) at optimizer step [34]: lower"):
        fitted(
            tmp_path,
            dropping_network(),
            data_of(rows, steps=6, accumulate=accumulate),
            run=run_of(save_every=1),
            objective=Breaking(at, value),
        )
    newest = saved_checkpoints(tmp_path / "checkpoints")[0]
    assert newest.name == f"step-{step - 1:08d}.ckpt"
    state = torch.load(newest, weights_only=True)["state_dict"]
    assert all(v.isfinite().all() for v in state.values())


def test_a_loss_that_is_no_number_is_seen_before_validation(rows, tmp_path):
    """Otherwise broken weights could be offered as the best ones."""
    judge = Scores([0.1, 0.9])
    validation = validation_of(tmp_path, judge=judge, prompts=PROMPTS)
    data, broken = data_of(rows, steps=4), Breaking(2, float("nan"))
    with pytest.raises(RuntimeError, match="loss is nan"):
        fitted(tmp_path, dropping_network(), data, validation=validation, objective=broken)
    assert len(judge.seen) == 1
    assert validation.best.step is None


def test_a_finite_loss_passes():
    outputs = {"loss": torch.tensor(3.0)}
    trainer = SimpleNamespace(global_step=1)
    FiniteLoss().on_train_batch_end(trainer, None, outputs, None, 0)
    with pytest.raises(RuntimeError, match="loss is inf at optimizer step 1"):
        FiniteLoss().on_train_batch_end(trainer, None, {"loss": torch.tensor(torch.inf)}, None, 0)


# --- progress ---


def test_progress_tells_steps_epochs_and_figures(rows, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("rlmec.runtime.display.LINE_SECONDS", 0.0)
    trained(tmp_path, rows, Scores([0.25]), accumulate=3)
    lines = [
        x
        for x in capsys.readouterr().out.splitlines()
        if x.startswith("  policy:") and "tokens/s" in x and "completions" not in x
        if "validation" not in x
    ]
    assert [re.match(r"  policy: (\d)/5 steps, epoch \d\.\d", x)[1] for x in lines] == list("12345")
    assert "dev 0.250" in lines[0]
    assert re.search(r"loss \d+\.\d{3}, dev 0\.250, [\d,]+ tokens/s$", lines[-1])
    assert lines[0].endswith(" s left")


def test_progress_ends_when_the_fit_fails(rows, tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr("rlmec.training.callbacks.Bar.close", lambda bar: closed.append(bar.name))
    with pytest.raises(RuntimeError):
        fitted(tmp_path, dropping_network(), data_of(rows), objective=Breaking(2, float("nan")))
    assert closed == ["policy"]


def test_speed_counts_real_tokens(rows, monkeypatch):
    """Two batches of 30 and 12 real tokens in 1 second each; padding and a validation of 50
    seconds between them are not counted."""
    clock = iter([100.0, 101.0, 151.0, 152.0])
    monkeypatch.setattr(
        "rlmec.training.callbacks.time", SimpleNamespace(monotonic=lambda: next(clock))
    )
    found = {}
    trainer = SimpleNamespace(
        is_global_zero=False,
        world_size=1,
        accumulate_grad_batches=1,
        log_every_n_steps=1,
        global_step=1,
        loggers=[],
        callback_metrics=found,
    )
    progress = Progress("policy", lambda step: 0.0, False)
    module = SimpleNamespace(steps=9)
    progress.on_train_start(trainer, module)
    for index, real in enumerate((30, 12)):
        mask = torch.zeros(4, 20, dtype=torch.int64)
        mask.view(-1)[:real] = 1
        batch = {"attention_mask": mask}
        progress.on_train_batch_start(trainer, module, batch, index)
        progress.on_train_batch_end(trainer, module, None, batch, index)
        assert float(found["train/tokens_per_second"]) == (30, 21)[index]
