"""One predict pass by fixed parts: missing parts are dealt to the ranks, each is written whole."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from rlmec.pipeline.chain import Run
from rlmec.pipeline.fit import seed_everything, trainer_arguments
from rlmec.pipeline.memory_plan import PREDICT_REMEDIES, named_memory
from rlmec.runtime import signals
from rlmec.runtime.display import Bar
from rlmec.store.parts import PartFolder
from rlmec.training.callbacks import keep_signals
from rlmec.training.predict_parts import Sealed, part_loader

Tables = dict[str, tuple[Sequence[Any], type]]
Finish = Callable[[Any, Any], tuple[Tables, dict[str, int]]]
FirstItem = Callable[[int], str]


class PartWriter(Callback):
    """Writes what `finish(part, output)` makes of each part, and shows how far the pass is."""

    def __init__(
        self, title: str, folder: PartFolder, finish: Finish, wanted: bool, todo: int
    ) -> None:
        self.folder, self.finish, self.todo = folder, finish, todo
        self.title, self.wanted = title, wanted
        self._bar: Bar | None = None
        self._done = 0

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            first = self.folder.count - self.todo
            self._bar = Bar(self.title, self.folder.count, "parts", wanted=self.wanted, done=first)
            self._done = first

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Sealed,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        signals.check()
        if batch.part is not None:
            tables, counts = self.finish(batch.part, outputs)
            self.folder.write(batch.part.index, tables, counts)
        self._done = min(self._done + trainer.world_size, self.folder.count)
        if self._bar is not None:
            self._bar.update(self._done)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._bar is not None:
            self._bar.close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        self.on_predict_end(trainer, pl_module)


def say_goes_on(
    run: Run, title: str, folder: PartFolder, missing: Sequence[int], first_item: str
) -> None:
    """Says, where some parts are there, at which part and item the work goes on."""
    if len(missing) < folder.count:
        run.say(
            f"{title}: {folder.count - len(missing)} of {folder.count} parts are there already; "
            f"goes on with part {missing[0] + 1}, from {first_item}"
        )


@contextlib.contextmanager
def stopped_between_parts(title: str, folder: PartFolder) -> Iterator[None]:
    """Lets a stop by a signal say how many parts it leaves; what is unfinished is dropped."""
    try:
        yield
    except signals.RunStopped as stop:
        where = f"{title} with {folder.made()} of {folder.count} parts made"
        raise signals.RunStopped(stop.number, where) from None


def predict_parts(
    run: Run,
    title: str,
    module: L.LightningModule,
    parts: Sequence[Any],
    folder: PartFolder,
    finish: Finish,
    *,
    precision: str,
    seed: int,
    first_item: FirstItem,
) -> None:
    """Computes and writes every part that `folder` does not hold yet; returns on all ranks when all
    are written. Each part's bytes depend on the part alone; `first_item` names its first item."""
    missing = run.ranks.share(folder.missing)
    if not missing:
        return
    say_goes_on(run, title, folder, missing, first_item(missing[0]))
    wanted = run.settings.trainer.progress_bar
    trainer = keep_signals(
        L.Trainer(
            **trainer_arguments(run, precision),
            enable_checkpointing=False,
            callbacks=[PartWriter(title, folder, finish, wanted, len(missing))],
        )
    )
    seed_everything(seed, run.ranks.rank)
    loader = part_loader(parts, missing, run.ranks.rank, run.ranks.world)
    with named_memory(title, PREDICT_REMEDIES), stopped_between_parts(title, folder):
        trainer.predict(module, dataloaders=loader, return_predictions=False)
    if run.ranks.world > 1:
        torch.distributed.barrier()
