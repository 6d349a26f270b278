"""What can go wrong with a command, put into its process: at the n-th time that it comes to a point
of its work, it is killed, asked to stop, or an error is raised there.

The program's functions are wrapped in the child alone (`install`), never changed. The rows of every
micro-batch are noted too, in a file that outlives the child.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CODES = {"kill": -9, "term": 143, "group-term": 143, "usr1": 138, "int": 130, "int2": 130}
CODES |= {"group-int": 130, "error": 1}
FIT_POINTS = ("micro", "validate", "decode", "save", "saved", "begin")
PART_POINTS = ("decode", "judge", "table", "part", "parted", "begin")


class Injected(Exception):
    """The error that a case puts in."""


@dataclass(frozen=True)
class Stop:
    """`action` at the `nth` time that the work comes to `point`; from outside at "time", once the
    share `nth` of 100 of the time of an uninterrupted run is over, and at "checkpoint", once one of
    optimizer step `nth` is there."""

    action: str
    point: str
    nth: int

    def __str__(self) -> str:
        return f"{self.action}@{self.point}:{self.nth}"


def act(action: str, pid: int) -> None:
    """Does it to a process; an error only to the own one."""
    if action == "error":
        raise Injected("put in by a fault case")
    numbers = {"kill": signal.SIGKILL, "usr1": signal.SIGUSR1}
    numbers |= dict.fromkeys(("int", "int2", "group-int"), signal.SIGINT)
    number = numbers.get(action, signal.SIGTERM)
    if action.startswith("group-"):
        os.killpg(os.getpgid(pid), number)
    else:
        os.kill(pid, number)
    if action == "int2":
        os.kill(pid, number)


def install(stop: Stop | None, trace: Path, days: int = 0) -> None:
    """Puts the wraps into this process, in which chat templates see a clock `days` ahead."""
    seen: Counter[str] = Counter()

    def at(point: str) -> bool:
        """Counts; acts when it is time. True where a write is to be left half done."""
        seen[point] += 1
        return stop is not None and stop.point == point and seen[point] == stop.nth

    def act_at(point: str) -> None:
        if at(point):
            act(stop.action, os.getpid())  # pyright: ignore

    _wrap_fits(act_at, trace)
    _wrap_decoding(act_at)
    _wrap_writing(at, act_at, stop)
    _set_clock(days)


def _set_clock(days: int) -> None:
    from transformers.utils import chat_template_utils

    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime.datetime:
            return datetime.datetime.now(tz) + datetime.timedelta(days=days)

    chat_template_utils.datetime = Later  # pyright: ignore


def _before(owner: Any, name: str, do: Callable[..., None]) -> None:
    whole = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        do(*args, **kwargs)
        return whole(*args, **kwargs)

    setattr(owner, name, wrapped)


def _wrap_fits(act_at: Callable[[str], None], trace: Path) -> None:
    from rlmec.training.callbacks import Progress
    from rlmec.training.module import CompletionModule
    from rlmec.training.validation import Validation

    def note(module: Any, batch: Any, batch_idx: int) -> None:
        step = module.trainer.global_step
        ids = zlib.crc32(batch["input_ids"].numpy().tobytes())
        with trace.open("a") as file:
            file.write(json.dumps([step, batch_idx, ids]) + "\n")
        act_at("micro")

    _before(CompletionModule, "training_step", note)
    _before(Validation, "_judged", lambda *args: act_at("validate"))
    _before(Progress, "on_train_start", lambda *args: act_at("begin"))


def _wrap_decoding(act_at: Callable[[str], None]) -> None:
    from rlmec.lm import draft_decoding, generation, logprobs
    from rlmec.pipeline import predict
    from rlmec.stages import score as score_stage
    from rlmec.stages import teach

    _before(generation, "_choose", lambda *args: act_at("decode"))
    _before(draft_decoding.RewriteBatch, "_pass", lambda *args: act_at("decode"))
    _before(logprobs, "collate", lambda *args: act_at("decode"))
    _wrap_verdicts(act_at)
    _before(score_stage, "correction_of", lambda *args, **kwargs: act_at("judge"))
    _before(teach, "judge_proposal", lambda *args, **kwargs: act_at("judge"))
    _before(predict.PartWriter, "on_predict_start", lambda *args: act_at("begin"))


def _wrap_verdicts(act_at: Callable[[str], None]) -> None:
    from rlmec.pipeline import judges

    whole = judges.judge_of

    def judge_of(*args: Any) -> Any:
        judge = whole(*args)

        def judged(*asked: Any) -> Any:
            act_at("judge")
            return judge(*asked)

        return judged

    judges.judge_of = judge_of


def _wrap_writing(
    at: Callable[[str], bool], act_at: Callable[[str], None], stop: Stop | None
) -> None:
    import torch

    from rlmec.store import tables
    from rlmec.training.checkpoints import AtomicCheckpointIO

    whole_save, whole_rename = torch.save, os.rename
    whole_checkpoint = AtomicCheckpointIO.save_checkpoint

    def save(obj: Any, stream: Any, *args: Any, **kwargs: Any) -> None:
        now = at("save")
        begun = stream.tell()
        whole_save(obj, stream, *args, **kwargs)
        if now and stop is not None:  # half of the bytes are on disk
            if stop.action in ("kill", "error"):
                stream.truncate(begun + (stream.tell() - begun) // 2)
                stream.flush()
            act(stop.action, os.getpid())

    def save_checkpoint(*args: Any, **kwargs: Any) -> None:
        whole_checkpoint(*args, **kwargs)
        act_at("saved")

    def rename(source: Any, target: Any, **kwargs: Any) -> None:
        kind = {".tmp-": "part", ".work": "commit"}.get(Path(source).name[:5])
        if kind is not None:
            act_at(kind)
        whole_rename(source, target, **kwargs)
        if kind is not None:
            act_at({"part": "parted", "commit": "committed"}[kind])

    torch.save, os.rename = save, rename
    AtomicCheckpointIO.save_checkpoint = save_checkpoint
    _wrap_tables(tables, act_at)


def _wrap_tables(tables: Any, act_at: Callable[[str], None]) -> None:
    """Acts when a table is written but not in its place yet, and when it has just come there."""
    whole = tables.atomic_file

    @contextlib.contextmanager
    def atomic_file(path: Path) -> Iterator[Path]:
        with whole(path) as temporary:
            yield temporary
            act_at("table")
        act_at("table")

    tables.atomic_file = atomic_file
