"""The real command, `train.py` as `__main__`, in children forked from a process that has imported
everything, so that a start costs a tenth of a second instead of ten.

The parent runs no operation of torch or pyarrow, whose threads would not survive a fork. A child
has its own session, log and faults (`injection.py`), and ends as a program does.
"""

from __future__ import annotations

import atexit
import os
import runpy
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 900.0
"""Seconds after which a child that does not end counts as hung."""
_OUTSIDE = ("LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "RANK")


def import_everything() -> None:
    """What `train.py` imports on its way, to be called once before the first `start`."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["HF_HUB_OFFLINE"] = "1"
    import peft
    import torch
    import torch.utils.data._utils.worker
    import transformers.models.llama.modeling_llama  # noqa: F401
    import yaml
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    import rlmec.stages
    from rlmec.settings.command_line import check_command_line

    assert peft
    assert rlmec.stages
    torch.set_num_threads(1)
    yaml.SafeLoader = yaml.CSafeLoader  # the same values, ten times as fast
    check_command_line(["experiment=smoke"], ROOT / "conf", "train")  # warms Hydra's parsers
    get_checkpoint_conversion_mapping("llama")  # and its tables


@dataclass
class Child:
    """A running command; `wait` gives its exit code, negative for the signal that killed it."""

    pid: int
    log: Path
    began: float
    code: int | None = None

    def is_running(self) -> bool:
        if self.code is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if ended else None
        return self.code is None

    def wait(self, patience: float = PATIENCE) -> int:
        deadline = time.monotonic() + patience
        while self.is_running():
            if time.monotonic() > deadline:
                os.killpg(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise TimeoutError(f"it did not end within {patience:.0f} s: {self.log}")
            time.sleep(0.005)
        assert self.code is not None
        return self.code


def start(argv: Sequence[str], log: Path, prepare: Callable[[], None] = lambda: None) -> Child:
    """`python train.py ARGV`, its output added to `log`; `prepare` is called in the child first."""
    log.parent.mkdir(parents=True, exist_ok=True)
    began, pid = time.monotonic(), os.fork()
    if pid:
        return Child(pid, log, began)
    code = 1
    try:
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
        for name in _OUTSIDE:
            os.environ.pop(name, None)
        os.chdir(ROOT)
        sys.argv = [str(ROOT / "train.py"), *argv]
        prepare()
        code = _as_program()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def rank_without_peer() -> None:
    """Make a child rank 0 of two, as an outside launcher does; the other is never started."""
    from rlmec.runtime import ranks

    ranks.WAIT_SECONDS = 0.5
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {"LOCAL_RANK": "0", "WORLD_SIZE": "2", "NODE_RANK": "0"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def _as_program() -> int:
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # pyright: ignore  # as the interpreter does at its end, in this order
    atexit._run_exitfuncs()
    return code & 255
