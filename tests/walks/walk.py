"""Real commands in child processes, on the `smoke` experiment: how to start them, what they leave.

A command gets its own store and output folder by settings, one thread, and no progress bar. Its
processor time is measured as well as the clock, so that a limit in seconds means what it does on a
quiet machine, however busy this one is. `run` forks a process that has done the imports (`warm.py`)
unless the command starts further processes or is asked to be `cold`.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("warmup", "sample", "teach", "grm", "score", "policy", "evaluate", "report")
# the same chain with hardly any training, for walks that do not look at what was learnt
TINY = ("warmup.steps=4", "grm.steps=4", "policy.steps=4", "task.train=60", "task.test=16")
PATIENCE = 300.0
# in the environment of every command, and nowhere in what it leaves
CANARY = "canary-27c1e0a94b"
SECRETS = ("HF_TOKEN", "WANDB_API_KEY", "SOME_PASSWORD")


@dataclass(frozen=True)
class Done:
    """What a finished command said and left: seconds by the clock, and of processor time."""

    code: int
    output: str
    seconds: float
    cpu: float
    summaries: list[dict[str, Any]]

    @property
    def stages(self) -> list[dict[str, Any]]:
        """The stages of the newest summary."""
        return self.summaries[-1]["stages"]

    def made(self, job: int = -1) -> list[str]:
        """The stages that a job made, by name and variant."""
        return [_title(s) for s in self.summaries[job]["stages"] if s["made"]]

    def artifact(self, stage: str, job: int = -1) -> Path:
        """Where a stage's own artifact (not a variant's) lies."""
        found = [s for s in self.summaries[job]["stages"] if _title(s) == stage]
        return Path(found[0]["artifact"])

    def metrics(self, stage: str, job: int = -1) -> dict[str, Any]:
        return next(s["metrics"] for s in self.summaries[job]["stages"] if _title(s) == stage)


def _title(stage: dict[str, Any]) -> str:
    return f"{stage['name']}/{stage['variant']}" if stage["variant"] else stage["name"]


def environment() -> dict[str, str]:
    outside = ("HYDRA_FULL_ERROR", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    kept = {k: v for k, v in os.environ.items() if k not in outside}
    kept |= dict.fromkeys(SECRETS, CANARY)
    return kept | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}


def command(
    store: Path,
    *overrides: str,
    experiment: str | None = "smoke",
    program: Path = ROOT / "train.py",
) -> list[str]:
    """The command line of `program` with its artifacts and outputs below `store`."""
    chosen = [] if experiment is None else [f"experiment={experiment}"]
    places = [f"paths.artifacts={store / 'artifacts'}", f"paths.outputs={store / 'outputs'}"]
    quiet = ["trainer.threads=1", "trainer.progress_bar=false"]
    return [sys.executable, str(program), *overrides, *chosen, *places, *quiet]


def start(store: Path, *overrides: str, **how: Any) -> subprocess.Popen[str]:
    """The command running, its output in `<store>/log.txt`."""
    store.mkdir(parents=True, exist_ok=True)
    with (store / "log.txt").open("a") as log:
        return subprocess.Popen(
            command(store, *overrides, **how),
            cwd=ROOT,
            env=environment(),
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def run(store: Path, *overrides: str, cold: bool = False, **how: Any) -> Done:
    """The command run to its end, whatever that is. One at a time in a store, because tests in
    other workers would mix up its log and summaries."""
    store.mkdir(parents=True, exist_ok=True)
    with FileLock(store / "walk.lock"):
        before = set(summaries(store))
        log = store / "log.txt"
        said = log.stat().st_size if log.is_file() else 0
        began = time.monotonic()
        if cold or _starts_processes(overrides):
            code, cpu = wait(start(store, *overrides, **how))
        else:
            code, cpu = Warm.one().run(command(store, *overrides, **how)[1:], log)
        new = sorted(set(summaries(store)) - before, key=job_order)
        return Done(
            code,
            log.read_bytes()[said:].decode(),
            time.monotonic() - began,
            cpu,
            [json.loads(path.read_text()) for path in new],
        )


def _starts_processes(overrides: Sequence[str]) -> bool:
    """Whether a command starts ranks or workers, or finds modules in a folder of its own."""
    text = " ".join(overrides)
    return "launcher" in text or "devices" in text or "PYTHONPATH" in os.environ


class Warm:
    """The process of warm.py that this pytest worker uses."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "warm.py")],
            cwd=ROOT,
            env=environment() | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        atexit.register(self._process.kill)

    @classmethod
    @functools.cache
    def one(cls) -> Warm:
        return cls()

    def run(self, argv: list[str], log: Path) -> tuple[int, float]:
        """Exit code and processor seconds of a command, its output appended to `log`."""
        log.touch()
        asked = {"argv": argv, "env": environment(), "cwd": str(ROOT), "log": str(log)}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        code, seconds = json.loads(self._process.stdout.readline())
        return code, seconds


def wait(process: subprocess.Popen[str]) -> tuple[int, float]:
    """Exit code and processor time (of the process and its children) once it has ended."""
    deadline = time.monotonic() + PATIENCE
    while True:
        ended, status, used = os.wait4(process.pid, os.WNOHANG)
        if ended:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, used.ru_utime + used.ru_stime
        if time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise TimeoutError(f"{process.args} ran for more than {PATIENCE:.0f} s")
        time.sleep(0.02)


def done_well(done: Done) -> Done:
    assert done.code == 0, done.output
    return done


def summaries(store: Path) -> list[Path]:
    return list((store / "outputs").rglob("summary.json"))


def job_order(path: Path) -> tuple[float, str]:
    """Single runs and sweeps by their time, jobs of a sweep by their number."""
    job = path.parent.name
    return (float(job), "") if job.isdigit() else (-1.0, str(path))


def finals(store: Path) -> dict[str, list[Path]]:
    """Final artifact folders by stage."""
    found = {
        stage: sorted(p for p in (store / "artifacts" / stage).glob("*") if re.match(r"\w", p.name))
        for stage in STAGES
    }
    return {stage: folders for stage, folders in found.items() if folders}


def leaks(folder: Path) -> list[Path]:
    """Files below a folder that hold the canary, also in the columns of a table."""
    held = []
    for path in (p for p in folder.rglob("*") if p.is_file()):
        rows = str(pq.read_table(path).to_pydict()) if path.suffix == ".parquet" else ""
        if CANARY.encode() in path.read_bytes() or CANARY in rows:
            held.append(path)
    return held


def same_files(one: Path, other: Path, names: Sequence[str]) -> bool:
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)
