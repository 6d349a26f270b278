"""Validation by generation at optimizer steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from rlmec.lm.draft_decoding import rewrite
from rlmec.lm.generation import Completion, Decoding, generate
from rlmec.runtime import signals
from rlmec.training.callbacks import agreed_signal
from rlmec.training.checkpoints import BestWeights
from rlmec.training.module import CompletionModule, publish

Judge = Callable[[list[int], list[Completion]], dict[str, float]]


class Validation(Callback):
    """At some steps and at the last: loss over validation rows, and greedy completions, judged.

    It runs every `every_steps` optimizer steps. `judge` gets the numbers of the prompts that this
    rank completed and the completions, and returns sums (as floats) over them, `count` among them;
    the callback adds them over the ranks and logs each one's share as `{prefix}/{name}`. Of
    `watched` training rows the mean entropy at their scored tokens is logged beside it. With
    `drafts` of the completions they are found faster, and are the same. `best` is offered the share
    named `monitor`; training stops at the first optimizer step at which it reaches `target`.
    A signal that asks to stop ends it on all ranks without a figure; the fit is then saved and
    stopped, and when it goes on, that validation comes first.
    """

    def __init__(
        self,
        prompts: Sequence[list[int]],
        judge: Judge,
        *,
        every_steps: int,
        max_completion_length: int,
        batch_size: int = 256,
        prefix: str = "dev",
        monitor: str = "accuracy",
        best: BestWeights | None = None,
        target: float | None = None,
        drafts: Sequence[list[int]] | None = None,
        watched: int = 0,
    ) -> None:
        self.prompts, self.judge = list(prompts), judge
        self.drafts, self.watched = drafts, watched
        self.every_steps = every_steps
        self.decoding = Decoding(max_completion_length)
        self.batch_size, self.prefix, self.monitor = batch_size, prefix, monitor
        self.best, self.target = best, target
        self.history: list[dict[str, float]] = []
        self.stopped = False
        self._asked: int | None = None  # the signal that ended the last validation

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history, "stopped": self.stopped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history, self.stopped = state_dict["history"], state_dict["stopped"]

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.stopped:
            trainer.should_stop = True
        elif not self.history or self._owed(trainer.global_step, pl_module.steps):
            self._validate(trainer, pl_module)
            if self._asked is not None:
                where = f"in the validation of optimizer step {trainer.global_step}"
                raise signals.RunStopped(self._asked, where)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if self._due(trainer.global_step, pl_module.steps):
            self._validate(trainer, pl_module)

    def _due(self, step: int, last: int) -> bool:
        return step % self.every_steps == 0 or step == last

    def _owed(self, step: int, last: int) -> bool:
        """Whether the fit was stopped in the validation of the step it now goes on from."""
        return self._due(step, last) and self.history[-1]["step"] != step

    def _validate(self, trainer: L.Trainer, pl_module: CompletionModule) -> None:
        figures = self._figures(trainer, pl_module)
        if figures is None:
            return
        self.history.append({"step": float(trainer.global_step), **figures})
        publish(trainer, figures)
        score = figures.get(f"{self.prefix}/{self.monitor}")
        if score is None:
            return
        if self.best is not None and trainer.global_step:
            self.best.offer(trainer, score)
        if self.target is not None and score >= self.target and trainer.global_step:
            self.stopped = True
            trainer.should_stop = True

    def _figures(self, trainer: L.Trainer, pl_module: CompletionModule) -> dict[str, float] | None:
        """What was measured, over all ranks; None where any of them was asked to stop."""
        means: dict[str, list[float]] = {}
        sums: dict[str, float] = {}
        try:
            for name, batches, step in self._measured(trainer, pl_module):
                means[name] = self._summed(trainer, pl_module, batches, step)
            sums = self._generate(trainer, pl_module)
        except signals.RunStopped:
            pl_module.train()
        self._asked = agreed_signal(trainer)
        if self._asked is not None:
            return None
        totals = {name: self._added(trainer, mine) for name, mine in means.items()}
        shares = {name: total / count for name, (total, count) in totals.items() if count}
        return shares | self._shares(trainer, sums)

    def _shares(self, trainer: L.Trainer, sums: dict[str, float]) -> dict[str, float]:
        """The sums of all ranks over the count of all."""
        names = sorted(sums)
        totals = dict(zip(names, self._added(trainer, [sums[name] for name in names]), strict=True))
        count = max(totals.pop("count", 0.0), 1.0)
        return {f"{self.prefix}/{name}": value / count for name, value in totals.items()}

    def _measured(
        self, trainer: Any, pl_module: CompletionModule
    ) -> Iterator[tuple[str, Any, Any]]:
        """Name, batches and step of what is measured without completions; nothing where the ranks
        have different numbers of batches."""
        if pl_module.is_cut:
            return
        data = trainer.datamodule
        yield "val/loss", data.val_dataloader(), pl_module.validation_step
        if self.watched:
            yield "val/entropy", data.watched_batches(self.watched), pl_module.entropy_step

    @torch.no_grad()
    def _summed(
        self, trainer: Any, pl_module: CompletionModule, batches: Sequence[Any], step: Any
    ) -> list[float]:
        """Over this rank's batches: the sum of what `step` adds up, and the tokens it is over."""
        sums = torch.zeros(2, dtype=torch.float64)
        pl_module.eval()
        with trainer.precision_plugin.forward_context():
            for i, batch in enumerate(batches):
                signals.check()
                moved = {k: v.to(pl_module.device) for k, v in batch.items()}
                sums += step(moved, i).double().cpu()
        pl_module.train()
        return sums.tolist()

    def _generate(self, trainer: L.Trainer, pl_module: CompletionModule) -> dict[str, float]:
        """The judge's sums over the prompts of this rank."""
        if not self.prompts:
            return {}
        mine = list(range(trainer.global_rank, len(self.prompts), trainer.world_size))
        done: list[Completion] = []
        for start in range(0, len(mine), self.batch_size):
            done += self._completed(pl_module, mine[start : start + self.batch_size])
        return self.judge(mine, done)

    def _completed(self, pl_module: CompletionModule, numbers: list[int]) -> list[Completion]:
        prompts = [self.prompts[i] for i in numbers]
        ids: dict[str, Any] = {"end_ids": pl_module.end_ids, "pad_id": pl_module.pad_id}
        if self.drafts is None:
            return generate(pl_module.network, prompts, self.decoding, **ids)
        drafts = [self.drafts[i] for i in numbers]
        limit = self.decoding.max_completion_length
        return [r.completion for r in rewrite(pl_module.network, prompts, drafts, limit, **ids)]

    def _added(self, trainer: L.Trainer, values: list[float]) -> list[float]:
        if trainer.world_size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=trainer.strategy.root_device)
        return trainer.strategy.reduce(tensor, reduce_op="sum").tolist()
