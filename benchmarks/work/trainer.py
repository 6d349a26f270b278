"""The row `trainer`: what Lightning, callbacks, and logging add to a bare loop over batches."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from benchmarks import networks
from benchmarks.batches import PAD, batch_loss, planned
from benchmarks.bench import Bench
from benchmarks.credit import credited_pairs
from benchmarks.measurement import Result, at_most
from benchmarks.samples import Sample
from rlmec.method.objectives import rlmec_clipped
from rlmec.training.policy_module import PolicyModule

CONF = Path(__file__).resolve().parents[2] / "conf"
WARM = 5
CLIP = 1.0
SMALL = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 4096,
}
CSV = "lightning.pytorch.loggers.CSVLogger"


class _Stamped(PolicyModule):
    """A policy module that records the time at which every step begins."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.stamps.append(time.perf_counter())
        super().on_train_batch_start(batch, batch_idx)

    stamps: list[float]


def trainer(bench: Bench, *, steps: int, bound: float) -> list[Result]:
    """Return the milliseconds per step on a very small network.

    The added time does not depend on the size of the network, and a small one makes it visible.
    Both sides have batches from the loader, loss, backward pass, clipping, AdamW, and schedule.
    Ours adds Lightning, the callbacks of a fit, metrics, and a CSV line every 10 steps. Checkpoints
    are left out, because the time to write one depends on the network.
    """
    pairs = credited_pairs(
        [_folded(s) for s in bench.drawn(bench.samples.wrong, 64, salt=10)],
        None,
        punished_removed=0.8,
        punished_kept=0.05,
        seed=bench.seed,
    )

    bare = []
    ours = []
    errors = []
    for repeat in range(bench.repeats + 1):
        one, first = _bare(bench, pairs, steps)
        two, second = _fitted(bench, pairs, steps)
        if repeat:  # the first of each warms up
            bare.append(one * 1e3)
            ours.append(two * 1e3)

        # The weights after all steps must agree.
        gaps = zip(first.parameters(), second.parameters(), strict=True)
        errors.append(max(float((a - b).detach().abs().max()) for a, b in gaps))

    added = median(o - b for b, o in zip(bare, ours, strict=True))
    return [
        Result(
            "trainer",
            f"per step of {steps}",
            "ms",
            median(bare),
            median(ours),
            [b / o for b, o in zip(bare, ours, strict=True)],
            promises=(at_most(bound, added, " ms added"),),
            error=max(errors),
            error_limit=1e-4,
            more={"added ms": round(added, 2)},
        )
    ]


def _parts(bench: Bench, pairs: Any, steps: int) -> tuple[Any, Any]:
    """A module with the same weights each time, and its data."""
    network = networks.build(SMALL, 512, "32-true", bench.device, bench.seed)
    data = planned(pairs, 8192, steps=steps, tokens_per_step=1000, accumulate=1)
    if data.plan.accumulate != 1:
        raise ValueError(
            f"{data.plan.accumulate} micro-batches per step, but the bare loop takes one"
        )

    module = _Stamped(
        network,
        pad_id=PAD,
        end_ids=(1,),
        objective=partial(rlmec_clipped, policy_coef=1.0, per_attempt_token=False),
        steps=steps,
        optimizer=partial(torch.optim.AdamW, lr=1e-3),
        scheduler=partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda step: 1.0),
    )
    module.stamps = []
    return module, data


def _folded(sample: Sample) -> Sample:
    """The sample with its ids mapped into the small vocabulary."""

    def fold(ids: list[int]) -> list[int]:
        return [t % 510 + 2 if t > 1 else t for t in ids]

    return Sample(
        sample.problem, fold(sample.prompt), [], fold(sample.attempt), fold(sample.target)
    )


def _a_step(stamps: list[float]) -> float:
    """Mean seconds between the beginnings of steps, without the first few steps."""
    return (stamps[-1] - stamps[WARM]) / max(len(stamps) - 1 - WARM, 1)


def _bare(bench: Bench, pairs: Any, steps: int) -> tuple[float, Any]:
    module, data = _parts(bench, pairs, steps)
    optimizer = module.optimizer(module.parameters())
    schedule = module.scheduler(optimizer)
    for batch in data.train_dataloader():
        module.stamps.append(time.perf_counter())
        batch = {name: value.to(bench.device) for name, value in batch.items()}
        batch_loss(module, batch).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return _a_step(module.stamps), module


def _fitted(bench: Bench, pairs: Any, steps: int) -> tuple[float, Any]:
    from rlmec.pipeline.fit import fit
    from rlmec.pipeline.run_logs import RunLogs
    from rlmec.runtime.ranks import Ranks
    from rlmec.settings.check import check

    # The benchmark is a Hydra program itself, whose own composition is done by now.
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        chosen = [f"trainer={'gpu' if bench.on_gpu else 'cpu'}", "logger=none"]
        defaults = check(compose("train", overrides=chosen))
    module, data = _parts(bench, pairs, steps)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        around = SimpleNamespace(
            model=replace(defaults.model, shape={}),
            trainer=replace(defaults.trainer, progress_bar=False),
            callbacks=replace(defaults.callbacks, checkpoint_every_steps=10**9, keep_checkpoints=1),
            logger={"csv": {"_target_": CSV, "save_dir": folder}},
            stage="policy",
            ckpt_path=None,
            resume="auto",
        )
        run: Any = SimpleNamespace(
            ranks=Ranks(),
            say=lambda text: None,
            settings=around,
            asked="policy",
            logs=RunLogs(around.logger, "benchmark", {}, print),
        )
        settings = replace(
            defaults.policy, seed=bench.seed, steps=steps, gradient_clip=CLIP, precision="32-true"
        )
        fit(run, "policy", settings, Path(folder), module, data, None)
    return _a_step(module.stamps), module


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the messages of Lightning at the start of a fit."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            log.setLevel(level)
