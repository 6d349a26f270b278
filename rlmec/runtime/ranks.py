"""Processes of a run: the ranks of one job, jobs of a sweep as children, and the tables they leave.

In: the hardware settings and the job's overrides. Out: `Ranks`, which lets rank 0 decide and tells
the others. Ranks are started before the first stage, over one process group that every later
Trainer joins; decisions go over a second gloo group with a very long timeout. With one process none
of this runs, and torch is not imported here.
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
PARENT = "RLMEC_CHILD"  # in a started process: the id of the one that started it
_GROUP_ENV = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK")


@contextlib.contextmanager
def lone_group(world: int) -> Iterator[None]:
    """Around a fit of one process whose strategy opens a group of its own: closes it, and puts the
    environment back, in which a later job would find a launcher that is none."""
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


class RankError(RuntimeError):
    """What went wrong on rank 0 while the others waited for its decision."""


def die_with_parent() -> None:
    """Has the kernel kill this process when the one that started it dies; call it first thing. Does
    nothing in a process that was not started by this module."""
    if (parent := os.environ.pop(PARENT, None)) is None:
        return
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG
    if os.getppid() != int(parent):  # it died before the call
        os._exit(1)


def stop_with_parent() -> None:
    """In a worker of a sweep's launcher (joblib): has the kernel ask this process to stop when the
    one that started it ends, as by a signal that reached that one alone."""
    if multiprocessing.current_process().name.startswith("Loky"):
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM)


def command(overrides: Sequence[str], run_dir: str | Path, extra: Sequence[str] = ()) -> list[str]:
    """The program's own command line for one job in a given run folder, whatever its name holds."""
    folder = QuotedString(text=str(run_dir), quote=Quote.single).with_quotes()
    config = _configuration() if HydraConfig.initialized() else []
    own = ["hydra.mode=RUN", f"hydra.run.dir={folder}"]
    return [sys.executable, os.path.abspath(sys.argv[0]), *config, *overrides, *own, *extra]


def _configuration() -> list[str]:
    """The command line's own configuration: which file, and the folder of a user's own ones."""
    hydra = HydraConfig.get()
    sources = hydra.runtime.config_sources
    own = [f"--config-dir={s.path}" for s in sources if s.provider == "command-line"]
    return [f"--config-name={hydra.job.config_name}", *own] if hydra.job.config_name else own


def launched_outside() -> bool:
    """Whether torchrun, SLURM or this module on another rank has started this process."""
    tasks = os.environ.get("SLURM_NTASKS", "1") if "SLURM_PROCID" in os.environ else "1"
    return "LOCAL_RANK" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ or tasks != "1"


def world_size(trainer: TrainerSettings) -> int:
    """The number of processes that the settings ask for on all nodes."""
    return _local_devices(trainer) * trainer.num_nodes


def _local_devices(trainer: TrainerSettings) -> int:
    devices = str(trainer.devices)
    if devices.isdigit() and int(devices) > 0:
        return int(devices)
    if "," in devices:
        return len([d for d in devices.split(",") if d.strip()])
    if devices not in ("auto", "-1"):
        raise ConfigurationError(f"trainer.devices: {devices!r} is no number, list or 'auto'")
    if trainer.accelerator == "cpu":
        return 1
    import torch

    return max(1, torch.cuda.device_count())


class Ranks:
    """This process among those of the job. A context manager: leaving it closes the group."""

    def __init__(self, rank: int = 0, world: int = 1, control: Any = None) -> None:
        self.rank, self.world = rank, world
        self._control, self._children = control, list[subprocess.Popen[bytes]]()
        self._closing, self._deciding = False, False

    def share(self, fn: Callable[[], T]) -> T:
        """Runs `fn` on rank 0 alone; every rank gets its value (which can be pickled).

        An error of `fn` is raised as it is on rank 0 and as a RankError on the others, so that none
        is left waiting. `fn` may not call a collective, nor `share`.
        """
        if self.world == 1:
            return fn()
        if self._deciding:
            raise RuntimeError("share() inside share(): the other ranks do not take part in it")
        error, value, box = None, None, [b"", ""]
        if self.rank == 0:
            self._deciding = True
            try:
                value = fn()
                box[0] = pickle.dumps(value)
            except BaseException as raised:
                error, box[1] = raised, f"{type(raised).__name__}: {raised}"
            finally:
                self._deciding = False
        import torch.distributed as dist

        dist.broadcast_object_list(box, src=0, group=self._control)
        if error is not None:
            raise error
        if box[1]:
            signals.check()
            raise RankError(f"rank 0: {box[1]}")
        return value if self.rank == 0 else pickle.loads(box[0])  # pyright: ignore

    def close(self, failed: bool = False) -> None:
        """Ends the process group and the ranks started here, so that another job can start in this
        process. After a failure they are given 10 s before they are killed, otherwise 5 minutes."""
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

    def watch(self, children: list[subprocess.Popen[bytes]], grace: float = 20.0) -> None:
        """Ends this process when a child ends with an error and nobody has closed the ranks within
        `grace` seconds: it would wait for that child for ever."""
        self._children = children
        signals.pass_on([child.pid for child in children])

        def look() -> None:
            while not self._closing:
                for child in children:
                    if child.poll():
                        time.sleep(grace)
                        if not self._closing:
                            print(
                                f"error: rank {children.index(child) + 1} (process {child.pid}) "
                                f"ended with {child.returncode}; ending the job",
                                file=sys.stderr,
                                flush=True,
                            )
                            asked = signals.requested()
                            os._exit(1 if asked is None else 128 + asked)
                time.sleep(0.2)

        threading.Thread(target=look, daemon=True, name="watch-ranks").start()


def _end(children: list[subprocess.Popen[bytes]], patience: float) -> None:
    deadline = time.monotonic() + patience
    for child in children:
        try:
            child.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def start_ranks(trainer: TrainerSettings, argv: Sequence[str], hydra_run_dir: str | Path) -> Ranks:
    """All ranks of the job, before any decision: those of torchrun or SLURM, or local ones started
    here with the job's overrides `argv` and run folder. One process gives a trivial `Ranks`."""
    world = world_size(trainer)
    if world == 1 and not launched_outside():
        return Ranks()
    if world > 1 and trainer.num_nodes > 1 and not launched_outside():
        raise ConfigurationError(
            "trainer.num_nodes: several nodes are started by torchrun or SLURM"
        )
    children = [] if launched_outside() else _start_children(world, argv, hydra_run_dir)
    import torch.distributed as dist
    from lightning import Fabric

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
