"""The loggers of a job: a run per fit, and one for the results of all its stages.

In: the nodes of `logger`, the settings, and what fits and stages report. Out: runs of each logger,
with the settings, the figures of the training, a table of attempts with their corrections, and the
figures of the stage. Only rank 0 logs. A logger that fails ends no fit: the failure is reported
once, and the fit goes on without that logger.
"""

from __future__ import annotations

import importlib.util
import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import (
    CometLogger,
    CSVLogger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)
from lightning.pytorch.loggers.logger import DummyLogger, Logger

from rlmec.data.datamodule import SolutionPairDataModule
from rlmec.data.pairs import fields_of
from rlmec.lm.token_texts import token_spans
from rlmec.settings.binding import ConfigurationError, build
from rlmec.settings.schema import RunSettings, as_plain
from rlmec.store.atomic import atomic_write_json
from rlmec.store.begun import flat
from rlmec.training import loggers
from rlmec.training.loggers import RunNames, Table, TrackioLogger

FOLDER = "loggers"
"""Folder of a work folder that holds what a resumed fit needs to continue its runs."""

RESULTS = "results"
"""The label of the run that holds the figures of all stages."""

SHOWN_ATTEMPTS = 12
"""Rows of the table of attempts."""

# The packages that a logger needs, of which one is enough.
PACKAGES: dict[type, tuple[str, ...]] = {
    CometLogger: ("comet_ml",),
    MLFlowLogger: ("mlflow",),
    TensorBoardLogger: ("tensorboard", "tensorboardX"),
    TrackioLogger: ("trackio",),
    WandbLogger: ("wandb",),
}

GUARDED = ("log_metrics", "log_hyperparams", "log_graph", "save", "finalize")
"""Methods that Lightning and a fit call on a logger."""


# --- before the run ---


def check_loggers(settings: RunSettings) -> None:
    """Raises ConfigurationError for a logger that could not be opened: without a target, without
    its package, with arguments that exclude each other, or on a server without an account."""
    nodes = settings.logger or {}
    if not isinstance(nodes, dict):
        raise ConfigurationError(f"logger: {nodes!r} is no mapping of loggers by name")

    for key, node in nodes.items():
        if not isinstance(node, dict) or "_target_" not in node:
            raise ConfigurationError(f"logger.{key} needs a _target_: {node!r} has none")
        _check_packages(key, node)
        if issubclass(_class_of(node), WandbLogger):
            _check_account(key, node)
        if issubclass(_class_of(node), CSVLogger | TensorBoardLogger | TrackioLogger | WandbLogger):
            _build_once(key, node)


def _check_packages(key: str, node: Mapping[str, Any]) -> None:
    kind = _class_of(node)
    packages = next((found for each, found in PACKAGES.items() if issubclass(kind, each)), ())
    if packages and not any(map(importlib.util.find_spec, packages)):
        raise ConfigurationError(
            f"logger.{key} needs the package {packages[0]}, which is not installed: "
            f"pip install {packages[0]}"
        )


def _check_account(key: str, node: Mapping[str, Any]) -> None:
    """Refuses wandb on a server without a key, which would otherwise fail at the first fit."""
    import wandb  # pyright: ignore[reportMissingImports]

    online = wandb.setup().settings.mode not in ("offline", "dryrun", "disabled")
    if online and not node.get("offline") and not wandb.login(prompt=False, verify=False):
        raise ConfigurationError(
            f"logger.{key}: wandb has no key for its server: run `wandb login`, set WANDB_API_KEY, "
            f"or log to files with WANDB_MODE=offline"
        )


def _build_once(key: str, node: dict[str, Any]) -> None:
    """Builds a logger whose constructor opens nothing yet."""
    try:
        build(node)
    except Exception as error:
        raise ConfigurationError(f"logger.{key}: {type(error).__name__}: {error}") from error


def _class_of(node: Mapping[str, Any]) -> type:
    """The class that a node names; `object` if it names a function."""
    named = build({"_target_": node["_target_"], "_partial_": True}).func
    return named if isinstance(named, type) else object


# --- during the run ---


@dataclass
class OpenRun:
    """A logger with an open run. Its first failure is reported, and then nothing more is logged."""

    key: str
    logger: Logger
    say: Callable[[str], None]
    works: bool = True

    def __post_init__(self) -> None:
        # Lightning gets the logger itself, because callbacks ask for its class.
        for name in GUARDED:
            setattr(self.logger, name, self._guarded(getattr(self.logger, name)))

    def _guarded(self, method: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: self.attempt(method, *args, **kwargs)

    def attempt(self, action: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls `action` while the logger works. Returns None if it fails."""
        if not self.works:
            return None
        try:
            return action(*args, **kwargs)
        except Exception as error:
            self.works = False
            self.say(_failure(self.key, error))
            return None


@dataclass
class RunLogs:
    """The loggers of a job: `nodes` by name, the `group` of its runs, its flat `settings`."""

    nodes: dict[str, Any]
    group: str
    settings: dict[str, Any]
    say: Callable[[str], None]
    tags: tuple[str, ...] = ()
    logs: bool = True  # whether this rank does
    opened: list[OpenRun] = field(default_factory=list)

    def open(self, title: str, work: Path, data: SolutionPairDataModule) -> list[Logger]:
        """The loggers of a fit, each with an open run that has settings and a table of attempts.

        A fit that goes on in `work` continues its runs. Ranks that log nothing get a stand-in.
        """
        if not self.nodes:
            return []
        if not self.logs:
            return [DummyLogger()]

        path = work / FOLDER / "runs.json"
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        label = re.sub(r"[(),]", "", title)
        continued = self._open(label, known)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_json(path, known | self._continuations())

        made = {"artifact": f"{work.parent.name}/{work.name.removeprefix('.work-')}"}
        table = attempts_table(data)
        for run in self.opened:
            again = run.key in continued
            run.attempt(loggers.log_settings, run.logger, self.settings | made, again)
            if table.rows and not again:
                run.attempt(loggers.log_table, run.logger, "attempts", table)
        return [run.logger for run in self.opened]

    def close(self, metrics: Mapping[str, Any] | None = None, step: int | None = None) -> None:
        """Ends the open runs with the figures of their stage; without figures, as failed."""
        results = {f"result/{name}": value for name, value in _numbers(metrics or {}).items()}
        for run in self.opened:
            if results:
                run.attempt(loggers.log_results, run.logger, results, step, self.settings)
            # A run that failed is ended, too: wandb would give it to the next fit.
            failed = metrics is None or not run.works
            run.works = True
            run.attempt(loggers.close, run.logger, failed)
        self.opened = []

    def log_results(self, stages: Sequence[Mapping[str, Any]], pictures: Sequence[Path]) -> None:
        """A run of its own with the figures of all stages of the job, and the report's pictures."""
        if not stages or not self.nodes or not self.logs:
            return
        self._open(RESULTS, {})
        results = {name: value for stage in stages for name, value in _results_of(stage)}
        for run in self.opened:
            run.attempt(loggers.log_settings, run.logger, self.settings, False)
            run.attempt(loggers.log_results, run.logger, results, None, self.settings)
            if pictures:
                run.attempt(loggers.log_pictures, run.logger, "report", pictures)
        self.close({})

    def _open(self, label: str, known: Mapping[str, Any]) -> set[str]:
        """Opens a run of every logger; returns the names of those that continue a `known` one."""
        names = RunNames(label, self.group, uuid.uuid4().hex[:8], self.tags)
        continued = set()
        for key, node in self.nodes.items():
            own = loggers.arguments_of(_class_of(node), node, names)
            before = known.get(key, {})
            if before.get("_target_") == node["_target_"]:
                own |= {name: value for name, value in before.items() if name != "_target_"}
                continued.add(key)
            try:
                if node.get("save_dir") and "tracking_uri" not in own:
                    Path(node["save_dir"]).mkdir(parents=True, exist_ok=True)
                logger = build(node, **own)
                getattr(logger, "experiment", None)  # opens the run
            except Exception as error:
                self.say(_failure(key, error))
                continue
            self.opened.append(OpenRun(key, logger, self.say))
        return continued

    def _continuations(self) -> dict[str, Any]:
        found = {}
        for run in self.opened:
            if arguments := run.attempt(loggers.continuation, run.logger):
                found[run.key] = {"_target_": self.nodes[run.key]["_target_"], **arguments}
        return found


def run_logs(
    settings: RunSettings, run_dir: Path, rank: int, say: Callable[[str], None]
) -> RunLogs:
    """The loggers of a job. Its runs are grouped by `run_name`, or by the folder of the job."""
    return RunLogs(
        settings.logger or {},
        settings.run_name or "/".join(run_dir.parts[-2:]),
        flat_settings(as_plain(settings)),
        say,
        tuple(settings.tags),
        logs=rank == 0,
    )


def _failure(key: str, error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return f"logger.{key} failed, the run goes on without it: {type(error).__name__}: {text}"


# --- what is logged ---


def flat_settings(node: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values by dotted key. Credentials in an address (user:password@host) are left out."""
    return {key: _shown(value) for key, value in flat(node).items() if value != {}}


def _shown(value: Any) -> Any:
    if isinstance(value, str):
        return re.sub(r"(?<=://)[^/@\s]+@", "", value)
    return value if isinstance(value, int | float | None) else str(value)


def attempts_table(data: SolutionPairDataModule) -> Table:
    """A few corrected attempts with their corrections, and with token rewards if they are scored.

    Each token that has a reward is followed by it in brackets. Without corrections the table has no
    rows.
    """
    _, attempts, corrections, scores = data.records
    columns = ["problem", "question", "attempt", "verdict", "correction"]
    rewards: dict[str, str] = {}
    if scores:
        columns.append("token rewards")
        rewards = dict(_token_rewards(data))

    numbers = {id_: number for number, (id_,) in enumerate(fields_of(attempts, "id"))}
    table = Table(columns)
    for correction in corrections:
        if correction.attempt_id not in numbers:
            continue
        attempt = attempts[numbers[correction.attempt_id]]
        if scores and attempt.id not in rewards:
            continue
        question = data.problems[attempt.problem_id].question
        row = [attempt.problem_id, question, attempt.text, attempt.verdict, correction.text]
        table.rows.append([*row, rewards[attempt.id]] if scores else row)
        if len(table.rows) == SHOWN_ATTEMPTS:
            break
    return table


def _token_rewards(data: SolutionPairDataModule) -> Iterator[tuple[str, str]]:
    """The first corrected attempts by id, as text with rewards."""
    decode = data.prompts.codec.decode
    corrected = (pair for pair in data.pairs if pair.corrected_by)
    for pair in islice(corrected, SHOWN_ATTEMPTS):
        text, spans = token_spans(pair.attempt.completion_ids, decode)
        shown = [
            text[start:end] + (f"[{reward:+.2f}]" if reward else "")
            for (start, end), reward in zip(spans, pair.token_rewards, strict=True)
        ]
        yield pair.attempt.id, "".join(shown)


def _results_of(stage: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The figures of an entry of the summary; those of a variant or a later round name it."""
    number = stage.get("round", 1)  # stored outputs and exports belong to no round
    later = f"round {number}" if number > 1 else ""
    place = "-".join(filter(None, (stage["name"], stage["variant"], later)))
    place = re.sub(r"[ ,]+", "_", place)
    for name, value in _numbers(stage["metrics"]).items():
        yield f"{place}/{name.removeprefix(stage['name'] + '/')}", value


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {k: v for k, v in metrics.items() if isinstance(v, int | float)}
