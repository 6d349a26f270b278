"""Checkpoints that are never torn, and a resume that continues with the same bits.

In: the state of a Lightning fit. Out: files `step-00000000.ckpt` in the folder of the artifact that
the fit makes, and the weights of the best score. A checkpoint is written only at an optimizer step,
after the validation of that step: between two steps there are gradients that no checkpoint holds.
The newest few are kept, and a resume takes the newest one that loads.

Lightning saves weights, optimizers, schedulers, counters and the state of callbacks and data.
`RandomStates` adds the random number generators of all ranks.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, Checkpoint

from rlmec.store.artifacts import ArtifactError
from rlmec.store.atomic import TEMPORARY, atomic_file
from rlmec.training.callbacks import StopRequests

_NAME = re.compile(r"step-(\d{8})\.ckpt")


# --- writing and reading ---


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint so that a crash leaves either the previous file or the whole new one."""

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        # Lightning's own writer goes through $TMPDIR. A move from another filesystem is a copy,
        # which a crash can cut in half; a rename within one folder cannot be.
        final = Path(path)
        final.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(final) as temporary, temporary.open("wb") as stream:
            torch.save(checkpoint, stream)


def saved_checkpoints(folder: Path) -> list[Path]:
    """Resume checkpoints in a folder, newest first."""
    found = [path for path in folder.glob("step-*.ckpt") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: path.name, reverse=True)


def newest_loadable(folder: Path, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that loads, or None if there is no checkpoint at all.

    Removes unfinished files, and torn checkpoints newer than the one returned: they would otherwise
    count among those that are kept. Raises ArtifactError if there are checkpoints but none loads,
    because a run must not start from scratch without being told to.
    """
    for left_over in (*folder.glob(f"*{TEMPORARY}"), *folder.glob("weights-*.ckpt")):
        left_over.unlink()

    found = saved_checkpoints(folder)
    for path in found:
        try:
            read_checkpoint(path)
        except Exception as error:  # the type of error depends on where the file is torn
            say(f"{path}: does not load ({type(error).__name__}), trying the one before it")
            continue
        remove_newer(folder, step_of(path))
        return path

    if found:
        raise ArtifactError(
            f"{folder}: none of {len(found)} checkpoints loads; remove them to start again"
        )
    return None


def remove_newer(folder: Path, step: int) -> None:
    """Removes resume checkpoints after `step`; a fit that continues from there writes new ones."""
    for path in saved_checkpoints(folder):
        if step_of(path) > step:
            path.unlink()


def saved_step(path: Path) -> int:
    """The optimizer step at which a checkpoint of any name was saved."""
    return int(read_checkpoint(path)["global_step"])


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The plain values and tensors of a checkpoint. Tensors stay on disk until they are used."""
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def step_of(path: Path) -> int:
    """The optimizer step in a checkpoint's file name."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path}: not a resume checkpoint (step-00000000.ckpt)")
    return int(match[1])


# --- callbacks ---


class ResumeCheckpoint(Checkpoint):
    """Saves every `every_steps` optimizer steps, at the last step, and where `stops` ends the fit.

    The newest `keep` checkpoints are kept. Lightning calls a Checkpoint after all other callbacks,
    so what they did at the step is in the file.
    """

    def __init__(
        self,
        folder: Path,
        every_steps: int,
        keep: int,
        best: BestWeights | None,
        stops: StopRequests,
    ) -> None:
        super().__init__()
        self.folder = folder
        self.every_steps = every_steps
        self.keep = keep
        self.best = best
        self.stops = stops

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        batch_idx = args[-1]
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # in the middle of a step: its gradients would be lost
        step = trainer.global_step
        due = step % self.every_steps == 0 or step == pl_module.steps or trainer.should_stop
        if not due and self.stops.number is None:
            return

        trainer.save_checkpoint(self.folder / f"step-{step:08d}.ckpt")
        if trainer.is_global_zero:
            for old in saved_checkpoints(self.folder)[self.keep :]:
                old.unlink()
            if self.best is not None:
                self.best.prune(self.keep)

        self.stops.end(trainer, pl_module)


class BestWeights(Callback):
    """Keeps the weights of the best score. `offer` gives it a score at an optimizer step.

    Of equal scores the earlier one stays. The best score and its step are part of the resume
    checkpoint. A resume may go back to an older checkpoint, so the weights that any kept checkpoint
    names are kept as well.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.score: float | None = None
        self.step: int | None = None
        self.history: list[int | None] = []

    def state_dict(self) -> dict[str, Any]:
        return {"score": self.score, "step": self.step, "history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.score = state_dict["score"]
        self.step = state_dict["step"]
        # The state was saved before `prune` added the step of its own checkpoint.
        self.history = [*state_dict["history"], self.step]

    def offer(self, trainer: L.Trainer, score: float) -> bool:
        """Returns True if `score` is a new best, with its weights on disk."""
        if self.score is not None and score <= self.score:
            return False
        self.score = score
        self.step = trainer.global_step
        trainer.save_checkpoint(self.path(self.step), weights_only=True)
        return True

    def path(self, step: int) -> Path:
        """The file of the weights of one optimizer step."""
        return self.folder / f"best-{step:08d}.ckpt"

    def prune(self, keep: int) -> None:
        """Removes weights that none of the newest `keep` checkpoints names. It is called after each
        resume checkpoint."""
        self.history = [*self.history, self.step][-keep:]
        named = {self.path(step) for step in self.history if step is not None}
        for path in self.folder.glob("best-*.ckpt"):
            if path not in named:
                path.unlink()


class RandomStates(Callback):
    """Saves the random number generators of all ranks, and restores them when training starts.

    Lightning's checkpoint holds no random states: without them dropout would draw other values
    after a resume.
    """

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
        # Restored here and not when loading: set-up and the first validation draw numbers, too.
        if self._loaded is None:
            if (
                trainer.global_step
            ):  # weights alone (resume=weights): do not repeat step 0's numbers
                torch.manual_seed(torch.initial_seed() + trainer.global_step)
            return

        if len(self._loaded) != trainer.world_size:
            raise ValueError(
                f"the checkpoint is of {len(self._loaded)} ranks, this run has {trainer.world_size}"
            )
        _set_random_state(self._loaded[trainer.global_rank])
        self._loaded = None


def _random_state() -> dict[str, Any]:
    """The states of all generators as plain lists and numbers.

    `torch.load(weights_only=True)` refuses NumPy arrays and Python's own state tuples.
    """
    version, numbers, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    inner = numpy_state["state"]
    cuda = [s.tolist() for s in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else []
    return {
        "torch": torch.get_rng_state().tolist(),
        "cuda": cuda,
        "python": [version, list(numbers), gauss],
        "numpy": [
            numpy_state["bit_generator"],
            inner["key"].tolist(),
            int(inner["pos"]),
            int(numpy_state["has_gauss"]),
            float(numpy_state["gauss"]),
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
