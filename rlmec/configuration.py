"""The configuration tree: checked before anything heavy is imported, and bound to plain settings.

In: the command line and the tree that Hydra composed from conf/. Out: `RunSettings` of plain
values, every node bound to its class in `settings.py` or, where it has a `_target_`, to the
signature of what that names. Signatures of this project's and of a user's own code are read from
their source, without importing it. Targets come from an allow-list only. Below this room nobody
sees an OmegaConf object.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from rlmec.binding import (
    Binder,
    ConfigurationError,
    allowed_prefixes,
    dataclass_signature,
    is_secret,
    join,
    refuse_held_secret,
    secret_refusal,
    unreadable,
)
from rlmec.settings import RunSettings, as_plain
from rlmec.signatures import SignatureError, signature_of

__all__ = [
    "ConfigurationError",
    "build",
    "check",
    "check_command_line",
    "rebind",
    "stage_settings",
    "with_split_files",
]

ALLOWED = (
    "rlmec.",
    "torch.optim.",
    "lightning.pytorch.callbacks.",
    "lightning.pytorch.loggers.",
    "lightning.pytorch.strategies.",
    "transformers.get_",
)
# The nodes that are nothing without a target.
TARGETS = ("task", "teacher", "engine", "policy.objective", "policy.reward", "policy.rows")
TARGETS += ("warmup.optimizer", "grm.optimizer", "policy.optimizer")
REFUSED = (HydraException, OmegaConfBaseException, YAMLError, ValueError, OSError, RecursionError)
# How weights that are not trained are held: counts wherever a network is used.
WEIGHTS = ("model.dtype", "model.quantization")
# The nodes whose values count in each stage's fingerprint; its parents' nodes count in theirs.
STAGE_NODES = {
    "warmup": ("task", "prompt", "model", "warmup"),
    "sample": ("task", "prompt", "sample", "engine", *WEIGHTS),
    "teach": ("task", "teacher", "teach"),
    "grm": ("prompt", "grm", *WEIGHTS),
    "score": ("prompt", "score", *WEIGHTS),
    "policy": ("policy", "model.lora", *WEIGHTS),
    "evaluate": ("task", "prompt", "evaluate", "engine", *WEIGHTS),
    "report": ("report",),
}
# Keys that change no artifact: hardware, display, places. (Of a judged model the digest counts; of
# several judged tasks each one's node, in its own artifact alone; a key of a node that STAGE_NODES
# names by itself counts there alone.)
IGNORED = (
    "trainer",
    "callbacks",
    "logger",
    "paths",
    "security",
    "seed",
    "stage",
    "resume",
    "ckpt_path",
    "run_name",
    "tags",
    "optimized_metric",
    *("rounds", "grm.later_steps", "report.each_round"),  # say which artifacts there are
    "evaluate.model",
    "evaluate.attempts",
    "evaluate.against",
    "evaluate.tasks",
    *("evaluate.text_field", "evaluate.question_field"),
    "export",
    "prune",
    *("engine.tensor_parallel_size", "engine.gpu_memory_utilization"),
    *("engine.max_model_len", "engine.enforce_eager"),
    "model.lora",
    *WEIGHTS,
)
# Keys that count where they are on alone: off, an artifact is what it was before they were there.
SWITCHES = {"grm": {"label_weight": 0.0}, "score": {"labels": False}}
# Keys of this project's own teachers that change how they ask, not what they answer. Their budget
# counts: it decides which attempts get a correction.
ASKING = ("api_key_env", "cache", "max_concurrency", "max_retries", "max_failures")
ASKING += ("timeout", "backoff", "max_wait", "device")


def stage_settings(settings: RunSettings, stage: str) -> dict[str, Any]:
    """The plain values that count in the fingerprint of `stage`, by node."""
    tree = as_plain(settings)
    nodes = {
        name: functools.reduce(lambda at, part: at[part], name.split("."), tree)
        for name in STAGE_NODES[stage]
    }
    for node, _, key in (dotted.partition(".") for dotted in IGNORED):
        if key and node in nodes:
            nodes[node] = {k: v for k, v in nodes[node].items() if k != key}
    for node in SWITCHES.keys() & nodes:
        nodes[node] = {k: v for k, v in nodes[node].items() if SWITCHES[node].get(k, ...) != v}
    if str((nodes.get("teacher") or {}).get("_target_")).startswith("rlmec.teachers."):
        nodes["teacher"] = {k: v for k, v in nodes["teacher"].items() if k not in ASKING}
    return nodes


def check(cfg: DictConfig | dict[str, Any], *config_dirs: Path) -> RunSettings:
    """The composed tree as settings, every value cast to its annotated type.

    Raises ConfigurationError for an unknown, missing or mistyped key and a target that is not
    allowed, naming the key, the nearest one there is and, where one of `config_dirs` holds it, the
    file and line. Libraries are imported for their signatures only when the rest is right.
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
    Binder((*ALLOWED, *allow), config_dirs, importing=False).cast(RunSettings, tree, "")
    for key in TARGETS:
        node: Any = functools.reduce(lambda at, name: (at or {}).get(name), key.split("."), tree)
        if not isinstance(node, dict) or "_target_" not in node:
            raise ConfigurationError(f"{key} needs a _target_: {node!r} has none")
    settings = Binder((*ALLOWED, *allow), config_dirs).cast(RunSettings, tree, "")
    if settings.warmup.task:
        if "_target_" in settings.warmup.task:
            raise ConfigurationError("warmup.task changes the task's settings, not its _target_")
        Binder(("",)).walk({**settings.task, **settings.warmup.task}, "warmup.task")
    for name, changes in (settings.report.compare or {}).items():
        rebind(settings.policy, changes, f"report.compare.{name}")
    return settings


def _name_judged_tasks(config: Any, config_dirs: Sequence[Path]) -> None:
    """Puts nodes by name in place of `evaluate.tasks`: a name stands for its file of conf/task,
    with the changes given beside it; a node with a `_target_` stands for itself."""
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


def build(node: dict[str, Any], **extra: Any) -> Any:
    """What a checked node stands for: its target called with its values (nodes among them built
    first) and `extra`; with `_partial_` the function that is still to be called."""
    plain = {k: _build_value(v) for k, v in node.items() if k not in ("_target_", "_partial_")}
    target = get_object(node["_target_"])
    if node.get("_partial_"):
        return functools.partial(target, **{**plain, **extra})
    return target(**{**plain, **extra})


def _build_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_build_value(item) for item in value]
    if isinstance(value, dict):
        if "_target_" in value:
            return build(value)
        return {key: _build_value(item) for key, item in value.items()}
    return value


def with_split_files(argv: Sequence[str]) -> list[str]:
    """The arguments with `task.path.train=FILE` written `++task.path.train=FILE`: whether task.path
    was one file, none, or one a split, it is then one a split."""
    return [f"++{arg}" if arg.startswith("task.path.") else arg for arg in argv]


def check_command_line(argv: Sequence[str], config_dir: Path, config_name: str) -> None:
    """Ends the program with exit code 2 and one line for an unknown key or option or a secret in
    `argv` (the arguments after the program's name), before Hydra starts. Costs one composition;
    help and other questions to Hydra pass unchecked, as do its own keys."""
    args = get_args_parser().parse_args(list(argv))
    try:
        overrides = OverridesParser.create().parse_overrides(args.overrides)
        for override in overrides:
            _refuse_secret(override)
        if args.help or args.hydra_help or args.cfg or args.info or args.shell_completion:
            return
        if args.config_path or args.config_dir or args.experimental_rerun:
            return
        own = [str(o.input_line) for o in overrides if not o.is_hydra_override()]
        with initialize_config_dir(str(config_dir.resolve()), version_base="1.3"):
            _compose_checked(own, args.config_name or config_name, args.multirun)
    except REFUSED as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        known = isinstance(error, HydraException | OmegaConfBaseException | ConfigurationError)
        place = "" if known else unreadable(config_dir)
        print(f"error: {place}{' '.join(lines[:4])[:1000]}", file=sys.stderr)
        raise SystemExit(2) from None


def _refuse_secret(override: Override) -> None:
    def names(value: Any) -> Iterator[str]:
        for key, item in value.items() if isinstance(value, dict) else ():
            yield str(getattr(key, "text", key))
            yield from names(item)

    own = re.split(r"[./@]", override.key_or_group)[-1]
    if found := next((n for n in (own, *names(override._value)) if is_secret(n)), None):
        raise ConfigurationError(secret_refusal(override.key_or_group if found == own else found))


def _compose_checked(argv: list[str], name: str, multirun: bool) -> None:
    loader = GlobalHydra.instance().config_loader()
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(argv)
    groups = {o.key_or_group: loader.get_group_options(o.key_or_group) for o in overrides}
    choices = [o for o in overrides if groups[o.key_or_group]]
    values = [o for o in overrides if not groups[o.key_or_group]]
    lines = {id(o): _lines(o) if multirun else [str(o.input_line)] for o in overrides}
    for override in choices:
        for line in lines[id(override)]:
            _check_option(line, override, groups[override.key_or_group])
    for job in range(max((len(lines[id(o)]) for o in choices), default=1)):
        chosen = [lines[id(o)][job % len(lines[id(o)])] for o in choices]
        tree = compose(config_name=name, overrides=chosen)
        plain: Any = OmegaConf.to_container(tree, resolve=False)
        refuse_held_secret(plain)
        for override in values:
            if not override.is_add() and not override.is_force_add():
                _check_key(override.key_or_group, tree, loader)
        if values:
            compose(config_name=name, overrides=chosen + [lines[id(o)][0] for o in values])


def _lines(override: Override) -> list[str]:
    """An override as those of single jobs: one for each value of a sweep, one for a range of
    numbers."""
    if not override.is_sweep_override():
        return [str(override.input_line)]
    head = override.get_key_element()
    if not override.is_discrete_sweep():  # an interval
        return [f"{head}={override.value().start}"]  # pyright: ignore
    if not (lines := [f"{head}={value}" for value in override.sweep_string_iterator()]):
        raise ConfigurationError(f"{override.input_line} matches nothing")
    return lines


def _check_option(line: str, override: Override, options: list[str]) -> None:
    option = line.partition("=")[2].strip("'\"")
    if override.is_delete() or option in options or not re.fullmatch(r"[\w.-]+", option):
        return
    if option != "null":
        near = difflib.get_close_matches(option, options, 1, 0.5)
        hint = f"the nearest is {near[0]!r}" if near else f"there is {', '.join(options)}"
        raise ConfigurationError(f"{override.key_or_group}={option}: no such option; {hint}")


def _check_key(key: str, tree: DictConfig, loader: Any) -> None:
    plain: Any = OmegaConf.to_container(tree, resolve=False)
    keys = list(_dotted(plain))
    above, _, name = key.rpartition(".")
    parent: Any = OmegaConf.select(tree, above) if above else tree
    if key in keys or (isinstance(parent, DictConfig) and name in parent):
        return
    if name in _settable(parent, above):
        raise ConfigurationError(f"{key!r} stands in no file: to add it, write +{key}=...")
    groups = [g for g in loader.list_groups("") if g != "hydra"]
    near = difflib.get_close_matches(key, [*keys, *groups], 1, 0.4)
    hint = f"the nearest is {near[0]!r}" if near else "nothing is like it"
    raise ConfigurationError(f"unknown key {key!r}: {hint}")


def _settable(parent: Any, key: str) -> Collection[str]:
    """The names that the class or the project's own target behind a node takes."""
    if isinstance(parent, DictConfig) and str(parent.get("_target_")).startswith("rlmec."):
        try:
            return signature_of(parent["_target_"], ALLOWED).hints
        except SignatureError:
            return ()
    cls: Any = RunSettings
    for part in key.split(".") if key else ():
        cls = dataclass_signature(cls).hints.get(part) if dataclasses.is_dataclass(cls) else None
    return dataclass_signature(cls).hints if dataclasses.is_dataclass(cls) else ()


def _dotted(tree: Any, key: str = "") -> Iterator[str]:
    for name, value in tree.items() if isinstance(tree, dict) else ():
        yield join(key, str(name))
        yield from _dotted(value, join(key, str(name)))


def rebind(settings: Any, changes: dict[str, Any], where: str) -> Any:
    """A settings object with nested `changes`, bound and checked again; a change with a `_target_`
    of its own replaces the node. Raises ConfigurationError naming the key below `where`. Targets
    among the changes passed the allow-list when `check` saw the tree that they stand in."""
    return Binder(("",)).cast(type(settings), _changed(as_plain(settings), changes), where)


def _changed(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    out = dict(tree)
    for key, value in changes.items():
        old = out.get(key)
        merge = isinstance(value, dict) and isinstance(old, dict) and "_target_" not in value
        out[key] = _changed(old, value) if merge else value  # pyright: ignore
    return out
