"""The processes of a run: the ranks of one job, and the decisions that they share.

In: the hardware settings and the overrides of the job. Out: `Ranks`, in which rank 0 decides and
tells the other ranks. All ranks are started before the first stage, in one process group that every
later Trainer joins. Decisions go through a second group (gloo) with a very long timeout, because
rank 0 may wait for a lock. With one process, nothing of this runs, and torch is not imported here.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString

from rlmec.runtime import signals
from rlmec.settings.binding import ConfigurationError
from rlmec.settings.schema import TrainerSettings

T = TypeVar("T")
PARENT = "RLMEC_CHILD"
"""The environment variable that tells a started process the id of the process that started it."""
_GROUP_ENV = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK")
_PR_SET_PDEATHSIG = 1


class RankError(RuntimeError):
    """What went wrong on rank 0 while the other ranks waited for its decision."""


# --- processes that end with their parents ---


def die_with_parent() -> None:
    """Have the kernel kill this process when the process that started it dies.

    Must be called first. Does nothing in a process that was not started by this module.
    """
    parent = os.environ.pop(PARENT, None)
    if parent is None:
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The kernel sends nothing if the parent died before the call.
    if os.getppid() != int(parent):
        os._exit(1)


def stop_with_parent() -> None:
    """Have the kernel ask this process to stop when its parent ends, by SIGTERM.

    Only for a worker of Hydra's joblib launcher: a signal may reach the launcher alone.
    """
    if multiprocessing.current_process().name.startswith("Loky"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def command(overrides: Sequence[str], run_dir: str | Path, extra: Sequence[str] = ()) -> list[str]:
    """The command line that runs this program for one job in the run folder `run_dir`."""
    # Quoted, because the name of a folder may contain characters that mean something to Hydra.
    folder = QuotedString(text=str(run_dir), quote=Quote.single).with_quotes()
    config = _configuration() if HydraConfig.initialized() else []
    own = ["hydra.mode=RUN", f"hydra.run.dir={folder}"]
    return [sys.executable, os.path.abspath(sys.argv[0]), *config, *overrides, *own, *extra]


def _configuration() -> list[str]:
    """The options of this program's command line that say where its configuration is."""
    hydra = HydraConfig.get()
    sources = hydra.runtime.config_sources
    own = [f"--config-dir={s.path}" for s in sources if s.provider == "command-line"]
    return [f"--config-name={hydra.job.config_name}", *own] if hydra.job.config_name else own


# --- how many ranks there are ---


def launched_outside() -> bool:
    """Whether torchrun, SLURM, or this module on another rank has started this process."""
    tasks = os.environ.get("SLURM_NTASKS", "1") if "SLURM_PROCID" in os.environ else "1"
    return "LOCAL_RANK" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ or tasks != "1"


def world_size(trainer: TrainerSettings) -> int:
    """The number of processes on all nodes together that the settings ask for."""
    return _local_devices(trainer) * trainer.num_nodes


def _local_devices(trainer: TrainerSettings) -> int:
    devices = str(trainer.devices)
    if devices.isdigit() and int(devices) > 0:
        return int(devices)
    if "," in devices:
        return len([d for d in devices.split(",") if d.strip()])
    if devices not in ("auto", "-1"):
        raise ConfigurationError(
            f"trainer.devices: {devices!r} is neither a number nor a list nor 'auto'"
        )

    if trainer.accelerator == "cpu":
        return 1
    import torch

    return max(1, torch.cuda.device_count())


# --- decisions ---


class Ranks:
    """This process among the ranks of the job. Leaving the context closes the process group."""

    def __init__(self, rank: int = 0, world: int = 1, control: Any = None) -> None:
        self.rank = rank
        self.world = world
        self._control = control
        self._children = list[subprocess.Popen[bytes]]()
        self._closing = False
        self._deciding = False

    def share(self, fn: Callable[[], T]) -> T:
        """Run `fn` on rank 0 alone, and return its value on every rank.

        The value must be picklable. If `fn` raises an exception, rank 0 raises it and the others
        raise a RankError, so that none keeps waiting. `fn` must not call a collective operation,
        and it must not call `share`.
        """
        if self.world == 1:
            return fn()
        if self._deciding:
            raise RuntimeError("share() inside share(): the other ranks do not take part in it")

        # What rank 0 tells the others: a pickled value, and the text of an error.
        value = None
        error = None
        box = [b"", ""]
        if self.rank == 0:
            self._deciding = True
            try:
                value = fn()
                box[0] = pickle.dumps(value)
            except BaseException as raised:
                error = raised
                box[1] = f"{type(raised).__name__}: {raised}"
            finally:
                self._deciding = False

        import torch.distributed as dist

        dist.broadcast_object_list(box, src=0, group=self._control)
        if error is not None:
            raise error
        if box[1]:
            # A stopped rank 0 is no error of this rank: both were asked to stop.
            signals.check()
            raise RankError(f"rank 0: {box[1]}")
        return value if self.rank == 0 else pickle.loads(box[0])  # pyright: ignore

    def watch(self, children: list[subprocess.Popen[bytes]], grace: float = 20.0) -> None:
        """End this process if a child fails and the ranks are not closed within `grace` seconds.

        Without this, the process would wait for that child forever, inside a collective operation.
        """
        self._children = children
        signals.pass_on([child.pid for child in children])
        threading.Thread(
            target=self._watch, args=(children, grace), daemon=True, name="watch-ranks"
        ).start()

    def _watch(self, children: list[subprocess.Popen[bytes]], grace: float) -> None:
        while not self._closing:
            for rank, child in enumerate(children, start=1):
                if not child.poll():  # still running, or ended well
                    continue
                time.sleep(grace)
                if self._closing:
                    return
                print(
                    f"error: rank {rank} (process {child.pid}) ended with {child.returncode}; "
                    "ending the job",
                    file=sys.stderr,
                    flush=True,
                )
                asked = signals.requested()
                os._exit(1 if asked is None else 128 + asked)
            time.sleep(0.2)

    def close(self, failed: bool = False) -> None:
        """End the process group and the ranks started here, so that another job can start.

        The ranks get 5 minutes to end (after a failure 10 seconds) before they are killed.
        """
        if self.world == 1:
            return
        import torch.distributed as dist

        if dist.is_initialized() and not failed:
            dist.barrier(self._control)
        self._closing = True
        if dist.is_initialized():
            dist.destroy_process_group()

        if self._children:
            _end(self._children, 10 if failed else 300)
            signals.pass_on(())
            for name in _GROUP_ENV:
                os.environ.pop(name, None)
        self.rank, self.world, self._children = 0, 1, []

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, kind: Any, *rest: Any) -> None:
        self.close(failed=kind is not None)


def _end(children: list[subprocess.Popen[bytes]], patience: float) -> None:
    """Wait for all children, at most `patience` seconds together, and kill those still running."""
    deadline = time.monotonic() + patience
    for child in children:
        try:
            child.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


# --- starting ---


def start_ranks(trainer: TrainerSettings, argv: Sequence[str], hydra_run_dir: str | Path) -> Ranks:
    """Start all ranks of the job, or join those that torchrun or SLURM has started.

    Local ranks run this program with the overrides `argv` in the same run folder. With one process
    the result is `Ranks()`.
    """
    world = world_size(trainer)
    if world == 1 and not launched_outside():
        return Ranks()
    if world > 1 and trainer.num_nodes > 1 and not launched_outside():
        raise ConfigurationError(
            f"trainer.num_nodes is {trainer.num_nodes}: start a job on several nodes with torchrun "
            "or SLURM"
        )

    children = [] if launched_outside() else _start_children(world, argv, hydra_run_dir)
    import torch.distributed as dist
    from lightning import Fabric

    # Fabric opens the process group in the same way as a Trainer does later.
    Fabric(
        accelerator=trainer.accelerator,
        devices=trainer.devices,
        num_nodes=trainer.num_nodes,
        strategy="ddp" if world > 1 else "auto",
    ).launch()
    if not dist.is_initialized():
        return Ranks()

    control = dist.new_group(backend="gloo", timeout=datetime.timedelta(days=30))
    ranks = Ranks(dist.get_rank(), dist.get_world_size(), control)
    if children:
        ranks.watch(children)
    return ranks


def _start_children(world: int, argv: Sequence[str], run_dir: str | Path) -> list[Any]:
    """Start ranks 1 and up of this machine, and make this process rank 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
    env |= {"NODE_RANK": "0", "LOCAL_RANK": "0"}
    os.environ.update(env)

    children = []
    for rank in range(1, world):
        own = {**os.environ, "LOCAL_RANK": str(rank), PARENT: str(os.getpid())}
        extra = ["hydra.output_subdir=null", f"hydra.job.name=rank{rank}"]
        children.append(subprocess.Popen(command(argv, run_dir, extra), env=own))
    return children


@contextlib.contextmanager
def lone_group(world: int) -> Iterator[None]:
    """Close the process group that a strategy opens for itself in a fit of one process.

    The environment is put back too: a later job of this process would take the strategy's
    variables for those of a launcher.
    """
    before = {name: os.environ.get(name) for name in _GROUP_ENV}
    try:
        yield
    finally:
        if world == 1:
            import torch.distributed as dist

            if dist.is_initialized():
                dist.destroy_process_group()
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
