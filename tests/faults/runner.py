"""Runs cases: stops, starts again, compares with an uninterrupted run of the same setting."""

from __future__ import annotations

import functools
import re
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from .cases import Case
from .comparison import differences, finished, joined, trace
from .damage import Damage, no_damage
from .forks import PATIENCE, Child, rank_without_peer, start
from .injection import CODES, Stop, act, install
from .settings import DATED_CHAT, FITS, STAGES, command, upstream, write_configuration

SWEPT = "policy.objective.epsilon=0.1,0.3"
OUTSIDE = ("time", "checkpoint", "disk", "rendezvous")
"""Points that no wrap in the command's own process sees."""
WAITS = b"waiting for the other ranks"
WAIT_LIMIT = 5.0
"""Seconds within which a rank that waits for another must end after a signal."""
JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
STOPPED_AT = re.compile(r"stopped by [\w-]+: \S+ at optimizer step (\d+) of")
RESUMED_AT = re.compile(r"resumes from optimizer step (\d+)")
PARTS = re.compile(r"(\d+) of \d+ parts are there already")


@dataclass
class Result:
    """What became of a case."""

    case: Case
    stops: list[str] = field(default_factory=list)
    went_on: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    rows_wrong: int = 0
    torn: int = 0
    torn_accepted: int = 0
    slowest: float = 0.0
    seconds: float = 0.0


class Bench:
    """Stores and uninterrupted runs below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.configuration = write_configuration(root / "conf")
        self.took: dict[tuple[str, str], float] = {}

    def argv(self, case: Case, store: Path) -> list[str]:
        line = command(
            case.setting, case.stage, self.configuration, store, self._start(case.setting)
        )
        joblib = JOBLIB if case.name.endswith("-joblib") else ()
        return ["-m", *line, SWEPT, *joblib] if case.damage == "sweep" else line

    def _start(self, setting: str) -> Path:
        """The finished model of a setting that has one."""
        return self.root / ("dated" if setting.startswith("dated") else "start")

    def reference(self, setting: str, until: str) -> Path:
        """The store of a setting with all stages up to one, made where it is not there."""
        store = self.root / setting
        if setting.startswith(("lora", "dated")) and not self._start(setting).is_dir():
            (warm,) = finished(self.reference("full1", "warmup"), "warmup")
            shutil.copytree(warm / "model", self._start(setting))
            if setting.startswith("dated"):
                (self._start(setting) / "chat_template.jinja").write_text(DATED_CHAT)
        for stage in [*upstream(setting, until), until]:
            if not finished(store, stage):
                self._run_whole(Case("reference", setting, stage, ()), store, stage)
        return store

    def swept(self) -> Path:
        """The uninterrupted sweep's store, which its jobs' policies alone are taken from."""
        store = self.root / "sweep"
        if not store.is_dir():
            self._copy(self.reference("full1", "score"), store, upstream("full1", "policy"))
            self._run_whole(Case("reference", "full1", "policy", (), "sweep"), store, "sweep")
        return store

    def _run_whole(self, case: Case, store: Path, name: str) -> None:
        log, began = store / "log.txt", time.monotonic()
        noting = functools.partial(install, None, store / f"{name}.trace")
        store.mkdir(parents=True, exist_ok=True)
        if (code := start(self.argv(case, store), log, noting).wait()) != 0:
            raise RuntimeError(
                f"the uninterrupted run ended with {code}: {log.read_text()[-3000:]}"
            )
        self.took[case.setting, name] = time.monotonic() - began

    def _copy(self, source: Path, target: Path, stages: list[str]) -> None:
        for stage in stages:
            shutil.copytree(source / "artifacts" / stage, target / "artifacts" / stage)

    def run(self, case: Case) -> Result:
        """A case from its beginning to the comparison; what is wrong is in the result."""
        began, result = time.monotonic(), Result(case)
        sweep = case.damage == "sweep"
        whole = self.swept() if sweep else self.reference(case.setting, case.stage)
        store = self.root / "cases" / case.name
        shutil.rmtree(store, ignore_errors=True)
        damage = no_damage(store) if sweep or not case.damage else Damage(case.damage, store)
        with damage:
            self._copy(whole, store, upstream(case.setting, case.stage))
            try:
                _Walk(self, case, store, whole, result, damage).walk()
            except TimeoutError as error:
                result.wrong.append(str(error))
        if not result.wrong:
            shutil.rmtree(store, ignore_errors=True)
        result.seconds = time.monotonic() - began
        return result


class _Walk:
    """One case on its way."""

    def __init__(
        self, bench: Bench, case: Case, store: Path, whole: Path, result: Result, damage: Damage
    ) -> None:
        self.bench, self.case, self.store, self.whole = bench, case, store, whole
        self.result, self.damage = result, damage
        self.log, self.traces = store / "log.txt", list[Path]()

    def walk(self) -> None:
        stopped: int | None = None
        for number, stop in enumerate(self.case.stops):
            self.damage.before(number)
            said = self._stopped_run(stop)
            at = STOPPED_AT.search(said)
            found = self._went_on(said)
            if at or found:  # not struck before it could say where it goes on
                self._check_resumed(found, stopped)
                stopped = int(at[1]) if at else None
            self.damage.after(number, self.case.stage)
        refused = self._refused()
        said, code = self._run(None)
        self._check_resumed(self._went_on(said), stopped)
        if code != 0:
            self.result.wrong.append(f"the last run ended with {code}")
            return
        name = "sweep" if self.case.damage == "sweep" else self.case.stage
        self.result.wrong += differences(self.store, self.whole, self.case.stage)
        if self.case.stage in FITS and name != "sweep" and not refused:
            self._check_rows(self.whole / f"{name}.trace")

    def _stopped_run(self, stop: Stop) -> str:
        said, code = self._run(stop)
        wanted = 1 if stop.point == "disk" else CODES[stop.action]
        if code == wanted:
            self.result.stops.append(str(stop))
        elif code == 0:  # it was done before its time came
            self.result.stops.append(f"({stop})")
        else:
            self.result.wrong.append(f"{stop} ended with {code}, not {wanted}")
        return said

    def _run(self, stop: Stop | None) -> tuple[str, int]:
        said = self.log.stat().st_size if self.log.is_file() else 0
        self.traces.append(self.store / f"{len(self.traces)}.trace")
        put_in = None if stop is None or stop.point in OUTSIDE else stop
        day = self.case.days * len(self.traces)
        noting = functools.partial(install, put_in, self.traces[-1], day)
        if stop is not None and stop.point == "rendezvous":
            noting = rank_without_peer
        child = start(self.bench.argv(self.case, self.store), self.log, noting)
        if stop is not None and stop.point in ("time", "checkpoint", "rendezvous"):
            self._strike(child, stop, said)
        code = child.wait()
        return self.log.read_bytes()[said:].decode(), code

    def _strike(self, child: Child, stop: Stop, said: int) -> None:
        """From outside: after a share of the usual time, at a checkpoint of that step, or while the
        run waits for another rank; `said` is the length of the log before the run."""
        if stop.point == "time":
            took = self.bench.took.get((self.case.setting, self.case.stage), 5.0)
            time.sleep(took * stop.nth / 100)
        while stop.point == "checkpoint" and child.is_running():
            found = (self.store / "artifacts").rglob("checkpoints/step-*.ckpt")
            if any(int(path.stem.removeprefix("step-")) >= stop.nth for path in found):
                break
            time.sleep(0.002)
        while stop.point == "rendezvous" and child.is_running():
            if self.log.is_file() and WAITS in self.log.read_bytes()[said:]:
                break
            time.sleep(0.05)
        try:
            act(stop.action, child.pid)
        except ProcessLookupError:
            return
        struck = time.monotonic()
        child.wait(WAIT_LIMIT if stop.point == "rendezvous" else PATIENCE)
        self.result.slowest = max(self.result.slowest, time.monotonic() - struck)

    def _went_on(self, said: str) -> list[int]:
        """Notes what the run says that it goes on from; the optimizer steps among it."""
        found = [int(n) for n in RESUMED_AT.findall(said)]
        self.result.went_on += [f"step {n}" for n in found]
        self.result.went_on += [f"part {n}" for n in PARTS.findall(said)]
        return found

    def _check_resumed(self, found: list[int], stopped: int | None) -> None:
        """A fit that a signal stopped goes on at that step and no other."""
        sweep = self.case.damage == "sweep"
        damaged = self.case.damage.startswith("checkpoint")
        if stopped is not None and not sweep and not damaged and found[:1] != [stopped]:
            self.result.wrong.append(f"stopped at step {stopped}, went on from {found}")

    def _refused(self) -> bool:
        """Whether the next run must refuse what is torn, and did; then it is taken away."""
        if not self.damage.is_torn:
            return False
        self.result.torn += 1
        if not self.damage.must_be_refused:
            return False
        said, code = self._run(None)
        if code != 1 or "error:" not in said:
            self.result.torn_accepted += 1
            self.result.wrong.append(f"torn {self.case.damage}: ended with {code}")
        self.damage.take_away()
        return True

    def _check_rows(self, reference: Path) -> None:
        wanted = trace(reference)
        found, skipped = joined([trace(path) for path in self.traces])
        wrong = sum(a != b for a, b in zip(found, wanted, strict=False))
        wrong += abs(len(found) - len(wanted)) + skipped
        self.result.rows_wrong = wrong
        if wrong:
            self.result.wrong.append(f"{wrong} micro-batches lost, doubled or others")


assert set(FITS) < set(STAGES)
