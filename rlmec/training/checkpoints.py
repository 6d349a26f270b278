"""Checkpoints that cannot tear and resume that is exact.

A checkpoint is written at optimizer steps only, after validation of that step, in the folder of its
artifact: a temporary file, fsync, one rename. The two newest are kept, the newest that loads is
taken. The states of all random number generators travel as plain lists, gathered over the ranks.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.distributed as dist
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, Checkpoint

from rlmec.runtime import signals
from rlmec.store.artifacts import ArtifactError

_NAME = re.compile(r"step-(\d{8})\.ckpt")
_PART = ".part"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its final name, then renames it: a kill leaves the old or new."""

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        final = Path(path)
        final.parent.mkdir(parents=True, exist_ok=True)
        part = final.with_name(f"{final.name}.{os.getpid()}{_PART}")
        try:
            with part.open("wb") as stream:
                torch.save(checkpoint, stream)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(final)
            folder = os.open(final.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        finally:
            part.unlink(missing_ok=True)


def saved_checkpoints(folder: Path) -> list[Path]:
    """Resume checkpoints in a folder, newest first."""
    found = [path for path in folder.glob("step-*.ckpt") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: path.name, reverse=True)


def newest_loadable(folder: Path, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that loads, or None where there is none at all.

    Left-over parts are swept, and torn checkpoints newer than it, which would otherwise count among
    those kept. Raises ArtifactError where checkpoints exist but none loads: a run
    never starts from scratch in silence.
    """
    for left in (*folder.glob(f"*{_PART}"), *folder.glob("weights-*.ckpt")):
        left.unlink()
    found = saved_checkpoints(folder)
    for path in found:
        try:
            read_checkpoint(path)
        except Exception as error:  # any torn file: the kind of error depends on where it is torn
            say(f"{path}: does not load ({type(error).__name__}), trying the one before")
            continue
        remove_newer(folder, step_of(path))
        return path
    if found:
        raise ArtifactError(
            f"{folder}: none of {len(found)} checkpoints loads; remove them to start anew"
        )
    return None


def remove_newer(folder: Path, step: int) -> None:
    """Drops resume checkpoints after `step`: a fit that goes on from there makes them anew."""
    for path in saved_checkpoints(folder):
        if step_of(path) > step:
            path.unlink()


def saved_step(path: Path) -> int:
    """The optimizer step at which a checkpoint of any name was saved."""
    return int(read_checkpoint(path)["global_step"])


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's plain values and tensors, which stay on disk until they are used."""
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def step_of(path: Path) -> int:
    """The optimizer step in a checkpoint's name."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path}: not a resume checkpoint (step-00000000.ckpt)")
    return int(match[1])


def keep_signals(trainer: L.Trainer) -> L.Trainer:
    """The trainer, without the handlers of its own that it would put in the place of ours: they end
    a fit in the middle of a step, and the program with 0."""
    connector: Any = trainer._signal_connector
    if not callable(getattr(connector, "register_signal_handlers", None)):
        raise RuntimeError("this version of lightning takes signals in a way that is not known")
    connector.register_signal_handlers = lambda: None
    return trainer


class StopRequests(Callback):
    """Ends a fit at the optimizer step at which a signal has asked any of the ranks to stop.

    The step is saved first by `ResumeCheckpoint`, which calls `end`; without one (`saves` is False)
    the fit ends unsaved.
    """

    def __init__(self, title: str, saves: bool) -> None:
        self.title, self.saves = title, saves
        self.number: int | None = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        if (args[-1] + 1) % trainer.accumulate_grad_batches:
            return
        self.number = agreed(trainer)
        if not self.saves:
            self.end(trainer, pl_module)

    def end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Raises RunStopped where the ranks have agreed to stop."""
        if self.number is not None:
            kept = "is saved" if self.saves else "is lost: a fit under DeepSpeed is not saved"
            where = f"{self.title} at optimizer step {trainer.global_step} of {pl_module.steps}"
            raise signals.RunStopped(self.number, f"{where}, which {kept}")


def agreed(trainer: L.Trainer) -> int | None:
    """The signal that any rank was asked to stop by, the first rank's before the others': what it
    passes on reaches them as SIGTERM. All ranks call it."""
    number = signals.requested()
    if trainer.world_size == 1:
        return number
    ranked = 0 if number is None else 256 * (trainer.world_size - trainer.global_rank) + number
    asked = torch.tensor([ranked], device=trainer.strategy.root_device)
    dist.all_reduce(asked, op=dist.ReduceOp.MAX)
    return int(asked) % 256 or None


class ResumeCheckpoint(Checkpoint):
    """Saves every `every_steps` optimizer steps, at the last one and where `stops` will end the
    fit; keeps the newest `keep`. It is called last."""

    def __init__(
        self,
        folder: Path,
        every_steps: int,
        keep: int,
        best: BestWeights | None,
        stops: StopRequests,
    ) -> None:
        super().__init__()
        self.folder, self.every_steps, self.keep, self.best = folder, every_steps, keep, best
        self.stops = stops

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        step = trainer.global_step
        between = (args[-1] + 1) % trainer.accumulate_grad_batches
        due = step % self.every_steps == 0 or step == pl_module.steps or trainer.should_stop
        if between or not (due or self.stops.number is not None):
            return
        trainer.save_checkpoint(self.folder / f"step-{step:08d}.ckpt")
        if trainer.is_global_zero:
            for old in saved_checkpoints(self.folder)[self.keep :]:
                old.unlink()
            if self.best is not None:
                self.best.prune(self.keep)
        self.stops.end(trainer, pl_module)


class BestWeights(Callback):
    """Keeps the weights of the best score seen; a score is offered by `offer` at an optimizer step.

    Ties keep the earlier one. The scores stand in the resume checkpoint; files that an earlier kept
    checkpoint may still name stay until it is gone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.score: float | None = None
        self.step: int | None = None
        self.history: list[int | None] = []

    def state_dict(self) -> dict[str, Any]:
        return {"score": self.score, "step": self.step, "history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.score, self.step = state_dict["score"], state_dict["step"]
        self.history = [*state_dict["history"], self.step]

    def offer(self, trainer: L.Trainer, score: float) -> bool:
        """True where `score` is a new best; its weights are then on disk."""
        if self.score is not None and score <= self.score:
            return False
        self.score, self.step = score, trainer.global_step
        trainer.save_checkpoint(self.path(self.step), weights_only=True)
        return True

    def path(self, step: int) -> Path:
        return self.folder / f"best-{step:08d}.ckpt"

    def prune(self, keep: int) -> None:
        """After a resume checkpoint: drops weights that none of the newest `keep` names."""
        self.history = [*self.history, self.step][-keep:]
        named = {self.path(step) for step in self.history if step is not None}
        for path in self.folder.glob("best-*.ckpt"):
            if path not in named:
                path.unlink()


class RandomStates(Callback):
    """Random number generators of all ranks in the checkpoint, put back when training starts."""

    def __init__(self) -> None:
        self._loaded: list[Any] | None = None

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        states: list[Any] = [None] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(states, _random_state())
        else:
            states[0] = _random_state()
        checkpoint["rlmec_random_states"] = states

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._loaded = checkpoint.get("rlmec_random_states")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._loaded is None:
            if trainer.global_step:  # weights alone (resume=weights): not the step-0 numbers again
                torch.manual_seed(torch.initial_seed() + trainer.global_step)
            return
        if len(self._loaded) != trainer.world_size:
            raise ValueError(
                f"the checkpoint is of {len(self._loaded)} ranks, this run has {trainer.world_size}"
            )
        _set_random_state(self._loaded[trainer.global_rank])
        self._loaded = None


def _random_state() -> dict[str, Any]:
    version, numbers, gauss = random.getstate()
    numbers_of = np.random.get_state(legacy=False)
    inner = numbers_of["state"]
    cuda = [s.tolist() for s in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else []
    return {
        "torch": torch.get_rng_state().tolist(),
        "cuda": cuda,
        "python": [version, list(numbers), gauss],
        "numpy": [
            numbers_of["bit_generator"],
            inner["key"].tolist(),
            int(inner["pos"]),
            int(numbers_of["has_gauss"]),
            float(numbers_of["gauss"]),
        ],
    }


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
    if state["cuda"]:
        torch.cuda.set_rng_state_all([torch.tensor(s, dtype=torch.uint8) for s in state["cuda"]])
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
