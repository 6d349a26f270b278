"""Work cut into fixed parts: what is missing is computed, each part is written whole.

Two loops do it. `predict_parts` runs a Lightning predict pass, in which the missing parts are dealt
to the ranks. `make_parts` is for work that rank 0 does alone, such as a teacher's requests.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

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

T = TypeVar("T")
Tables = dict[str, tuple[Sequence[Any], type]]
Finish = Callable[[Any, Any], tuple[Tables, dict[str, int]]]


class PartWriter(Callback):
    """Writes what `finish(part, output)` returns for each part, and moves the progress bar."""

    def __init__(
        self, title: str, folder: PartFolder, finish: Finish, wanted: bool, todo: int
    ) -> None:
        self.title = title
        self.folder = folder
        self.finish = finish
        self.wanted = wanted
        self.todo = todo
        self._bar: Bar | None = None
        self._done = 0

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self._done = self.folder.count - self.todo
            self._bar = Bar(
                self.title,
                self.folder.count,
                "parts",
                wanted=self.wanted,
                done=self._done,
                at_once=trainer.world_size,
            )

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
        if batch.part is not None:  # a rank with fewer parts than another gets None at the end
            tables, counts = self.finish(batch.part, outputs)
            self.folder.write(batch.part.index, tables, counts)

        # Every rank has finished one part by now; rank 0 shows the sum.
        self._done = min(self._done + trainer.world_size, self.folder.count)
        if self._bar is not None:
            self._bar.update(self._done)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._bar is not None:
            self._bar.close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        self.on_predict_end(trainer, pl_module)


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
    first_item: Callable[[int], str],
) -> None:
    """Computes and writes every part that `folder` lacks; returns on all ranks when all are there.

    The bytes of a part depend on the part alone, not on the ranks. `first_item` names the first
    item of a part, for the line that says where interrupted work continues.
    """
    missing = run.ranks.share(folder.missing)
    if not missing:
        return
    _say_continues(run, title, folder, missing, first_item(missing[0]))

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
    with named_memory(title, PREDICT_REMEDIES), _stopped_between_parts(title, folder):
        trainer.predict(module, dataloaders=loader, return_predictions=False)

    # Rank 0 merges the parts next, so all of them must be on disk.
    if run.ranks.world > 1:
        torch.distributed.barrier()


def make_parts(
    run: Run,
    title: str,
    folder: PartFolder,
    groups: Iterable[T],
    make: Callable[[T], tuple[Tables, dict[str, int]]],
    *,
    first_item: Callable[[T], str],
    passed: Callable[[T], None] = lambda group: None,
) -> None:
    """Makes and writes every part that `folder` lacks, one after the other; for rank 0.

    `groups` has the items of each part, in order. It may be a stream: it is read up to the last
    missing part. `make(group)` returns the tables and counts of a part. `passed(group)` is called
    behind each part, made now or before. `first_item` is as in `predict_parts`.
    """
    missing = folder.missing()
    if not missing:
        return

    wanted = set(missing)
    with _stopped_between_parts(title, folder):
        for index, group in enumerate(groups):
            if index == missing[0]:
                _say_continues(run, title, folder, missing, first_item(group))
            if index in wanted:
                signals.check()
                tables, counts = make(group)
                folder.write(index, tables, counts)
            passed(group)
            if index == missing[-1]:
                break


def in_parts(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of `size`, the last one shorter; one list is held at a time."""
    source = iter(items)
    while some := list(islice(source, size)):
        yield some


def _say_continues(
    run: Run, title: str, folder: PartFolder, missing: Sequence[int], first_item: str
) -> None:
    """Says at which part and item interrupted work continues; nothing where no part is there."""
    made = folder.count - len(missing)
    if made:
        run.say(
            f"{title}: {made} of {folder.count} parts are there already; "
            f"continues with part {missing[0] + 1}, from {first_item}"
        )


@contextlib.contextmanager
def _stopped_between_parts(title: str, folder: PartFolder) -> Iterator[None]:
    """Lets a stop by a signal say how many parts are made; an unfinished part is dropped."""
    try:
        yield
    except signals.RunStopped as stop:
        where = f"{title} with {folder.made()} of {folder.count} parts made"
        raise signals.RunStopped(stop.number, where) from None
