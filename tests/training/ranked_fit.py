"""One rank of several fits, started by test_strategies: python ranked_fit.py FOLDER JOB...

The environment names rank, world and port, as torchrun would. Of each job rank 0 leaves the loss of
the last step and the weights in a folder of its own.
"""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from small_fits import (
    adapted_network,
    credited_rows,
    data_of,
    fit_settings,
    module_of,
    run_of,
    validation_of,
)
from small_models import network, tokenizer

from rlmec.lm.loading import export_network, load_network
from rlmec.pipeline.fit import fit
from rlmec.runtime.ranks import Ranks

CASES = {
    "full": {"clip": None, "steps": 3, "accumulate": 1},
    "cut": {"clip": None, "steps": 3, "accumulate": 3},
    "clipped": {"clip": 0.05, "steps": 2, "accumulate": 1},
    "adapter": {"clip": None, "steps": 3, "accumulate": 1},
    "adam": {"clip": 0.05, "steps": 5, "accumulate": 2},
    "validated": {"clip": None, "steps": 4, "accumulate": 1},
    "compiled": {"clip": 0.05, "steps": 1, "accumulate": 1},
}
STRATEGIES = {
    "auto": "auto",
    "ddp": "ddp",
    "fsdp2": {"_target_": "rlmec.training.fsdp.FullyShardedStrategy"},
}


def network_of(case):
    return adapted_network(dropout=0.0) if case == "adapter" else network(seed=1)


class Stopped(Exception):
    pass


class StopAt:
    """The clipped objective, which stops the process at its n-th call."""

    def __init__(self, at):
        self.at, self.seen = at, 0

    def __call__(self, tokens):
        from rlmec.method.objectives import rlmec_clipped

        self.seen += 1
        if self.seen == self.at:
            raise Stopped
        return rlmec_clipped(tokens)


def run_fit(folder, strategy, case, ranks, stop_at=0):
    """The fit of a case; returns what every strategy must agree on."""
    s = CASES[case]
    folder.mkdir(parents=True, exist_ok=True)
    net = network_of(case)
    data = data_of(credited_rows(net), steps=s["steps"], accumulate=s["accumulate"])
    data.plan_for(ranks.world, ranks.rank)
    run = run_of(save_every=2, compiled=case == "compiled" and strategy != "auto")
    run.ranks = ranks
    trainer = replace(
        run.settings.trainer, strategy=STRATEGIES[strategy], devices=ranks.world, num_nodes=1
    )
    run.settings.trainer = trainer
    changes = {"ratio_tolerance": 1e-4, "objective": StopAt(stop_at)}
    if case == "adam":
        changes["optimizer"] = partial(torch.optim.AdamW, lr=0.01)
    module = module_of(net, data, **changes)
    validation = validation_of(folder, every=1) if case == "validated" else None
    try:
        settings = fit_settings(gradient_clip=s["clip"])
        history = fit(run, "policy", settings, folder, module, data, validation)
    except Stopped:
        return None
    if ranks.rank == 0:
        export_network(module.network, tokenizer(), folder / "model", module.whole_weights)
        _keep_weights(folder / "model", case, folder)
    found = {"loss": float(module.trainer.callback_metrics["train/loss"])}
    strategy = type(module.trainer.strategy).__name__
    found |= {"steps": module.trainer.global_step, "strategy": strategy}
    return found | {"history": history}


def _keep_weights(model, case, folder):
    """The exported weights: a plain model's all, of an adapter its own file."""
    if case == "adapter":
        from safetensors.torch import load_file

        weights = load_file(model / "adapter_model.safetensors")
    else:
        weights = load_network(model).state_dict()
    torch.save(weights, folder / "weights.pt")


def run_job(folder, job, ranks):
    """One job, `strategy:case`; or `strategy:case:n`: killed at micro-batch n, then resumed."""
    strategy, case, *stop = job.split(":")
    for at in stop:
        assert run_fit(folder, strategy, case, ranks, int(at)) is None, "it was not stopped"
    found = run_fit(folder, strategy, case, ranks)
    if ranks.rank == 0:
        torch.save(found, folder / "result.pt")


def main():
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    ranks = Ranks(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo"))
    for job in sys.argv[2:]:
        run_job(Path(sys.argv[1]) / job.replace(":", "_"), job, ranks)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
