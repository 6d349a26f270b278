"""Checks the composed configuration before anything heavy is imported.

In: the tree that Hydra composed from conf/. Out: `RunSettings` of plain values. Each node is bound
to its class in `schema.py` or, if it has a `_target_`, to the signature of that target. Signatures
of this project's and of a user's own code are read from source, without importing it. Targets come
from an allow-list. No other package sees an OmegaConf object.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlmec.settings.binding import (
    Binder,
    ConfigurationError,
    allowed_prefixes,
    build,
    join,
    refuse_held_secret,
)
from rlmec.settings.ranges import with_home
from rlmec.settings.schema import RunSettings, as_plain

# In conf/, `${home:PATH}` is PATH with the home folder for `~`. The folder of a run needs it,
# because Hydra makes that folder before the settings are bound.
OmegaConf.register_new_resolver("home", with_home, replace=True)


def if_gpu(gpu: Any, otherwise: Any) -> Any:
    """`gpu` where PyTorch finds a GPU, else `otherwise`. Imports PyTorch."""
    import torch

    return gpu if torch.cuda.is_available() else otherwise


# In conf/, `${if_gpu:A,B}` is A on a machine with a GPU. It is resolved when a job begins, so that
# the settings of the job, and whatever is derived from them, have the value alone.
OmegaConf.register_new_resolver("if_gpu", if_gpu, replace=True)

ALLOWED = (
    "rlmec.",
    "torch.optim.",
    "lightning.pytorch.callbacks.",
    "lightning.pytorch.loggers.",
    "lightning.pytorch.strategies.",
    "transformers.get_",
)
# Nodes that need a target.
TARGETS = ("task", "teacher", "engine", "policy.objective", "policy.reward", "policy.rows")
TARGETS += ("warmup.optimizer", "grm.optimizer", "policy.optimizer")
# Targets that are built as a part of the check: they import nothing heavy, and check themselves.
BUILT = ("rlmec.teachers.steps.StepPrompts",)


def check(cfg: DictConfig | dict[str, Any], *config_dirs: Path) -> RunSettings:
    """The composed tree as settings, with every value cast to its annotated type.

    Raises ConfigurationError for an unknown, missing or mistyped key and for a target that is not
    allowed. The message names the key, the nearest known key, and the file and line if one of
    `config_dirs` holds it.
    """
    try:
        config: Any = OmegaConf.create(cfg)  # pyright: ignore
        _name_judged_tasks(config, config_dirs)
        if missing := sorted(OmegaConf.missing_keys(config)):
            raise ConfigurationError(f"{', '.join(missing)} is missing: a value is needed")
        tree: Any = OmegaConf.to_container(config, resolve=True)
        refuse_held_secret(tree)
    except (OmegaConfBaseException, RecursionError) as error:
        where = str(getattr(error, "full_key", None) or "")[:200]
        message = str(error).splitlines()[0][:500]
        raise ConfigurationError(f"{where}: {message}" if where else message) from error
    allow = allowed_prefixes(tree)

    # Importing a library for its signatures takes seconds: first everything else must be right.
    _bound(tree, Binder((*ALLOWED, *allow), config_dirs, importing=False))
    return _bound(tree, Binder((*ALLOWED, *allow), config_dirs))


def _bound(tree: dict[str, Any], binder: Binder) -> RunSettings:
    """The settings of a plain tree, with the changes of nodes that it names checked as well."""
    settings: RunSettings = binder.cast(RunSettings, tree, "")
    for key in TARGETS:
        node: Any = functools.reduce(lambda at, name: (at or {}).get(name), key.split("."), tree)
        if not isinstance(node, dict) or "_target_" not in node:
            raise ConfigurationError(f"{key} needs a _target_: {node!r} has none")

    _build_light(settings.teacher, "teacher")

    # Changes of a node are bound together with the node that they change.
    if settings.warmup.task:
        if "_target_" in settings.warmup.task:
            raise ConfigurationError("warmup.task changes the task's settings, not its _target_")
        anywhere = Binder(("",), importing=binder.importing)
        anywhere.walk({**settings.task, **settings.warmup.task}, "warmup.task")
    for name, changes in settings.report.variants.items():
        rebind(settings.policy, changes, f"report.compare.{name}", importing=binder.importing)
    return settings


def _build_light(node: Any, key: str) -> None:
    """Builds what `BUILT` names in a bound node; ConfigurationError with the key if it refuses."""
    if not isinstance(node, dict):
        return
    if node.get("_target_") in BUILT:
        try:
            build(node)
        except ValueError as error:
            raise ConfigurationError(f"{key}: {error}") from error
    for name, value in node.items():
        _build_light(value, join(key, name))


def _name_judged_tasks(config: Any, config_dirs: Sequence[Path]) -> None:
    """Replaces `evaluate.tasks` by nodes with names.

    A name is replaced by its file of conf/task, with the changes that are given for it. A node with
    a `_target_` stays as it is.
    """
    given: Any = OmegaConf.select(config, "evaluate.tasks")
    if not isinstance(given, ListConfig | DictConfig):
        return
    listed = given if isinstance(given, DictConfig) else {name: None for name in given}
    nodes = {str(name): _judged_task(str(name), listed[name], config_dirs) for name in listed}
    OmegaConf.update(config, "evaluate.tasks", nodes, merge=False)


def _judged_task(name: str, changes: Any, config_dirs: Sequence[Path]) -> Any:
    if not isinstance(changes, DictConfig | None):
        raise ConfigurationError(
            f"evaluate.tasks.{name}: expected changes of its node: {changes!r}"
        )
    if changes is not None and "_target_" in changes:
        return changes
    files = {
        f.stem: f for folder in reversed(config_dirs) for f in (folder / "task").glob("*.yaml")
    }
    if name not in files:
        near = difflib.get_close_matches(name, files, 1, 0.5)
        hint = f"the nearest is {near[0]!r}" if near else f"there is {', '.join(sorted(files))}"
        raise ConfigurationError(f"evaluate.tasks: no task {name!r}; {hint}")
    return OmegaConf.merge(OmegaConf.load(files[name]), changes or {})


def rebind(settings: Any, changes: dict[str, Any], where: str, *, importing: bool = True) -> Any:
    """A settings object with nested `changes`, bound and checked again.

    A change with a `_target_` of its own replaces the node. Raises ConfigurationError with the key
    below `where`. Any target is allowed here, because `check` has compared the targets of the whole
    tree, changes included, with the allow-list.
    """
    binder = Binder(("",), importing=importing)
    return binder.cast(type(settings), _changed(as_plain(settings), changes), where)


def _changed(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    out = dict(tree)
    for key, value in changes.items():
        old = out.get(key)
        merge = isinstance(value, dict) and isinstance(old, dict) and "_target_" not in value
        out[key] = _changed(old, value) if merge else value  # pyright: ignore
    return out
