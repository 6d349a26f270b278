"""Callbacks of a fit other than validation and checkpoints: stopping it, and showing what it does.

In: the hooks of a Lightning fit. Out: a fit that ends at a whole optimizer step when a signal asks
for it, an error where the loss is no longer finite, a progress bar, and a file with the logged
figures of the training.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback

from rlmec.runtime import signals
from rlmec.runtime.display import Bar
from rlmec.training.module import publish

# --- stopping ---


class StopRequests(Callback):
    """Ends a fit at the optimizer step at which a signal has asked any of the ranks to stop.

    `ResumeCheckpoint` saves that step first and then calls `end`. With `saves` False there is no
    ResumeCheckpoint, and the fit ends without a checkpoint.
    """

    def __init__(self, title: str, saves: bool) -> None:
        self.title = title
        self.saves = saves
        self.number: int | None = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        batch_idx = args[-1]
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        self.number = agreed_signal(trainer)
        if not self.saves:
            self.end(trainer, pl_module)

    def end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Raises RunStopped if the ranks have agreed to stop."""
        if self.number is None:
            return
        kept = "is saved" if self.saves else "is lost: a fit under DeepSpeed is not saved"
        where = f"{self.title} at optimizer step {trainer.global_step} of {pl_module.steps}"
        raise signals.RunStopped(self.number, f"{where}, which {kept}")


def agreed_signal(trainer: L.Trainer) -> int | None:
    """The signal that asked any rank to stop, None if there was none. All ranks must call it.

    The lowest rank's signal wins: rank 0 passes Ctrl-C on to the other ranks as SIGTERM, and the
    run must end as by Ctrl-C.
    """
    number = signals.requested()
    if trainer.world_size == 1:
        return number

    # One maximum over the ranks finds both: the lowest rank in the high bits, its signal below.
    ranked = 0 if number is None else 256 * (trainer.world_size - trainer.global_rank) + number
    asked = torch.tensor([ranked], device=trainer.strategy.root_device)
    dist.all_reduce(asked, op=dist.ReduceOp.MAX)
    return int(asked) % 256 or None


def keep_signals(trainer: L.Trainer) -> L.Trainer:
    """The trainer, which now leaves this project's signal handlers in place.

    Lightning's own handlers end a fit in the middle of a step, and the program with exit code 0.
    """
    connector: Any = trainer._signal_connector
    if not callable(getattr(connector, "register_signal_handlers", None)):
        raise RuntimeError("this version of lightning registers signal handlers in an unknown way")
    connector.register_signal_handlers = lambda: None
    return trainer


class FiniteLoss(Callback):
    """Raises RuntimeError when the loss is not finite, with the step and the settings to change."""

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


# --- showing ---


class Progress(Callback):
    """A progress bar: optimizer steps, data epochs, loss, last validation, tokens per second."""

    def __init__(self, name: str, epoch_at: Callable[[int], float], wanted: bool) -> None:
        self.name = name
        self.epoch_at = epoch_at
        self.wanted = wanted
        self._bar: Bar | None = None
        self._began = 0.0  # the micro-batch in work
        self._seconds = 0.0  # in forward and backward passes and optimizer steps
        self._tokens = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._seconds = 0.0
        self._tokens = 0.0
        if trainer.is_global_zero:
            step = trainer.global_step
            self._bar = Bar(self.name, pl_module.steps, "steps", wanted=self.wanted, done=step)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._began = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._tokens += int(batch["attention_mask"].sum()) * trainer.world_size
        self._seconds += time.monotonic() - self._began
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return

        speed = self._tokens / max(self._seconds, 1e-9)
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


class TrainingCurve(Callback):
    """Writes the logged figures to `path` for figures and diagnosis.

    Each logged optimizer step is one line of JSON with `step` and the `train/...` figures. The
    curve is not part of a checkpoint, because a step is written after its checkpoint: a fit that
    resumes keeps the lines up to its step. A line that was not written by then is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last_step = -1.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        text = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""

        # A crash can leave half a line at the end.
        lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
        kept = [line for line in lines if json.loads(line)["step"] <= trainer.global_step]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("".join(kept), encoding="utf-8")
        self._last_step = json.loads(kept[-1])["step"] if kept else -1.0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # At the start of the next step all callbacks have published their figures of the last one.
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._write_step(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write_step(trainer, pl_module)

    def _write_step(self, trainer: Any, pl_module: Any) -> None:
        step = float(trainer.global_step)
        if step % trainer.log_every_n_steps and step != pl_module.steps:
            return  # nothing was logged at this step

        known = trainer.callback_metrics.items()
        figures = {name: float(value) for name, value in known if name.startswith("train/")}
        if figures and step > self._last_step and trainer.is_global_zero:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **figures}) + "\n")
            self._last_step = step
