"""Validation at optimizer steps: the loss over validation rows, and greedy completions, judged.

In: a fit, prompts, and a judge of completions. Out: figures in the logs and in `history`, a score
for `BestWeights`, and the end of the training where a target is reached.

Validation runs in `on_train_batch_end`, which Lightning calls before the resume checkpoint is
written: the checkpoint of a step always contains the validation of that step. Lightning's own
validation loop counts micro-batches and epochs, and a fit here is a single epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from rlmec.lm.draft_decoding import rewrite
from rlmec.lm.generation import Completion, Decoding, generate
from rlmec.runtime import signals
from rlmec.runtime.display import within
from rlmec.training.callbacks import agreed_signal
from rlmec.training.checkpoints import BestWeights
from rlmec.training.module import CompletionModule, publish

Judge = Callable[[list[int], list[Completion]], dict[str, float]]


class Validation(Callback):
    """Validates before the first step, every `every_steps` optimizer steps, and at the last step.

    - `judge` gets the numbers of the prompts that this rank completed, and the completions. It
      returns sums over them as floats, one of them named `count`. The callback adds the sums over
      the ranks and logs each divided by the count as `{prefix}/{name}`.
    - `drafts` of the completions make decoding faster and change nothing in the result.
    - `watched` is a number of training rows: the mean entropy at their scored tokens is logged.
    - `best` is offered the figure named `monitor`. Training ends at the first optimizer step at
      which this figure reaches `target`, or has not exceeded its best for `patience` validations.

    A signal that asks the run to stop ends the validation on all ranks without a figure. The fit is
    then saved and stopped, and a resume starts with that validation.
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
        patience: int | None = None,
        drafts: Sequence[list[int]] | None = None,
        watched: int = 0,
    ) -> None:
        self.prompts = list(prompts)
        self.judge = judge
        self.every_steps = every_steps
        self.decoding = Decoding(max_completion_length)
        self.batch_size = batch_size
        self.prefix = prefix
        self.monitor = monitor
        self.best = best
        self.target = target
        self.patience = patience
        self.drafts = drafts
        self.watched = watched

        self.history: list[dict[str, float]] = []
        self.stopped = False
        self._signal: int | None = None  # the signal that ended the last validation

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history, "stopped": self.stopped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = state_dict["history"]
        self.stopped = state_dict["stopped"]

    # --- when it runs ---

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.stopped:  # a checkpoint of a fit that had reached its target
            trainer.should_stop = True
            return
        if self.history and not self._was_interrupted(trainer.global_step, pl_module.steps):
            return

        self._validate(trainer, pl_module)
        if self._signal is not None:
            where = f"in the validation of optimizer step {trainer.global_step}"
            raise signals.RunStopped(self._signal, where)

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
        if self._is_due(trainer.global_step, pl_module.steps):
            self._validate(trainer, pl_module)

    def _is_due(self, step: int, last: int) -> bool:
        return step % self.every_steps == 0 or step == last

    def _was_interrupted(self, step: int, last: int) -> bool:
        """Whether the fit was stopped in the validation of the step that it now resumes from."""
        return self._is_due(step, last) and self.history[-1]["step"] != step

    # --- what it does ---

    def _validate(self, trainer: L.Trainer, pl_module: CompletionModule) -> None:
        figures = self._figures(trainer, pl_module)
        if figures is None:
            return
        self.history.append({"step": float(trainer.global_step), **figures})
        publish(trainer, figures)

        # The weights before the first step are neither the best nor a reason to stop.
        score = figures.get(f"{self.prefix}/{self.monitor}")
        if score is None or not trainer.global_step:
            return
        if self.best is not None:
            self.best.offer(trainer, score)
        reached = self.target is not None and score >= self.target
        if reached or (self.patience is not None and self._stale() >= self.patience):
            self.stopped = True
            trainer.should_stop = True

    def _stale(self) -> int:
        """Validations since the monitored figure was best; the one before the first step aside."""
        name = f"{self.prefix}/{self.monitor}"
        scores = [line[name] for line in self.history if line["step"] and name in line]
        return len(scores) - 1 - scores.index(max(scores))

    def _figures(self, trainer: L.Trainer, pl_module: CompletionModule) -> dict[str, float] | None:
        """The figures over all ranks; None if any rank was asked to stop meanwhile."""
        means: dict[str, list[float]] = {}
        sums: dict[str, float] = {}
        precision: Any = trainer.precision_plugin

        def measure() -> None:
            try:
                with precision.forward_context():
                    for name, batches, step in self._measured(trainer, pl_module):
                        means[name] = self._summed(pl_module, batches, step)
                    sums.update(self._judged(trainer, pl_module))
            except signals.RunStopped:
                pl_module.train()

        pl_module.with_whole_weights(measure)

        # Ranks add up their sums only if all of them have measured everything.
        self._signal = agreed_signal(trainer)
        if self._signal is not None:
            return None
        totals = {name: self._over_ranks(trainer, own) for name, own in means.items()}
        figures = {name: total / count for name, (total, count) in totals.items() if count}
        return figures | self._judged_shares(trainer, sums)

    def _measured(
        self, trainer: Any, pl_module: CompletionModule
    ) -> Iterator[tuple[str, Any, Any]]:
        """Name, batches and step function of each figure that needs no completions."""
        data = trainer.datamodule
        yield "val/loss", data.val_dataloader(), pl_module.validation_step
        if self.watched:
            yield "val/entropy", data.watched_batches(self.watched), pl_module.entropy_step

    @torch.no_grad()
    def _summed(
        self, pl_module: CompletionModule, batches: Sequence[Any], step: Any
    ) -> list[float]:
        """The sum over this rank's batches of what `step` gives: a total and its token count."""
        sums = torch.zeros(2, dtype=torch.float64)
        pl_module.eval()
        for i, batch in enumerate(batches):
            signals.check()
            within(i, len(batches), "validation batches")
            moved = {k: v.to(pl_module.device) for k, v in batch.items()}
            sums += step(moved, i).double().cpu()
        pl_module.train()
        return sums.tolist()

    def _judged(self, trainer: L.Trainer, pl_module: CompletionModule) -> dict[str, float]:
        """The judge's sums over the prompts of this rank."""
        if not self.prompts:
            return {}
        numbers = list(range(trainer.global_rank, len(self.prompts), trainer.world_size))
        completions: list[Completion] = []
        for start in range(0, len(numbers), self.batch_size):
            completions += self._completed(pl_module, numbers[start : start + self.batch_size])
        return self.judge(numbers, completions)

    def _completed(self, pl_module: CompletionModule, numbers: list[int]) -> list[Completion]:
        prompts = [self.prompts[i] for i in numbers]
        ids: dict[str, Any] = {"end_ids": pl_module.end_ids, "pad_id": pl_module.pad_id}
        if self.drafts is None:
            return generate(pl_module.network, prompts, self.decoding, **ids)

        drafts = [self.drafts[i] for i in numbers]
        limit = self.decoding.max_completion_length
        return [r.completion for r in rewrite(pl_module.network, prompts, drafts, limit, **ids)]

    def _judged_shares(self, trainer: L.Trainer, sums: dict[str, float]) -> dict[str, float]:
        """The judge's sums of all ranks, each divided by the count of all ranks."""
        names = sorted(sums)
        values = self._over_ranks(trainer, [sums[name] for name in names])
        totals = dict(zip(names, values, strict=True))
        count = max(totals.pop("count", 0.0), 1.0)
        return {f"{self.prefix}/{name}": value / count for name, value in totals.items()}

    def _over_ranks(self, trainer: L.Trainer, values: list[float]) -> list[float]:
        if trainer.world_size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=trainer.strategy.root_device)
        return trainer.strategy.reduce(tensor, reduce_op="sum").tolist()
