"""The processes of a run: the ranks of one job, and the decisions that they share.

In: the hardware settings, the overrides of the job, and the environment, in which a launcher leaves
the place of this process among its ranks. Out: `Ranks`, in which rank 0 decides and tells the other
ranks. All ranks are started before the first stage, in one process group that every later Trainer
joins. Decisions go through a second group (gloo) with a very long timeout, because rank 0 may wait
for a lock. With one process, nothing of this runs, and torch is not imported here.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString

from rlmec.runtime import signals
from rlmec.runtime.display import say_error
from rlmec.settings.binding import ConfigurationError
from rlmec.settings.schema import TrainerSettings

T = TypeVar("T")
PARENT = "RLMEC_CHILD"
"""The environment variable that tells a started process the id of the process that started it."""
COMMAND = "RLMEC_COMMAND"
"""The environment variable that names the command of a program started as `rlmec COMMAND`."""
WAIT_SECONDS = 30.0
"""Seconds after which a rank says that it waits for the others."""
_GROUP_ENV = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK")
_TORCH_NEEDED = ("LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_TORCH_NUMBERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT", "NODE_RANK", "GROUP_RANK")
_STRAY_ENV = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "TORCHELASTIC_RUN_ID")
_TORCH_ENV = (*_STRAY_ENV, "MASTER_ADDR", "MASTER_PORT")
_SLURM_NEEDED = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS")
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
    return [sys.executable, *_program(), *config, *overrides, *own, *extra]


def _program() -> list[str]:
    """The arguments of Python that start this program: its script, or a command of `rlmec`.

    The environment names the command, because a worker of a launcher has another command line.
    """
    script = os.path.abspath(sys.argv[0])
    name = os.environ.get(COMMAND)
    if name is None:
        return [script]
    return [script, name] if os.path.basename(script) == "rlmec" else ["-m", "rlmec", name]


def _configuration() -> list[str]:
    """The arguments of this program's command line that say where its configuration is."""
    hydra = HydraConfig.get()
    sources = hydra.runtime.config_sources
    own = [f"--config-dir={s.path}" for s in sources if s.provider == "command-line"]
    if hydra.job.config_name:
        own.insert(0, f"--config-name={hydra.job.config_name}")
    searched = [
        QuotedString(text=f"{s.schema}://{s.path}", quote=Quote.single).with_quotes()
        for s in sources
        if s.provider == "hydra.searchpath in command-line"
    ]
    return [*own, f"hydra.searchpath=[{','.join(searched)}]"] if searched else own


# --- how many ranks there are ---


@dataclass(frozen=True)
class Launch:
    """What a launcher has told this process: who started it, and how many ranks there are."""

    launcher: str
    world: int


def launch_of(env: Mapping[str, str]) -> Launch | None:
    """The launcher that started this process as one of its ranks, or None.

    A launcher counts only with all of its variables: torchrun and this module with LOCAL_RANK,
    WORLD_SIZE, MASTER_ADDR and MASTER_PORT, SLURM with those of a task of several. Raises
    ConfigurationError for variables that contradict one another, and for an incomplete set whose
    WORLD_SIZE is above 1, because somebody may have meant it.
    """
    torch_set = {name: env[name] for name in _TORCH_ENV if name in env}
    if all(name in env for name in _TORCH_NEEDED):
        return _torch_launch(torch_set)

    slurm = _slurm_launch(env)
    if slurm is None and torch_set.get("WORLD_SIZE", "1") != "1":
        missing = ", ".join(name for name in _TORCH_NEEDED if name not in env)
        raise _bad_launch(torch_set, f"{missing} must be set, too")
    return slurm


def launched_outside() -> bool:
    """Whether torchrun, SLURM, or this module on another rank has started this process."""
    return launch_of(os.environ) is not None


def forget_stray_variables() -> None:
    """Remove the variables of a launcher that did not start this process, and say so.

    A RANK that is left over in a shell would otherwise silence the logs of Lightning, which reads
    it on its own. Must be called before Lightning is imported. Raises ConfigurationError as
    `launch_of` does.
    """
    if launch_of(os.environ) is not None:
        return

    stray = [name for name in _STRAY_ENV if name in os.environ]
    if stray:
        shown = ", ".join(f"{name}={os.environ.pop(name)}" for name in stray)
        say_error(
            f"ignored: {shown}, because no launcher started this process with all of "
            f"{', '.join(_TORCH_NEEDED)} (to remove: unset {' '.join(stray)})"
        )

    # In the shell of a SLURM allocation Lightning would take this process for one task of many.
    # This name of the job is what Lightning itself documents against that.
    if "SLURM_NTASKS" in os.environ:
        os.environ["SLURM_JOB_NAME"] = "interactive"


def _torch_launch(given: Mapping[str, str]) -> Launch:
    """The launch by a complete set of variables, after checks that they fit together."""
    numbers: dict[str, int] = {}
    for name in _TORCH_NUMBERS:
        if name not in given:
            continue
        if not given[name].isdecimal():
            raise _bad_launch(given, f"{name} must be a number")
        numbers[name] = int(given[name])

    world = numbers["WORLD_SIZE"]
    for name in ("LOCAL_RANK", "RANK"):
        if numbers.get(name, 0) >= world:
            raise _bad_launch(given, f"{name} must be below WORLD_SIZE")
    if numbers["LOCAL_RANK"] > numbers.get("RANK", world):
        raise _bad_launch(given, "LOCAL_RANK must not be above RANK")
    if "TORCHELASTIC_RUN_ID" in given and "RANK" not in given:
        raise _bad_launch(given, "torchrun sets RANK, too")
    return Launch("torchrun" if "TORCHELASTIC_RUN_ID" in given else "LOCAL_RANK", world)


def _slurm_launch(env: Mapping[str, str]) -> Launch | None:
    """The launch by `srun`, if this process is one of several tasks of a step."""
    complete = all(env.get(name, "").isdecimal() for name in _SLURM_NEEDED)
    # Lightning takes these two names of a job for a shell.
    if not complete or env.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return None

    # A shell within an allocation of many tasks is a step of one task.
    tasks = int(env["SLURM_NTASKS"])
    if tasks == 1 or env.get("SLURM_STEP_NUM_TASKS") == "1":
        return None
    return Launch("SLURM", tasks)


def _bad_launch(given: Mapping[str, str], wrong: str) -> ConfigurationError:
    shown = ", ".join(f"{name}={value}" for name, value in given.items())
    return ConfigurationError(
        f"the environment names a launcher: {shown}; {wrong}. Start the ranks with torchrun or "
        f"srun, or remove what is left over: unset {' '.join(given)}"
    )


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
                say_error(
                    f"error: rank {rank} (process {child.pid}) ended with {child.returncode}; "
                    "ending the job"
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
    outside = launch_of(os.environ)
    if outside is not None:
        _check_launch(outside, trainer)
    if world == 1:
        return Ranks()
    if trainer.num_nodes > 1 and outside is None:
        raise ConfigurationError(
            f"trainer.num_nodes is {trainer.num_nodes}: start a job on several nodes with torchrun "
            "or SLURM"
        )

    children = [] if outside else _start_children(world, argv, hydra_run_dir)
    import torch.distributed as dist
    from lightning import Fabric

    # Fabric opens the process group in the same way as a Trainer does later.
    try:
        fabric = Fabric(
            accelerator=trainer.accelerator,
            devices=trainer.devices,
            num_nodes=trainer.num_nodes,
            strategy="ddp",
        )
    except Exception as error:  # devices that are not there, by an error of Lightning's or torch's
        raise ConfigurationError(
            f"trainer (accelerator={trainer.accelerator}, devices={trainer.devices}): {error}"
        ) from error

    # The ranks wait for one another here. Lightning and torch say nothing meanwhile.
    with signals.ends_at_once(), _said_after(WAIT_SECONDS, _waiting_line(world)):
        fabric.launch()
        control = dist.new_group(backend="gloo", timeout=datetime.timedelta(days=30))

    ranks = Ranks(dist.get_rank(), dist.get_world_size(), control)
    if children:
        ranks.watch(children)
    return ranks


def _check_launch(outside: Launch, trainer: TrainerSettings) -> None:
    """Raise ConfigurationError if the launcher and the settings count the ranks differently."""
    world = world_size(trainer)
    if outside.world != world:
        raise ConfigurationError(
            f"{outside.launcher} has started {outside.world} ranks, but trainer.devices x "
            f"trainer.num_nodes is {world}: set both to what was started, or start {world}"
        )

    # Without torchrun and SLURM, Lightning computes the rank, and does not look at RANK.
    if outside.launcher == "LOCAL_RANK" and "RANK" in os.environ:
        node = int(os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", "0")))
        rank = node * _local_devices(trainer) + int(os.environ["LOCAL_RANK"])
        if rank != int(os.environ["RANK"]):
            raise ConfigurationError(
                f"RANK is {os.environ['RANK']}, but NODE_RANK ({node}) x trainer.devices + "
                f"LOCAL_RANK is {rank}: set NODE_RANK, or start the ranks with torchrun"
            )


def _waiting_line(world: int) -> str:
    place = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
    return f"waiting for the other ranks of {world} at {place}: all of them must be started"


@contextlib.contextmanager
def _said_after(seconds: float, line: str) -> Iterator[None]:
    """Print a line if the block takes longer than that."""
    timer = threading.Timer(seconds, lambda: say_error(line))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


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
