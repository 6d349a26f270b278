"""A small fit that is killed at any moment and resumed."""

from dataclasses import dataclass, field
from functools import partial

import torch
from paper_objective import rlmec_clipped
from small_fits import (
    Judge,
    adapted_network,
    credited_rows,
    data_of,
    dropping_network,
    fitted,
    run_of,
    validation_of,
    weights_of,
)
from transformers import get_cosine_schedule_with_warmup

from rlmec.training.checkpoints import saved_checkpoints

STEPS = 8


class Killed(Exception):
    pass


def kill_it(*args):
    raise Killed("after the fit")


@dataclass
class Objective:
    """The clipped objective; the fit is killed at micro-batch number `at` (0: never)."""

    at: int = 0
    seen: int = 0

    def __call__(self, tokens):
        self.seen += 1
        if self.seen == self.at:
            raise Killed(f"at micro-batch {self.at}")
        return rlmec_clipped(tokens)


@dataclass
class KillingJudge(Judge):
    """A judge; the fit is killed at validation number `at` (0: never)."""

    at: int = 0
    seen: int = field(default=0)

    def __call__(self, numbers, done):
        self.seen += 1
        if self.seen == self.at:
            raise Killed(f"at validation {self.at}")
        return super().__call__(numbers, done)


@dataclass
class Case:
    """A fit with dropout, AdamW, a falling learning rate and clipping, validated every 2 steps."""

    accumulate: int = 1
    workers: int = 0
    target: float | None = None
    save_every: int = 3
    lora: bool = False
    schedule: tuple[int, int] = (1, 1)

    def once(self, folder, *, objective_at=0, judge_at=0, said=None, **settings):
        """One attempt. Raises Killed if it is killed; otherwise returns all that must be equal."""
        net = adapted_network() if self.lora else dropping_network()
        rows = credited_rows(net)
        data = data_of(rows, steps=STEPS, accumulate=self.accumulate, workers=self.workers)
        judge = KillingJudge(at=judge_at)
        validation = validation_of(folder, judge=judge, target=self.target)
        module, history = fitted(
            folder,
            net,
            data,
            run=run_of(said=said, save_every=self.save_every, **settings),
            validation=validation,
            clip=1.0,
            objective=Objective(objective_at),
            optimizer=partial(torch.optim.AdamW, lr=0.01),
            scheduler=get_cosine_schedule_with_warmup,
            ratio_tolerance=1e-4,
            schedule=self.schedule,
        )
        newest = saved_checkpoints(folder / "checkpoints")[0]
        return {
            "weights": weights_of(module),
            "history": history,
            "best": (validation.best.score, validation.best.step),
            "steps": module.trainer.global_step,
            "files": sorted(p.name for p in (folder / "checkpoints").iterdir()),
            "checkpoint": without_progress(torch.load(newest, weights_only=True)),
        }


def without_progress(checkpoint):
    """A checkpoint without Lightning's loop counters."""
    return {name: value for name, value in checkpoint.items() if name != "loops"}


def resumed_steps(said):
    return [int(t.split("optimizer step ")[1].split(" ")[0]) for t in said if "resumes" in t]
