"""Loggers: one run per fit, whatever the logger is.

In: Lightning loggers, the names of a run, its settings and figures. Out: runs of wandb, MLflow,
TensorBoard, Trackio or CSV files that hold the same things, each in the form its logger has for
them. What differs between loggers is one function per subject below, with one case per logger.
"""

from __future__ import annotations

import inspect
import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import singledispatch
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import Logger

from rlmec.runtime.display import markdown_table

Figures = Mapping[str, float]


@dataclass(frozen=True)
class RunNames:
    """What a run of a logger is called: `label` says what it logs, `group` is that of its job.

    `id` is unique, so that no run continues another one by chance.
    """

    label: str
    group: str
    id: str
    tags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the run among those of all jobs."""
        return f"{self.group} {self.label}"

    @property
    def folder(self) -> str:
        """The name of the run within the folder of its job."""
        return self.label.replace(" ", "_")


@dataclass(frozen=True)
class Table:
    """A table of text cells, one list per row."""

    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)


class TrackioLogger(Logger):
    """Logs to Trackio, in a local folder (TRACKIO_DIR) or on a Space of Hugging Face.

    `arguments` are further arguments of `trackio.init`.
    """

    def __init__(
        self,
        project: str = "rlmec",
        name: str | None = None,
        group: str | None = None,
        resume: Literal["allow", "must", "never"] = "never",
        **arguments: Any,
    ) -> None:
        super().__init__()
        self._init: dict[str, Any] = {
            "project": project,
            "name": name,
            "group": group,
            "resume": resume,
        }
        self._init |= arguments
        self._run: Any = None

    @property
    def name(self) -> str:
        return self._init["project"]

    @property
    def version(self) -> str | None:
        return self._init["name"]

    @property
    def experiment(self) -> Any:
        """The run, opened when first asked for."""
        if self._run is None:
            import trackio  # pyright: ignore[reportMissingImports]

            self._run = trackio.init(**self._init)
        return self._run

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        self.experiment.config.update(params if isinstance(params, dict) else vars(params))

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.experiment.log(dict(metrics), step=step)

    @rank_zero_only
    def finish(self) -> None:
        """Writes what is still buffered, and closes the run."""
        if self._run is not None:
            import trackio  # pyright: ignore[reportMissingImports]

            trackio.finish()
            self._run = None


# --- opening ---


def arguments_of(kind: Any, node: Mapping[str, Any], names: RunNames) -> dict[str, Any]:
    """Arguments that make a logger of the class `kind` open a run of these names.

    `node` holds the user's arguments, of which those that are not None stay as they are. Other
    loggers than the ones named here get the folder's name as `name` if they take one.
    """
    group = {"name": names.name, "group": names.group}
    if not isinstance(kind, type):
        found: dict[str, Any] = {}
    elif issubclass(kind, WandbLogger):
        found = group | {"id": names.id, "job_type": names.label, "tags": list(names.tags)}
    elif issubclass(kind, MLFlowLogger):
        found = {"run_name": names.name, "tags": _mlflow_tags(names)} | _mlflow_store(node)
    elif issubclass(kind, TrackioLogger):
        found = group
    elif "name" in inspect.signature(kind).parameters:
        return {"name": names.folder}
    else:
        found = {}
    return {key: value for key, value in found.items() if node.get(key) is None}


def _mlflow_tags(names: RunNames) -> dict[str, str]:
    tags = {"group": names.group, "stage": names.label}
    return tags | ({"tags": ", ".join(names.tags)} if names.tags else {})


def _mlflow_store(node: Mapping[str, Any]) -> dict[str, str]:
    """A database and a folder of files in `save_dir`, if no `tracking_uri` names another place."""
    if node.get("tracking_uri") is not None:
        return {}
    folder = Path(node.get("save_dir") or "mlflow").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "tracking_uri": f"sqlite:///{folder / 'mlflow.db'}",
        "artifact_location": (folder / "artifacts").as_uri(),
    }


@singledispatch
def continuation(logger: Logger) -> dict[str, Any]:
    """Arguments with which another process opens the same run again; empty if nothing can."""
    return {}


@continuation.register
def _(logger: WandbLogger) -> dict[str, Any]:
    run = logger.experiment
    return {"id": run.id, "name": run.name, "group": run.group}


@continuation.register
def _(logger: MLFlowLogger) -> dict[str, Any]:
    return {"run_id": logger.run_id}


@continuation.register
def _(logger: TensorBoardLogger) -> dict[str, Any]:
    folder = str(Path(logger.save_dir).absolute())
    return {"save_dir": folder, "name": logger.name, "version": logger.version}


@continuation.register
def _(logger: TrackioLogger) -> dict[str, Any]:
    run = logger.experiment
    return {"name": run.name, "group": run.group, "resume": "allow"}


# --- what a run holds ---


@singledispatch
def log_settings(logger: Logger, settings: dict[str, Any], continued: bool) -> None:
    """The settings of the job, by dotted key; a continued run keeps those it has."""
    if not continued:
        logger.log_hyperparams(settings)


@log_settings.register
def _(logger: TrackioLogger, settings: dict[str, Any], continued: bool) -> None:
    # Trackio replaces the settings of a run that it continues, by none if there are none.
    logger.log_hyperparams(settings)


@log_settings.register
def _(logger: TensorBoardLogger, settings: dict[str, Any], continued: bool) -> None:
    if continued:
        return
    logger.log_hyperparams(settings)
    rows = [[key, str(value)] for key, value in settings.items()]
    logger.experiment.add_text("settings", _markdown(Table(["setting", "value"], rows)), 0)


@singledispatch
def log_results(
    logger: Logger, results: Figures, step: int | None, settings: dict[str, Any]
) -> None:
    """The figures that are known at the end of a run."""
    logger.log_metrics(dict(results), step)


@log_results.register
def _(
    logger: TensorBoardLogger, results: Figures, step: int | None, settings: dict[str, Any]
) -> None:
    # Its table of runs shows settings and results that are written together.
    logger.log_hyperparams(settings, dict(results))


@log_results.register
def _(logger: MLFlowLogger, results: Figures, step: int | None, settings: dict[str, Any]) -> None:
    # MLflow takes no other signs than these in a name (pass@4).
    names = {name: re.sub(r"[^\w/. -]", "_", name) for name in results}
    logger.log_metrics({names[name]: value for name, value in results.items()}, step)


@singledispatch
def log_table(logger: Logger, key: str, table: Table) -> None:
    """A table, where the logger has a place for one."""


@log_table.register
def _(logger: WandbLogger, key: str, table: Table) -> None:
    logger.log_table(key, columns=table.columns, data=table.rows)


@log_table.register
def _(logger: MLFlowLogger, key: str, table: Table) -> None:
    cells = zip(*table.rows, strict=True)
    columns = {name: list(column) for name, column in zip(table.columns, cells, strict=True)}
    logger.experiment.log_table(str(logger.run_id), data=columns, artifact_file=f"{key}.json")


@log_table.register
def _(logger: TensorBoardLogger, key: str, table: Table) -> None:
    logger.experiment.add_text(key, _markdown(table), 0)


@log_table.register
def _(logger: TrackioLogger, key: str, table: Table) -> None:
    import trackio  # pyright: ignore[reportMissingImports]

    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    logger.experiment.log({key: trackio.Table(data=rows)}, step=0)


@singledispatch
def log_pictures(logger: Logger, key: str, paths: Sequence[Path]) -> None:
    """PNG files, where the logger has a place for them."""


@log_pictures.register
def _(logger: WandbLogger, key: str, paths: Sequence[Path]) -> None:
    logger.log_image(key, [str(path) for path in paths])


@log_pictures.register
def _(logger: MLFlowLogger, key: str, paths: Sequence[Path]) -> None:
    for path in paths:
        logger.experiment.log_artifact(str(logger.run_id), str(path), key)


@log_pictures.register
def _(logger: TensorBoardLogger, key: str, paths: Sequence[Path]) -> None:
    from matplotlib.image import imread

    for path in paths:
        image = imread(path)[..., :3]
        logger.experiment.add_image(f"{key}/{path.stem}", image, dataformats="HWC")


@log_pictures.register
def _(logger: TrackioLogger, key: str, paths: Sequence[Path]) -> None:
    import trackio  # pyright: ignore[reportMissingImports]

    pictures = {f"{key}/{path.stem}": trackio.Image(str(path)) for path in paths}
    logger.experiment.log(pictures, step=0)


@singledispatch
def close(logger: Logger, failed: bool) -> None:
    """Ends the run, so that the next fit or job opens another one."""
    logger.finalize("failed" if failed else "success")


@close.register
def _(logger: WandbLogger, failed: bool) -> None:
    logger.experiment.finish(exit_code=int(failed))


@close.register
def _(logger: TrackioLogger, failed: bool) -> None:
    logger.finish()


def _markdown(table: Table) -> str:
    """The table as Markdown; a line break within a cell becomes one that Markdown keeps."""
    rows = [[cell.replace("\n", "<br>") for cell in row] for row in table.rows]
    return markdown_table(table.columns, rows)
