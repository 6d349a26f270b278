"""Stand-ins for the packages of loggers, which record what runs are opened and what they get."""

import importlib.machinery
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

KINDS = ("mlflow", "tensorboard", "trackio", "wandb")


@dataclass
class Recorded:
    """One run of a service."""

    name: str
    group: str | None = None
    id: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    tables: dict[str, Any] = field(default_factory=dict)
    pictures: list[str] = field(default_factory=list)
    is_open: bool = True
    failed: bool | None = None
    continued: int = 0


@dataclass
class Service:
    """The runs that a stand-in has opened. With `breaks`, whatever its name holds fails."""

    kind: str
    runs: list[Recorded] = field(default_factory=list)
    breaks: str = ""

    def open(self, **given: Any) -> Recorded:
        self.check("open")
        assert not any(run.is_open for run in self.runs)  # each run is closed before the next
        made = Recorded(**given)
        self.runs.append(made)
        return made

    def continue_(self, run: Recorded) -> Recorded:
        assert not run.is_open
        run.is_open = True
        run.continued += 1
        return run

    def check(self, what: str) -> None:
        if what == self.breaks:
            raise ConnectionError(f"{what} is out of reach")


def install(monkeypatch, kind: str) -> Service:
    """Puts a stand-in for the package of a logger in its place, for one test."""
    service = Service(kind)
    for name, module in MODULES[kind](service).items():
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    for place in AVAILABLE.get(kind, ()):
        monkeypatch.setattr(place, True)
    return service


AVAILABLE = {
    "mlflow": ["lightning.pytorch.loggers.mlflow._MLFLOW_AVAILABLE"],
    "tensorboard": ["lightning.fabric.loggers.tensorboard._TENSORBOARD_AVAILABLE"],
    "wandb": ["lightning.pytorch.loggers.wandb._WANDB_AVAILABLE"],
}


def _module(name: str, **content: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(content)
    return module


def _numbers(figures: dict[str, Any]) -> dict[str, float]:
    return {k: v for k, v in figures.items() if isinstance(v, int | float)}


# --- wandb ---


def _wandb(service: Service) -> dict[str, ModuleType]:
    class Run:
        def __init__(self, record: Recorded) -> None:
            self.record = record
            self.id, self.name, self.group = record.id, record.name, record.group
            self.config = SimpleNamespace(update=self._configure)

        def _configure(self, given: dict[str, Any], allow_val_change: bool) -> None:
            self.record.config |= given

        def define_metric(self, *args: Any, **kwargs: Any) -> None:
            pass

        def log(self, figures: dict[str, Any]) -> None:
            service.check("log")
            self.record.figures |= _numbers(figures)
            for key, value in figures.items():
                if isinstance(value, Table):
                    self.record.tables[key] = value.data
                if isinstance(value, list):
                    self.record.pictures += value

        def finish(self, exit_code: int) -> None:
            self.record.is_open = False
            self.record.failed = bool(exit_code)
            package.run = None

    @dataclass
    class Table:
        columns: list[str]
        data: list[list[str]]
        dataframe: Any = None

    def init(name: str, group: str, id: str, resume: str, **given: Any) -> Run:
        known = [run for run in service.runs if run.id == id]
        record = service.continue_(known[0]) if known else None
        package.run = Run(record or service.open(name=name, group=group, id=id))
        return package.run

    settings = SimpleNamespace(mode="offline")
    package: Any = _module("wandb", run=None, init=init, Table=Table, Image=lambda path: path)
    package.setup = lambda: SimpleNamespace(settings=settings)
    package.login = lambda prompt, verify: False
    return {
        "wandb": package,
        "wandb.sdk": _module("wandb.sdk"),
        "wandb.sdk.lib": _module("wandb.sdk.lib", RunDisabled=type("RunDisabled", (), {})),
        "wandb.wandb_run": _module("wandb.wandb_run", Run=Run),
    }


# --- mlflow ---


@dataclass
class _Entity:
    key: str
    value: Any
    timestamp: int = 0
    step: int = 0


class _MlflowClient:
    service: Service

    def __init__(self, tracking_uri: str) -> None:
        self.tracking_uri = tracking_uri
        self.experiments: list[str] = []

    def _run(self, run_id: str) -> Recorded:
        return next(run for run in self.service.runs if run.id == run_id)

    def get_experiment_by_name(self, name: str) -> None:
        return None

    def create_experiment(self, name: str, artifact_location: str) -> str:
        assert name == "rlmec"
        assert artifact_location.startswith("file:///")
        return name

    def create_run(self, experiment_id: str, tags: dict[str, str]) -> Any:
        run_id = str(len(self.service.runs))
        self.service.open(name=tags["mlflow.runName"], group=tags["group"], id=run_id)
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

    def get_run(self, run_id: str) -> Any:
        run = self._run(run_id)
        if not run.is_open:
            self.service.continue_(run)
        return SimpleNamespace(info=SimpleNamespace(experiment_id="rlmec"))

    def log_batch(
        self, run_id: str, params: Iterable[_Entity] = (), metrics: Iterable[_Entity] = ()
    ) -> None:
        self.service.check("log")
        self._run(run_id).config |= {each.key: each.value for each in params}
        self._run(run_id).figures |= {each.key: each.value for each in metrics}

    def log_table(self, run_id: str, data: dict[str, list[str]], artifact_file: str) -> None:
        rows = zip(*data.values(), strict=True)
        self._run(run_id).tables[artifact_file.removesuffix(".json")] = list(map(list, rows))

    def log_artifact(self, run_id: str, local_path: str, artifact_path: str) -> None:
        self._run(run_id).pictures.append(local_path)

    def set_terminated(self, run_id: str, status: str) -> None:
        self._run(run_id).is_open = False
        self._run(run_id).failed = status == "FAILED"


def _mlflow(service: Service) -> dict[str, ModuleType]:
    client = type("MlflowClient", (_MlflowClient,), {"service": service})
    context = SimpleNamespace(resolve_tags=dict)
    return {
        "mlflow": _module("mlflow", set_tracking_uri=lambda uri: None),
        "mlflow.entities": _module("mlflow.entities", Param=_Entity, Metric=_Entity),
        "mlflow.tracking": _module("mlflow.tracking", MlflowClient=client, context=context),
        "mlflow.tracking.context": _module("mlflow.tracking.context", resolve_tags=dict),
        "mlflow.utils": _module("mlflow.utils"),
        "mlflow.utils.mlflow_tags": _module("mlflow_tags", MLFLOW_RUN_NAME="mlflow.runName"),
    }


# --- tensorboard ---


def _tensorboard(service: Service) -> dict[str, ModuleType]:
    class SummaryWriter:
        def __init__(self, log_dir: str) -> None:
            folder = Path(log_dir)
            known = [run for run in service.runs if run.id == log_dir]
            name = folder.parent.name.replace("_", " ")
            group = folder.parents[2].name
            self.record = (
                service.continue_(known[0])
                if known
                else service.open(name=f"{group} {name}", group=group, id=log_dir)
            )

        def add_scalar(self, name: str, value: float, step: int) -> None:
            service.check("log")
            self.record.figures[name] = value

        def add_text(self, key: str, text: str, step: int) -> None:
            cells = [line.strip("| ").split(" | ") for line in text.splitlines()[2:]]
            if key == "settings":
                self.record.config |= {name: value for name, value, *_ in cells}
            else:
                self.record.tables[key] = cells

        def add_image(self, name: str, image: Any, dataformats: str) -> None:
            self.record.pictures.append(name)

        def _get_file_writer(self) -> Any:
            return SimpleNamespace(add_summary=lambda summary, step: None)

        def flush(self) -> None:
            pass

        def close(self) -> None:
            self.record.is_open = False
            self.record.failed = False

    return {
        "tensorboard": _module("tensorboard"),
        "torch.utils.tensorboard": _module("tensorboard", SummaryWriter=SummaryWriter),
        "torch.utils.tensorboard.summary": _module(
            "summary", hparams=lambda params, figures: (1, 2, 3)
        ),
    }


# --- trackio ---


def _trackio(service: Service) -> dict[str, ModuleType]:
    class Run:
        def __init__(self, record: Recorded) -> None:
            self.record = record
            self.name, self.group = record.name, record.group
            self.config = record.config = {}  # also of a run that goes on

        def log(self, figures: dict[str, Any], step: int | None) -> None:
            service.check("log")
            self.record.figures |= _numbers(figures)
            for key, value in figures.items():
                if isinstance(value, list):
                    self.record.tables[key] = [list(row.values()) for row in value]
                if isinstance(value, str):
                    self.record.pictures.append(value)

    def init(project: str, name: str, group: str, resume: str) -> Run:
        known = [run for run in service.runs if run.name == name and resume == "allow"]
        package.run = Run(
            service.continue_(known[0]) if known else service.open(name=name, group=group)
        )
        return package.run

    def finish() -> None:
        package.run.record.is_open = False
        package.run.record.failed = False

    def table(data: list[dict[str, str]]) -> list[dict[str, str]]:
        return data

    package: Any = _module("trackio", init=init, finish=finish, Table=table, Image=str)
    return {"trackio": package}


MODULES = {
    "mlflow": _mlflow,
    "tensorboard": _tensorboard,
    "trackio": _trackio,
    "wandb": _wandb,
}
