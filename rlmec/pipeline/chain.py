"""The artifact chain: makes a stage and whatever it needs that is not made yet, as `make` does.

In: settings, the ranks, a store. Out: artifacts, each made once per fingerprint, and
`summary.json`. Only rank 0 reads the store, takes locks and commits; it tells the other ranks what
it found.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rlmec.evaluation.run_warnings import NamedWarning, diagnose
from rlmec.lm.memory_estimate import GIB
from rlmec.pipeline import memory_use
from rlmec.pipeline.content import Settings, contents
from rlmec.pipeline.past_runs import PastRuns
from rlmec.pipeline.run_logs import FOLDER as LOGGERS
from rlmec.pipeline.run_logs import RunLogs, run_logs
from rlmec.pipeline.stage_words import in_words
from rlmec.runtime import signals
from rlmec.runtime.display import duration, log, say, say_markdown
from rlmec.runtime.ranks import Ranks
from rlmec.runtime.sweeps import write_summary
from rlmec.settings.binding import build
from rlmec.settings.fingerprinted import stage_settings
from rlmec.settings.schema import RunSettings
from rlmec.settings.sources import source_digest
from rlmec.store.artifacts import (
    Artifact,
    ArtifactStore,
    environment,
    environment_differences,
)
from rlmec.store.atomic import remove_below
from rlmec.store.begun import RECORD, Record, begun_with, other_work, read_record
from rlmec.store.fingerprint import fingerprint
from rlmec.store.locks import Uses
from rlmec.tasks.base import Task, left_out_summary

RESUMING = ("parts", "checkpoints", "agreement")
"""Folders of a work folder that are needed only to continue after a kill."""

ROWS = "rows"
"""Folder of a work folder for the temporary files of training rows. They have no name, but a file
system of a network may give them one until they are closed."""

DROPPED = (*RESUMING, LOGGERS, ROWS)
"""Folders of a work folder that are no part of the artifact."""

INEXACT = "inexact.txt"
"""File of a work folder that says what `resume=weights` has cost, for the manifest."""

CURVE = "curve.jsonl"
"""File in which a fit leaves what it logged: one line of JSON per row, each with its `step`."""


@dataclass(frozen=True)
class Outcome:
    """What a stage made: the rows of its main table (optimizer steps for a fit) and its figures."""

    rows: int
    metrics: dict[str, Any]


@dataclass
class Run:
    """One job: its settings, its ranks, its store, and what it has made or reused so far."""

    settings: RunSettings
    ranks: Ranks
    run_dir: Path
    overrides: list[str] = field(default_factory=list)
    threads: int = 0
    before_making: Callable[[Run], None] | None = None  # called on rank 0 before the first artifact
    stages: list[dict[str, Any]] = field(default_factory=list)
    made: dict[tuple[str, str], Artifact] = field(default_factory=dict)
    asked: str = ""  # title of the stage that the user asked for
    order: list[Stage] = field(default_factory=list)  # the stages of the job, in order of making
    began: float = field(default_factory=time.monotonic)
    tasks: dict[str, Task] = field(default_factory=dict)  # the built ones of `evaluate.tasks`

    def __post_init__(self) -> None:
        self.store = ArtifactStore(Path(self.settings.paths.artifacts))
        self.uses = Uses(self.store.root)
        self._said: set[str] = set()

    @cached_property
    def task(self) -> Task:
        """The task that the policy is trained on."""
        return build(self.settings.task)

    @cached_property
    def logs(self) -> RunLogs:
        """The loggers of the job, with the settings that it has when the first fit begins."""
        return run_logs(self.settings, self.run_dir, self.ranks.rank, self.say)

    def say(self, text: str) -> None:
        """One line to the terminal, from rank 0 alone."""
        if self.ranks.rank == 0:
            say(text)

    def say_markdown(self, text: str) -> None:
        """Tables in Markdown to the terminal, from rank 0 alone."""
        if self.ranks.rank == 0:
            say_markdown(text)

    def log(self, text: str) -> None:
        """A line for the log file alone, from rank 0 alone."""
        if self.ranks.rank == 0:
            log(text)

    def expect(self, *stages: Stage) -> None:
        """Adds stages that the job will make, after what they are made from, to its `order`."""
        for stage in stages:
            self.expect(*stage.parents.values())
            if all(stage.key != known.key for known in self.order):
                self.order.append(stage)

    def numbered(self, stage: Stage) -> str:
        """The title of a stage with its place in the job, such as "[3/9] grm"."""
        place = 1 + [known.key for known in self.order].index(stage.key)
        return f"[{place}/{len(self.order)}] {stage.title}"

    @cached_property
    def expected(self) -> dict[tuple[str, str], Expected]:
        """What is to be done for each stage of the job, by its key, as found at the start."""
        return expected_work(self)

    def say_left_out(self, task: Task) -> None:
        """Says which rows of a task were left out, once."""
        for line in left_out_summary(task):
            if line not in self._said:
                self._said.add(line)
                self.say(line)

    def metric(self, name: str) -> Any:
        """The value of a metric in the last stage of this job that has it; None without one."""
        for entry in reversed(self.stages):
            if name in entry["metrics"]:
                return entry["metrics"][name]
        return None

    def write_summary(self) -> None:
        """Writes `summary.json` as far as the job has got."""
        if self.ranks.rank == 0:
            write_summary(
                self.run_dir,
                {
                    "overrides": self.overrides,
                    "optimized_metric_name": self.settings.optimized_metric,
                    "tags": self.settings.tags,
                    "stages": self.stages,
                },
            )


class Stage(ABC):
    """One artifact of the chain, and how to make it.

    A stage is handed its parents, the stages whose artifacts it reads, by the name under which it
    reads them; `stages.flow` says which stage gets which. `variant` and `round` distinguish several
    stages of one name in one job.
    """

    name = ""
    version = 1

    def __init__(
        self,
        run: Run,
        parents: Mapping[str, Stage] | None = None,
        *,
        variant: str = "",
        round: int = 1,
    ) -> None:
        self.run = run
        self.parents = dict(parents or {})
        self.variant = variant
        self.round = round

    @property
    def which(self) -> str:
        """Variant and round in words; empty for the first round of the main chain."""
        later = f"round {self.round}" if self.round > 1 else ""
        return ", ".join(filter(None, (self.variant, later)))

    @property
    def key(self) -> tuple[str, str]:
        """What distinguishes the stage from every other one of its job."""
        return self.name, self.which

    @property
    def title(self) -> str:
        """The stage's name for a person to read."""
        return f"{self.name} ({self.which})" if self.which else self.name

    def settings(self) -> Settings:
        """The plain values that count in the fingerprint."""
        later = {"round": self.round} if self.round > 1 else {}
        return stage_settings(self.run.settings, self.name) | later

    def inputs(self) -> dict[str, str]:
        """Digests of what the stage reads besides its parents and what its settings name."""
        return {}

    @abstractmethod
    def build(self, work: Path, parents: dict[str, Artifact]) -> Outcome:
        """Makes the artifact's files in `work`; called on all ranks at once."""

    def counted(self) -> Record:
        """What counts in the fingerprint besides the parents, and the `places`, which do not."""
        found = contents(self.settings())
        return {
            "version": self.version,
            "settings": found.settings,
            "places": found.places,
            "inputs": self.inputs() | found.digests,
            "sources": {name: source_digest(name) for name in sorted(targets(found.settings))},
        }

    def fingerprint(self, parents: dict[str, Artifact]) -> str:
        """The hash of everything that can change the artifact's content."""
        counted = self.counted()
        return fingerprint(
            self.name,
            counted["version"],
            counted["settings"],
            {name: artifact.fingerprint for name, artifact in parents.items()},
            counted["inputs"],
            counted["sources"],
        )


def targets(node: Any) -> set[str]:
    """Every `_target_` in a plain tree."""
    if isinstance(node, dict):
        own = {node["_target_"]} if "_target_" in node else set()
        return own.union(*(targets(value) for value in node.values()))
    if isinstance(node, list):
        return set().union(*(targets(value) for value in node))
    return set()


def address_of(stage: Stage, known: dict[tuple[str, str], tuple[Stage, str]]) -> str:
    """The fingerprint that a stage's artifact has or will have; nothing is made.

    `known`, by the keys of stages, grows by the stage and by all that it is made from, parents
    first.
    """
    if stage.key not in known:
        above = {name: (p.name, address_of(p, known)) for name, p in stage.parents.items()}
        parents = {name: Artifact(kind, fp, Path(), {}) for name, (kind, fp) in above.items()}
        known[stage.key] = stage, stage.fingerprint(parents)
    return known[stage.key][1]


@dataclass(frozen=True)
class Expected:
    """What a job has to do for an artifact: "reuse", "continue" or "make" it.

    The seconds are those of earlier runs that did the same work. They are None if there are none,
    and for work that continues, of which a part is done.
    """

    what: str
    seconds: float | None


def expected_work(run: Run) -> dict[tuple[str, str], Expected]:
    """What is to be done for each stage of `run.order`, by its key; empty if that is not known."""
    known: dict[tuple[str, str], tuple[Stage, str]] = {}
    try:
        for stage in run.order:
            address_of(stage, known)
        past = PastRuns(run.store, run.ranks.world, run.threads)
        return {key: _expected(stage, fp, past) for key, (stage, fp) in known.items()}
    except (OSError, ValueError):  # the stage itself will say what it cannot read
        return {}


def _expected(stage: Stage, fp: str, past: PastRuns) -> Expected:
    store = stage.run.store
    if store.final(stage.name, fp).is_dir():
        return Expected("reuse", 0.0)
    if is_begun(store.work(stage.name, fp)):
        return Expected("continue", None)
    return Expected("make", past.seconds(stage))


def is_begun(work: Path) -> bool:
    """Whether a work folder holds something to continue from."""
    return any(any((work / name).glob("*")) for name in RESUMING)


def make(stage: Stage) -> Artifact:
    """The stage's artifact, made now if it is not there, after its parents."""
    run = stage.run
    run.expect(stage)
    if stage.key in run.made:
        return run.made[stage.key]

    parents = {name: make(parent) for name, parent in stage.parents.items()}
    signals.check(f"before {stage.title}")
    address = run.ranks.share(lambda: stage.fingerprint(parents))

    began = time.monotonic()
    made = False
    artifact = run.ranks.share(lambda: _find(stage, address))
    if artifact is None:
        # The lock is held until the commit, so that no other job makes the same artifact meanwhile.
        with contextlib.ExitStack() as held:
            artifact = run.ranks.share(lambda: _enter(held, stage, address, parents))
            if artifact is None:
                try:
                    artifact = _build(stage, address, parents)
                    run.logs.close(artifact.metrics, artifact.rows)
                finally:
                    run.logs.close()  # those of a fit that failed or was stopped
                made = True

    _note(stage, artifact, made, seconds=time.monotonic() - began)
    run.made[stage.key] = artifact
    return artifact


def _find(stage: Stage, address: str) -> Artifact | None:
    """The artifact, if it is made, marked as used by this job; for rank 0."""
    stage.run.uses.hold(stage.name, address)
    found = stage.run.store.find(stage.name, address)
    if found is not None:
        remove_below(found.path, DROPPED)  # left by a kill right after the commit
    return found


def _enter(
    held: contextlib.ExitStack, stage: Stage, address: str, parents: dict[str, Artifact]
) -> Artifact | None:
    """Takes the lock, and looks again for what another job may have made meanwhile; for rank 0.

    Returns that artifact, or None where this job is to make it; its work folder is then ready.
    """
    run = stage.run
    store = run.store
    title = stage.title

    def waiting(path: Path) -> None:
        say(f"{title}: another job is making it; waiting for it")

    held.enter_context(store.lock(stage.name, address, on_wait=waiting))
    found = store.find(stage.name, address)
    if found is not None:
        return found

    _check_once(run)
    work = store.work(stage.name, address)
    if run.settings.resume == "never":
        shutil.rmtree(work, ignore_errors=True)
    continues = is_begun(work)

    # Work under another address is not continued: whoever expected that is told what differs.
    libraries = environment(run.ranks.world, run.threads)["libraries"]
    above = {name: artifact.fingerprint for name, artifact in parents.items()}
    record = stage.counted() | {"parents": above, "libraries": libraries}
    others = [] if continues else other_work(store, stage.name, address, record)

    if run.settings.resume == "required" and not (continues or run.made):
        raise FileNotFoundError(
            f"resume=required: there is nothing to continue from, neither in {work} nor a finished "
            f"artifact that {title} needs; check paths.artifacts, or begin with resume=auto"
            + "".join(f"; {line}" for line in others)
        )

    say(_begin_line(stage, continues))
    work.mkdir(parents=True, exist_ok=True)
    run.uses.sign(stage.name, address)

    begun = begun_with(work, record)
    if different := environment_differences(begun["libraries"], libraries):
        say(f"  begun with other versions: {', '.join(different)}")
    for line in others:
        say(f"  {line}")
    return None


def _check_once(run: Run) -> None:
    """Runs the job's own check before its first artifact, and never again."""
    check = run.before_making
    run.before_making = None
    if check is not None:
        check(run)


def _build(stage: Stage, address: str, parents: dict[str, Artifact]) -> Artifact:
    """Makes the stage's files on all ranks; rank 0 commits them."""
    run = stage.run
    began = time.monotonic()
    memory_use.begin_peak()
    try:
        outcome = stage.build(run.store.work(stage.name, address), parents)
    except signals.RunStopped as stop:
        raise signals.RunStopped(stop.number, stop.where or stage.title) from None
    peak = memory_use.peak()
    memory_use.give_back()

    def commit() -> Artifact:
        work = run.store.work(stage.name, address)
        begun = read_record(work)
        libraries = begun.pop("libraries", {})
        manifest = {
            "variant": stage.variant,
            **begun,
            "rows": outcome.rows,
            "metrics": outcome.metrics,
            "seconds": round(time.monotonic() - began, 2),
            "peak_memory_gib": None if peak is None else round(peak / GIB, 2),
            "environment": environment(run.ranks.world, run.threads),
        }
        if libraries != manifest["environment"]["libraries"]:
            manifest["begun_with"] = libraries
        if (note := work / INEXACT).is_file():
            manifest["inexact"] = note.read_text(encoding="utf-8").strip()
        (work / RECORD).unlink(missing_ok=True)
        return run.store.commit(stage.name, address, manifest, drop=DROPPED)

    return run.ranks.share(commit)


def _note(stage: Stage, artifact: Artifact, made: bool, seconds: float) -> None:
    """Records the stage in the summary and says what came out."""
    run = stage.run
    warnings = warnings_of(artifact)
    entry = {
        "name": stage.name,
        "variant": stage.variant,
        "round": stage.round,
        "made": made,
        "artifact": str(artifact.path),
        "rows": artifact.rows,
        "seconds": round(seconds, 2),
        "metrics": artifact.metrics,
        "warnings": [str(warning) for warning in warnings],
    }
    run.stages.append(entry)
    run.write_summary()

    how = f"made in {duration(seconds)}" if made else "reused"
    words = in_words(stage.name, artifact.rows, artifact.metrics) if made else []
    run.say(f"{run.numbered(stage)}: {', '.join([how, *words])}")
    figures = "".join(f", {k} {v:.4g}" for k, v in _numbers(artifact.metrics))
    run.log(f"{stage.title}: {artifact.rows} rows{figures} [{artifact.fingerprint}]")
    for warning in warnings if made else ():
        run.say(f"  warning: {warning}")

    if not made and run.ranks.rank == 0:
        now = environment(run.ranks.world, run.threads)["libraries"]
        then = artifact.manifest.get("environment", {}).get("libraries", {})
        if different := environment_differences(then, now):
            run.say(f"  made with other versions: {', '.join(different)}")


def _numbers(metrics: dict[str, Any]) -> Iterator[tuple[str, float]]:
    return ((k, v) for k, v in metrics.items() if isinstance(v, int | float))


def _begin_line(stage: Stage, continues: bool) -> str:
    """That a stage begins: its place in the job, the time since the job began, and what is left."""
    run = stage.run
    elapsed = time.monotonic() - run.began
    parts = ["continues"] if continues else []
    if elapsed >= 1:
        parts.append(f"{duration(elapsed)} elapsed")

    expected = run.expected.get(stage.key)
    if expected and expected.seconds and not continues:
        parts.append(f"takes about {duration(expected.seconds)}")
        to_come = [run.expected.get(s.key) for s in run.order if s.key not in run.made]
        known = [e.seconds for e in to_come if e is not None and e.seconds is not None]
        if 1 < len(to_come) == len(known):
            parts[-1] += f" of about {duration(sum(known))} left"
    return run.numbered(stage) + (": " + ", ".join(parts) if parts else "")


def curve_of(artifact: Artifact) -> list[dict[str, float]]:
    """The rows that a fit logged, then those of its validations; empty for other stages."""
    path = artifact.path / CURVE
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [*map(json.loads, text.splitlines()), *artifact.metrics.get("history", [])]


def warnings_of(artifact: Artifact) -> list[NamedWarning]:
    """The warnings that an artifact's figures give.

    Those of a later round or of one of several judged models name it. The policies of a comparison
    differ on purpose, so their training gives none.
    """
    variant = artifact.manifest.get("variant")
    if variant and artifact.stage != "evaluate":
        return []
    found = diagnose(artifact.stage, artifact.metrics, curve_of(artifact))
    number = artifact.manifest.get("settings", {}).get("round", 1)
    which = variant or (f"round {number}" if number > 1 else "")
    return [replace(w, text=f"{which}: {w.text}") for w in found] if which else found
