"""Fits as the stages run them, on very small models: `fit` with a stand-in for the `Run`."""

from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from paper_objective import rlmec_clipped
from small_models import network, prompts, ragged_ids
from small_settings import part

from rlmec.data.datamodule import PlanSettings, SolutionPairDataModule
from rlmec.data.row import Row
from rlmec.lm.logprobs import TokenScorer, score_rows
from rlmec.lm.lora import with_lora
from rlmec.pipeline.fit import fit
from rlmec.pipeline.run_logs import RunLogs
from rlmec.runtime.ranks import Ranks
from rlmec.settings.schema import FitSettings
from rlmec.training.checkpoints import BestWeights
from rlmec.training.policy_module import PolicyModule
from rlmec.training.validation import Validation

CSV = "lightning.pytorch.loggers.CSVLogger"
SGD = partial(torch.optim.SGD, lr=0.5)
CONSTANT = partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda step: 1.0)


def credited_rows(scored_by, count=24, seed=0):
    """Ragged rows with rewards of both signs, weights, and old log-probs under `scored_by`."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(5, 24, count)
    bare = [
        Row.likelihood(f"r{i}", ids, int(draw.integers(1, 4)))
        for i, ids in enumerate(ragged_ids(lengths.tolist(), seed))
    ]
    old = score_rows(TokenScorer(scored_by), bare, 0)
    rewards = [draw.choice([0.0, -0.1, 0.3, 0.5], row.weights.size) for row in bare]
    weights = [draw.choice([0.0, 0.5, 1.0], row.weights.size) for row in bare]
    return [
        replace(row, token_rewards=r, old_logprobs=np.array(o), weights=w)
        for row, r, o, w in zip(bare, rewards, old, weights, strict=True)
    ]


def data_of(rows, *, steps=3, accumulate=1, tokens_per_step=90, workers=0):
    """A DataModule over `rows`, planned for one rank."""
    plan = PlanSettings(
        tokens_per_step, seed=1, steps=steps, accumulate=accumulate, num_workers=workers
    )
    data = SolutionPairDataModule(prompts(), [], lambda _: rows, plan, val_rows=lambda _: rows[:5])
    data.plan_for(1, 0)
    return data


def module_of(net, data, **changes):
    """A PolicyModule with plain SGD over `net`, for the steps of `data`'s plan."""
    arguments = {"objective": rlmec_clipped, "optimizer": SGD, "scheduler": CONSTANT}
    return PolicyModule(net, pad_id=0, end_ids=(1,), steps=data.plan.steps, **(arguments | changes))


def run_of(*, save_every=3, keep=2, log_every=1, logs=None, said=None, compiled=False, **settings):
    """The attributes of a run with one process that `fit` reads."""
    said = [] if said is None else said
    logger = {} if logs is None else {"csv": {"_target_": CSV, "save_dir": str(logs)}}
    asked = settings.pop("stage", "policy")
    around = {"ckpt_path": None, "resume": "auto"} | settings
    around |= {"model": part("model", compile=compiled)}
    trainer = part("trainer", progress_bar=False, log_every_n_steps=log_every)
    callbacks = part("callbacks", checkpoint_every_steps=save_every, keep_checkpoints=keep)
    return SimpleNamespace(
        ranks=Ranks(),
        say=said.append,
        log=said.append,
        asked=asked,
        logs=RunLogs(logger, "job", {"seed": 3}, said.append),
        settings=SimpleNamespace(trainer=trainer, callbacks=callbacks, logger=logger, **around),
    )


def fit_settings(**changes):
    given = {"optimizer": {}, "scheduler": {}, "seed": 3, "steps": 1, "gradient_clip": None}
    given |= {"epochs": None, "tokens_per_step": 8192, "max_length": 2048, "warmup_share": 0.03}
    given |= {"precision": "32-true", "val_every_steps": 50, "val_problems": 200}
    return FitSettings(**(given | changes))


def fitted(folder, net, data, *, run=None, validation=None, clip=None, **changes):
    """Fits and returns (module, history)."""
    module = module_of(net, data, **changes)
    settings = fit_settings(gradient_clip=clip)
    run = run_of() if run is None else run
    return module, fit(run, "policy", settings, folder, module, data, validation)


def weights_of(module):
    return {name: p.detach().clone() for name, p in module.network.named_parameters()}


@dataclass
class Judge:
    """Scores that depend on the texts: the share of completion tokens above half the vocabulary."""

    target: int = 150

    def __call__(self, numbers, done):
        high = sum(sum(t > self.target for t in c.ids) / len(c.ids) for c in done)
        return {"accuracy": high, "clipped_rate": sum(c.clipped for c in done), "count": len(done)}


def validation_of(folder, *, every=2, judge=None, target=None, keep_best=True, prompts=None):
    return Validation(
        ragged_ids([4, 7, 2], seed=9) if prompts is None else prompts,
        judge or Judge(),
        every_steps=every,
        max_completion_length=4,
        best=BestWeights(folder / "checkpoints") if keep_best else None,
        target=target,
    )


def dropping_network():
    """A small network with dropout, at the same random weights each time."""
    return network("gpt2", seed=5, dropout=True)


def adapted_network(*, dropout=0.2):
    """The same network without dropout, frozen, with an adapter that has dropout."""
    return with_lora(network("gpt2", seed=5), r=4, alpha=8.0, dropout=dropout, seed=6)


def torn_save(end):
    """A torch.save that leaves half of its bytes in the file and then calls `end`."""
    whole = torch.save

    def save(obj, stream):
        at = stream.tell()
        whole(obj, stream)
        stream.truncate(at + (stream.tell() - at) // 2)
        stream.flush()
        end()

    return save


def tear(path, share=0.5):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])


def equal_weights(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
