"""The artifact chain: makes a stage and whatever it needs that is not made yet, as make does.

In: settings, the ranks, a store. Out: artifacts, each made once per fingerprint, and
`summary.json`. Rank 0 alone looks at the store, takes locks and commits; the other ranks act on
what it says.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rlmec.evaluation.run_warnings import NamedWarning, diagnose
from rlmec.lm.loading import hub_commit
from rlmec.lm.lora import adapter_at
from rlmec.runtime import signals
from rlmec.runtime.display import say
from rlmec.runtime.ranks import Ranks
from rlmec.runtime.sweeps import write_summary
from rlmec.settings.build import build
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
from rlmec.store.fingerprint import directory_digest, file_digest, fingerprint
from rlmec.store.locks import Uses
from rlmec.tasks.base import Task

Settings = dict[str, Any]
# what a work folder holds only to go on after a kill
RESUMING = ("parts", "checkpoints", "agreement")
INEXACT = "inexact.txt"  # what resume=weights has cost, kept for the manifest


@dataclass(frozen=True)
class Outcome:
    """What a stage made: rows of its main table (or optimizer steps of a fit) and its figures."""

    rows: int
    metrics: dict[str, Any]


@dataclass
class Run:
    """One job: its settings, its ranks, the store, and what has been made or reused so far."""

    settings: RunSettings
    ranks: Ranks
    run_dir: Path
    overrides: list[str] = field(default_factory=list)
    threads: int = 0
    before_making: Callable[[Run], None] | None = None  # on rank 0, before the first artifact
    stages: list[dict[str, Any]] = field(default_factory=list)
    made: dict[tuple[str, str], Artifact] = field(default_factory=dict)
    asked: str = ""  # the title of the stage that was asked for
    tasks: dict[str, Task] = field(default_factory=dict)  # those judged beside the run's own

    def __post_init__(self) -> None:
        self.store = ArtifactStore(Path(self.settings.paths.artifacts))
        self.uses = Uses(self.store.root)

    @cached_property
    def task(self) -> Task:
        return build(self.settings.task)

    def say(self, text: str) -> None:
        if self.ranks.rank == 0:
            say(text)

    def metric(self, name: str) -> Any:
        """The value of a metric in the stages of this job, the last one that has it."""
        for entry in reversed(self.stages):
            if name in entry["metrics"]:
                return entry["metrics"][name]
        return None

    def write_summary(self) -> None:
        if self.ranks.rank == 0:
            wanted = self.settings.optimized_metric
            write_summary(
                self.run_dir,
                {
                    "overrides": self.overrides,
                    "optimized_metric": self.metric(wanted),
                    "optimized_metric_name": wanted,
                    "tags": self.settings.tags,
                    "stages": self.stages,
                },
            )


class Stage(ABC):
    """One artifact of the chain. `variant` and `round` tell several of one stage in one job
    apart."""

    name = ""
    version = 1
    round = 1

    def __init__(self, run: Run, variant: str = "") -> None:
        self.run, self.variant = run, variant

    @property
    def which(self) -> str:
        later = f"round {self.round}" if self.round > 1 else ""
        return ", ".join(filter(None, (self.variant, later)))

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from every other stage of its job."""
        return self.name, self.which

    @property
    def title(self) -> str:
        return f"{self.name} ({self.which})" if self.which else self.name

    def parents(self) -> dict[str, Stage]:
        """Stages whose artifacts this one reads, by the name it reads them under."""
        return {}

    def settings(self) -> Settings:
        """The plain values that count in the fingerprint."""
        later = {"round": self.round} if self.round > 1 else {}
        return stage_settings(self.run.settings, self.name) | later

    def inputs(self) -> dict[str, str]:
        """Digests of files and model directories that the stage reads."""
        return {}

    @abstractmethod
    def build(self, work: Path, parents: dict[str, Artifact]) -> Outcome:
        """Makes the artifact's files in `work`, on all ranks at once."""

    def fingerprint(self, parents: dict[str, Artifact]) -> str:
        settings = self.settings()
        return fingerprint(
            self.name,
            self.version,
            settings,
            {name: artifact.fingerprint for name, artifact in parents.items()},
            self.inputs() | task_files(settings.get("task")),
            {target: source_digest(target) for target in sorted(targets(settings))},
        )


def targets(node: Any) -> set[str]:
    """Every `_target_` in a plain tree."""
    if isinstance(node, dict):
        own = {node["_target_"]} if "_target_" in node else set()
        return own.union(*(targets(value) for value in node.values()))
    if isinstance(node, list):
        return set().union(*(targets(value) for value in node))
    return set()


def task_files(task: Any) -> dict[str, str]:
    """Digests of the local files that a task node names under `path`."""
    path = (task or {}).get("path")
    named = path if isinstance(path, dict) else {"path": path}
    return {
        f"task.{key}": file_digest(value)
        for key, value in named.items()
        if value is not None and Path(value).is_file()
    }


def model_digest(path: str, revision: str | None) -> str:
    """What names a model's content: of a local directory its digest, of a hub name its commit, of
    an adapter's directory its digest and the content of the model below.

    Raises FileNotFoundError for a path that is neither a directory nor like a hub name.
    """
    folder = Path(path)
    if folder.is_dir():
        place = adapter_at(folder)
        below = "" if place is None else f"+{model_digest(place.base, place.revision)}"
        return directory_digest(folder) + below
    if folder.is_absolute() or path.startswith((".", "~")) or path.count("/") > 1:
        raise FileNotFoundError(f"{path}: no such model directory")
    return f"{path}@{hub_commit(path, revision)}"


def address_of(stage: Stage, known: dict[tuple[str, str], tuple[Stage, str]]) -> str:
    """The fingerprint that a stage's artifact has or will have; nothing is made. `known`, by the
    stages' keys, grows by the stage and all that it is made from, parents first."""
    if stage.key not in known:
        above = {name: (p.name, address_of(p, known)) for name, p in stage.parents().items()}
        parents = {name: Artifact(kind, fp, Path(), {}) for name, (kind, fp) in above.items()}
        known[stage.key] = stage, stage.fingerprint(parents)
    return known[stage.key][1]


def make(stage: Stage) -> Artifact:
    """The stage's artifact, made now if it is not there; its parents first."""
    run, key = stage.run, stage.key
    if key in run.made:
        return run.made[key]
    parents = {name: make(parent) for name, parent in stage.parents().items()}
    signals.check(f"before {stage.title}")
    address = run.ranks.share(lambda: stage.fingerprint(parents))
    began = time.monotonic()
    artifact = run.ranks.share(lambda: _find(stage, address))
    made = False
    if artifact is None:
        with contextlib.ExitStack() as held:
            artifact = run.ranks.share(lambda: _enter(held, stage, address))
            if artifact is None:
                artifact, made = _build(stage, address, parents), True
    seconds = time.monotonic() - began
    _note(stage, artifact, made, seconds)
    run.made[key] = artifact
    return artifact


def _find(stage: Stage, address: str) -> Artifact | None:
    """On rank 0: the artifact, if it is made; from now on it is in the hands of this job."""
    stage.run.uses.hold(stage.name, address)
    found = stage.run.store.find(stage.name, address)
    if found is not None:
        remove_below(found.path, RESUMING)  # left by a kill right behind the commit
    return found


def _enter(held: contextlib.ExitStack, stage: Stage, address: str) -> Artifact | None:
    """On rank 0: takes the lock, and looks again for what another job may have made meanwhile."""
    store, title = stage.run.store, stage.title

    def waiting(path: Path) -> None:
        say(f"{title}: another job is making it; waiting for it")

    held.enter_context(store.lock(stage.name, address, on_wait=waiting))
    found = store.find(stage.name, address)
    work = store.work(stage.name, address)
    if found is None:
        _check_once(stage.run)
        if stage.run.settings.resume == "never":
            shutil.rmtree(work, ignore_errors=True)
        goes_on = any(any((work / name).glob("*")) for name in RESUMING)
        if stage.run.settings.resume == "required" and not (goes_on or stage.run.made):
            raise FileNotFoundError(
                f"resume=required: there is nothing to go on from, neither in {work} nor a "
                f"finished artifact that {title} needs; look at paths.artifacts, or begin with "
                f"resume=auto"
            )
        say(f"{title}: {'goes on' if goes_on else 'begins'}")
        work.mkdir(parents=True, exist_ok=True)
        stage.run.uses.sign(stage.name, address)
    return found


def _check_once(run: Run) -> None:
    check, run.before_making = run.before_making, None
    if check is not None:
        check(run)


def _build(stage: Stage, address: str, parents: dict[str, Artifact]) -> Artifact:
    run, began = stage.run, time.monotonic()
    try:
        outcome = stage.build(run.store.work(stage.name, address), parents)
    except signals.RunStopped as stop:
        raise signals.RunStopped(stop.number, stop.where or stage.title) from None

    def commit() -> Artifact:
        manifest = {
            "version": stage.version,
            "variant": stage.variant,
            "settings": stage.settings(),
            "parents": {name: a.fingerprint for name, a in parents.items()},
            "inputs": stage.inputs(),
            "rows": outcome.rows,
            "metrics": outcome.metrics,
            "seconds": round(time.monotonic() - began, 2),
            "environment": environment(run.ranks.world, run.threads),
        }
        if (note := run.store.work(stage.name, address) / INEXACT).is_file():
            manifest["inexact"] = note.read_text(encoding="utf-8").strip()
        return run.store.commit(stage.name, address, manifest, drop=RESUMING)

    return run.ranks.share(commit)


def _note(stage: Stage, artifact: Artifact, made: bool, seconds: float) -> None:
    run = stage.run
    entry = {
        "name": stage.name,
        "variant": stage.variant,
        "round": stage.round,
        "made": made,
        "artifact": str(artifact.path),
        "rows": artifact.rows,
        "seconds": round(seconds, 2),
        "metrics": artifact.metrics,
    }
    run.stages.append(entry)
    run.write_summary()
    how = f"made in {seconds:.1f} s" if made else "reused"
    shown = _headline(artifact.metrics)
    run.say(f"{stage.title}: {how}, {artifact.rows} rows{shown} [{artifact.fingerprint}]")
    for warning in warnings_of(artifact) if made else ():
        run.say(f"  warning: {warning}")
    if not made and run.ranks.rank == 0:
        now = environment(run.ranks.world, run.threads)["libraries"]
        then = artifact.manifest.get("environment", {}).get("libraries", {})
        if different := environment_differences(then, now):
            run.say(f"  made with other versions: {', '.join(different)}")


def _headline(metrics: dict[str, Any]) -> str:
    numbers = [
        f"{name} {value:.4g}" for name, value in metrics.items() if isinstance(value, int | float)
    ]
    return "".join(f", {number}" for number in numbers[:6])


CURVE = "curve.jsonl"
"""The file in which a fit leaves what it logged: a line of JSON a row, each with its `step`."""


def curve_of(artifact: Artifact) -> list[dict[str, float]]:
    """What a fit logged and what its validations found, in rows; empty for other stages."""
    path = artifact.path / CURVE
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [*map(json.loads, text.splitlines()), *artifact.metrics.get("history", [])]


def warnings_of(artifact: Artifact) -> list[NamedWarning]:
    """What an artifact's figures warn of; those of a later round say which. Variants are made to
    differ: they warn of nothing."""
    if artifact.manifest.get("variant"):
        return []
    found = diagnose(artifact.stage, artifact.metrics, curve_of(artifact))
    number = artifact.manifest.get("settings", {}).get("round", 1)
    if number == 1:
        return found
    return [replace(warning, text=f"round {number}: {warning.text}") for warning in found]
