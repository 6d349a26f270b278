"""Checks the command line before Hydra starts.

In: the arguments of a program (train.py, evaluate.py, `rlmec`) or of `rlmec.train`. Out: the
arguments for Hydra. A mistake is one line and exit code 2 on a command line, and a
ConfigurationError in Python.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import re
import sys
import typing
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

import rlmec
from rlmec.settings.binding import (
    ConfigurationError,
    dataclass_signature,
    is_secret,
    join,
    refuse_held_secret,
    secret_refusal,
    unreadable,
)
from rlmec.settings.check import ALLOWED
from rlmec.settings.ranges import with_home
from rlmec.settings.schema import RunSettings
from rlmec.settings.signatures import SignatureError, signature_of

OWN_NAMES = ("prompt.template_args",)
"""Settings below which every name is the user's own."""
REFUSED = (HydraException, OmegaConfBaseException, YAMLError, ValueError, OSError, RecursionError)


def with_split_files(argv: Sequence[str]) -> list[str]:
    """The arguments with `task.path.train=FILE` written `++task.path.train=FILE`: whether task.path
    was one file, none, or one a split, it is then one a split."""
    return [f"++{arg}" if arg.startswith("task.path.") else arg for arg in argv]


def with_home_folders(argv: Sequence[str]) -> list[str]:
    """The arguments with the home folder for `~/` at the start of every unquoted value."""
    home = with_home("~")
    return [
        arg if "'" in arg or '"' in arg else re.sub(r"(?<=[=,\[])~(?=/)", lambda _: home, arg)
        for arg in argv
    ]


def with_stage(argv: Sequence[str], stage: str) -> list[str]:
    """The arguments with `stage=STAGE` in front of the first override.

    Hydra wants all overrides in one piece. Raises ConfigurationError if another stage is given.
    """
    overrides = parser().parse_args(argv).overrides
    for given in overrides:
        key, _, value = given.lstrip("+").partition("=")
        if key == "stage" and value != stage:
            raise ConfigurationError(f"{given}: this command is stage={stage}; use train {given}")
    place = argv.index(overrides[0]) if overrides else len(argv)
    return [*argv[:place], f"stage={stage}", *argv[place:]]


def check_command_line(argv: Sequence[str], config_dir: Path, config_name: str) -> list[str]:
    """The arguments for Hydra, as `checked_arguments` returns them.

    Ends the program with exit code 2 and one line for an unknown key or option or a secret.
    """
    try:
        return checked_arguments(argv, config_dir, config_name)
    except ConfigurationError as error:
        refuse_command_line(error)


def refuse_command_line(error: ConfigurationError) -> NoReturn:
    """End the program with exit code 2 and the error as one line."""
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2) from None


def checked_arguments(argv: Sequence[str], config_dir: Path, config_name: str) -> list[str]:
    """The arguments for Hydra, checked before it starts.

    `argv` are the arguments after the program's name. An override of a setting that no YAML file
    shows, because its default is in the signature of its target, comes back as `++key=value`; so
    every setting is overridden the same way, wherever its default lives. `~/` at the start of a
    value becomes the home folder, because Hydra's grammar refuses it. Help and other questions to
    Hydra pass unchecked, as do its own keys, except hydra.searchpath. Costs one composition.

    Raises ConfigurationError for an unknown key or option or a secret.
    """
    argv = with_home_folders(argv)
    args = parser().parse_args(argv)
    try:
        overrides = OverridesParser.create().parse_overrides(args.overrides)
        for override in overrides:
            _refuse_secret(override)
        if args.help or args.hydra_help or args.info or args.shell_completion:
            return argv
        if args.config_path or args.experimental_rerun:
            return argv

        own = [str(o.input_line) for o in overrides if not o.is_hydra_override()]
        searched = search_path(args.config_dir, overrides)
        with initialize_config_dir(str(config_dir.resolve()), version_base="1.3"):
            added = _compose_checked(
                own,
                args.config_name or config_name,
                args.multirun,
                searched,
            )
        return [f"++{arg}" if arg in added else arg for arg in argv]
    except REFUSED as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        known = isinstance(error, HydraException | OmegaConfBaseException | ConfigurationError)
        place = "" if known else unreadable(config_dir)
        raise ConfigurationError(f"{place}{' '.join(lines[:4])[:1000]}") from error


def parser() -> argparse.ArgumentParser:
    """Hydra's parser, with the name by which a user has started the program, and its version."""
    found = get_args_parser()
    found.prog = found.prog.replace("__main__.py", "rlmec")
    (version,) = (action for action in found._actions if "--version" in action.option_strings)
    version.version = f"rlmec {rlmec.__version__}"  # pyright: ignore
    return found


def search_path(config_dir: str | None, overrides: Sequence[Override]) -> list[str]:
    """Where further configuration files are, as Hydra's `hydra.searchpath` names places.

    These are the folder of `--config-dir` and the entries of an override of hydra.searchpath.
    Raises ConfigurationError for a folder that is not there.
    """
    folders = {} if config_dir is None else {f"--config-dir {config_dir}": config_dir}
    places = []
    for override in overrides:
        if override.key_or_group != "hydra.searchpath":
            continue
        value = override.value()
        if not isinstance(value, list):
            raise ConfigurationError(f"{override.input_line}: expected a list, [file:///FOLDER]")
        for place in map(str, value):
            if place.startswith("file://") or "://" not in place:
                folders[f"hydra.searchpath={place}"] = place.removeprefix("file://")
            else:
                places.append(place)

    for given, folder in folders.items():
        if not Path(folder).is_dir():
            raise ConfigurationError(f"{given}: there is no such folder")
        places.append(f"file://{Path(folder).resolve()}")
    return places


def _refuse_secret(override: Override) -> None:
    def names(value: Any) -> Iterator[str]:
        for key, item in value.items() if isinstance(value, dict) else ():
            yield str(getattr(key, "text", key))
            yield from names(item)

    own = re.split(r"[./@]", override.key_or_group)[-1]
    if found := next((n for n in (own, *names(override._value)) if is_secret(n)), None):
        raise ConfigurationError(secret_refusal(override.key_or_group if found == own else found))


def _compose_checked(argv: list[str], name: str, multirun: bool, searched: list[str]) -> set[str]:
    """Raises for a wrong option or key; returns the overrides that add a setting to the tree."""
    loader = GlobalHydra.instance().config_loader()
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(argv)
    search = [f"hydra.searchpath={searched}"] if searched else []

    def options(group: str, kind: ObjectType = ObjectType.CONFIG) -> list[str]:
        return loader.get_group_options(group, kind, overrides=search)

    groups = {o.key_or_group: options(o.key_or_group) for o in overrides}
    known = list(groups_of(options))
    choices = [o for o in overrides if groups[o.key_or_group]]
    values = [o for o in overrides if not groups[o.key_or_group]]
    lines = {id(o): _lines(o) if multirun else [str(o.input_line)] for o in overrides}
    for override in choices:
        for line in lines[id(override)]:
            _check_option(line, override, groups[override.key_or_group])

    # A key may be in the tree of one job of a sweep only: every combination of choices is composed.
    added: set[str] = set()
    for job in range(max((len(lines[id(o)]) for o in choices), default=1)):
        chosen = search + [lines[id(o)][job % len(lines[id(o)])] for o in choices]
        tree = compose(config_name=name, overrides=chosen)
        plain: Any = OmegaConf.to_container(tree, resolve=False)
        refuse_held_secret(plain)
        added |= {str(o.input_line) for o in values if _adds(o, tree, known)}
        if values:
            tried = [(lines[id(o)][0], str(o.input_line) in added) for o in values]
            compose(config_name=name, overrides=chosen + [f"++{v}" if a else v for v, a in tried])
    return added


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


def _adds(override: Override, tree: DictConfig, groups: Sequence[str]) -> bool:
    """Whether an override sets a key that no file shows but its node takes.

    Raises ConfigurationError for a key that is neither in the composed tree nor a setting of its
    node, with the nearest one. An option of a group that is given as a value of its node
    (policy.reward=edit_labels) is refused too: it would replace the node by a string.
    """
    if override.is_add() or override.is_force_add():
        return False
    key = override.key_or_group
    group = key.replace(".", "/")
    if group in groups and isinstance(override.value(), str):
        option = f"{group}={override.value()}"
        raise ConfigurationError(f"{key!r} is a node: to choose an option of it, write {option}")

    plain: Any = OmegaConf.to_container(tree, resolve=False)
    keys = list(_dotted(plain))
    above, _, name = key.rpartition(".")
    parent: Any = OmegaConf.select(tree, above) if above else tree
    if key in keys or (isinstance(parent, DictConfig) and name in parent):
        return False
    settable = [join(above, known) for known in _settable(parent, above)]
    if (key in settable or above in OWN_NAMES) and not override.is_delete():
        return True

    # A group named without the groups around it (reward for policy/reward) comes first.
    inner = [g for g in groups if "/" in g and g.rpartition("/")[2] == key]
    near = inner or difflib.get_close_matches(key, [*keys, *settable, *groups], 1, 0.4)
    hint = f"the nearest is {near[0]!r}" if near else "nothing is like it"
    raise ConfigurationError(f"unknown key {key!r}: {hint}")


def groups_of(options: Callable[[str, ObjectType], list[str]], above: str = "") -> Iterator[str]:
    """Every group of the configuration, nested ones as policy/reward; Hydra's own are left out."""
    for name in options(above, ObjectType.GROUP):
        group = f"{above}/{name}" if above else name
        if group != "hydra":
            yield group
            yield from groups_of(options, group)


def _settable(parent: Any, key: str) -> Collection[str]:
    """The names that the class or the project's own target behind a node takes."""
    if isinstance(parent, DictConfig) and str(parent.get("_target_")).startswith("rlmec."):
        try:
            return signature_of(parent["_target_"], ALLOWED).hints
        except SignatureError:
            return ()

    cls: Any = RunSettings
    for part in key.split(".") if key else ():
        hint = dataclass_signature(cls).hints.get(part)
        # Of `LoraSettings | None` the class counts.
        arms = (hint, *typing.get_args(hint))
        classes = (arm for arm in arms if isinstance(arm, type))
        cls = next((arm for arm in classes if dataclasses.is_dataclass(arm)), None)
        if cls is None:
            return ()
    return dataclass_signature(cls).hints


def _dotted(tree: Any, key: str = "") -> Iterator[str]:
    for name, value in tree.items() if isinstance(tree, dict) else ():
        yield join(key, str(name))
        yield from _dotted(value, join(key, str(name)))
