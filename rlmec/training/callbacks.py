"""Callbacks of the fits: validation by loss and by generation, progress and throughput.

Validation runs at optimizer steps inside `on_train_batch_end`, before the resume checkpoint is
written, so that a checkpoint never stands between a step and its validation. The judge of generated
text comes from the door.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from rlmec.runtime.display import Bar
from rlmec.training.module import publish


class TrainingCurve(Callback):
    """Writes what was logged to `path`, one line of JSON a logged optimizer step, for figures and
    diagnosis: `step` and the `train/...` figures.

    It is no part of a checkpoint: a step is logged behind the checkpoint that is written at it. A
    fit that resumes keeps the lines up to its step; one that was not written then is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._last = path, -1.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        text = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""
        lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
        kept = [line for line in lines if json.loads(line)["step"] <= trainer.global_step]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("".join(kept), encoding="utf-8")
        self._last = json.loads(kept[-1])["step"] if kept else -1.0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._keep(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._keep(trainer, pl_module)

    def _keep(self, trainer: Any, pl_module: Any) -> None:
        step = float(trainer.global_step)
        if step % trainer.log_every_n_steps and step != pl_module.steps:
            return  # nothing was logged at this step
        known = trainer.callback_metrics.items()
        figures = {name: float(value) for name, value in known if name.startswith("train/")}
        if figures and step > self._last and trainer.is_global_zero:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **figures}) + "\n")
            self._last = step


class Progress(Callback):
    """What a fit is doing: optimizer steps, data epochs, loss, last validation, tokens a second."""

    def __init__(self, name: str, epoch_at: Callable[[int], float], wanted: bool) -> None:
        self.name, self.epoch_at, self.wanted = name, epoch_at, wanted
        self._bar: Bar | None = None
        self._began = self._tokens = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._began, self._tokens = time.monotonic(), 0.0
        if trainer.is_global_zero:
            step = trainer.global_step
            self._bar = Bar(self.name, pl_module.steps, "steps", wanted=self.wanted, done=step)

    def on_train_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._tokens += int(batch["attention_mask"].sum()) * trainer.world_size
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        speed = self._tokens / max(time.monotonic() - self._began, 1e-9)
        step = trainer.global_step
        if step % trainer.log_every_n_steps == 0 or step == pl_module.steps:
            publish(trainer, {"train/tokens_per_second": speed})
        if self._bar is not None:
            self._bar.update(step, self._text(trainer, speed))

    def _text(self, trainer: L.Trainer, speed: float) -> str:
        known = trainer.callback_metrics
        shown = {"loss": "train/loss", "dev": "dev/accuracy", "rewritten": "grm/rewrite_success"}
        parts = [f"{name} {float(known[key]):.3f}" for name, key in shown.items() if key in known]
        epoch = f"epoch {self.epoch_at(trainer.global_step):.1f}"
        return ", ".join([epoch, *parts, f"{speed:,.0f} tokens/s"])

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._bar is not None:
            self._bar.close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        self.on_train_end(trainer, pl_module)


class FiniteLoss(Callback):
    """Stops a fit whose loss is no longer a number, naming the step and the settings to look at."""

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        loss = float(outputs["loss"])
        if not math.isfinite(loss):
            raise RuntimeError(
                f"loss is {loss} at optimizer step {trainer.global_step}: lower the learning rate "
                f"or gradient_clip, or look at the rewards"
            )
