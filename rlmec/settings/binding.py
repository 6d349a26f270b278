"""Binds plain nodes to signatures, and builds the objects that bound nodes describe.

In: a tree of plain dicts, lists and values. Out: the dataclasses of `schema.py`, with every value
cast to its annotated type and checked against its range. Every node with a `_target_` is checked
against the allow-list and the signature that it names, and gets the defaults of that signature.
Unknown, missing and mistyped keys, values out of range and forbidden targets raise
ConfigurationError.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
import inspect
import math
import types
import typing
from pathlib import Path
from typing import Any

import yaml
from hydra.utils import get_object

from rlmec.settings.key_places import place_of
from rlmec.settings.ranges import Home, note_of, range_text, with_home
from rlmec.settings.signatures import Signature, SignatureError, signature_of

SECRETS = {"api_key", "apikey", "access_token", "secret", "password", "passwd", "token", "key"}
# Endings of longer names: OPENAI_API_KEY, hf_access_token. Not "_token" or "_key" alone: there are
# digits_per_token and sort_key.
SECRET_ENDINGS = ("_api_key", "_access_token", "_auth_token", "_hf_token", "_secret", "_password")
SECRET_ENDINGS += ("_secret_key", "_private_key", "_access_key")
# Arguments of targets that a stage gives when it builds them.
SUPPLIED = {"task", "policy", "params", "optimizer", "num_warmup_steps", "num_training_steps"}
# Arguments of Lightning's trainer that shape a result, with the setting that replaces each.
MOVED = {
    "precision": "precision",
    "max_steps": "steps",
    "max_epochs": "epochs",
    "gradient_clip_val": "gradient_clip",
    "val_check_interval": "val_every_steps",
    "check_val_every_n_epoch": "val_every_steps",
    "limit_val_batches": "val_problems",
    "accumulate_grad_batches": "tokens_per_step",
    "batch_size": "tokens_per_step",
}


class ConfigurationError(ValueError):
    """A key or a value that does not fit. The message is one line: the key, and what would fit."""

    def __init__(self, message: str) -> None:
        super().__init__(message if len(message) <= 1000 else f"{message[:1000]}...")


def is_secret(name: Any) -> bool:
    """Whether a key of this (last) name would hold a secret, however it is written."""
    plain = str(name).lower().replace("-", "_")
    return plain in SECRETS or f"_{plain}".endswith(SECRET_ENDINGS)


def secret_refusal(key: str) -> str:
    """The message for a key that names a secret; the value is never shown."""
    return (
        f"{key!r} looks like a secret: secrets have no configuration key, "
        "set the environment variable that the service reads"
    )


def allowed_prefixes(tree: dict[str, Any]) -> list[str]:
    """`security.allow` of a plain tree. Raises ConfigurationError for what is no module prefix."""
    node = tree.get("security")
    given = node.get("allow") if isinstance(node, dict) else None
    allow = given if isinstance(given, list) else [] if given is None else [given]
    for prefix in allow:
        if not (isinstance(prefix, str) and prefix.endswith(".") and len(prefix) > 1):
            raise ConfigurationError(
                f"security.allow: {prefix!r} is no module prefix ending in a dot"
            )
    return allow


def unreadable(folder: Path) -> str:
    """The first file of a configuration folder that is no YAML mapping in UTF-8, as the start of a
    message; empty if all files are."""
    for path in sorted(folder.rglob("*.yaml")):
        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError):
            return f"{path}: "
        if not isinstance(found, dict | None):
            return f"{path}: "
    return ""


def refuse_held_secret(tree: Any, key: str = "") -> None:
    """Raises ConfigurationError if a plain tree has a value under the name of a secret."""
    for item in tree if isinstance(tree, list) else ():
        refuse_held_secret(item, key)
    for name, value in tree.items() if isinstance(tree, dict) else ():
        if is_secret(name) and value is not None:
            raise ConfigurationError(secret_refusal(join(key, str(name))))
        refuse_held_secret(value, join(key, str(name)))


@dataclasses.dataclass(frozen=True)
class Binder:
    """Binds values to types and signatures.

    A target must start with a prefix in `allowed`. Messages cite the files of `config_dirs`.
    Without `importing`, the arguments of a library's target are not checked.
    """

    allowed: tuple[str, ...]
    config_dirs: tuple[Path, ...] = ()
    importing: bool = True

    def cast(self, hint: Any, value: Any, key: str) -> Any:
        """`value` as the annotated type; ConfigurationError if a cast would lose something, or if
        the value is out of the range of the type."""
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if hint is Any:
            return self.walk(value, key)
        if origin is typing.Annotated:
            return self.ranged(hint, value, key)
        if origin in (typing.Union, types.UnionType):
            return self.union(args, value, key)
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            return self.node(hint, value, key)
        if hint in (list, tuple, dict) or origin in (list, tuple, dict):
            return self.container(origin or hint, args, value, key)
        if origin is typing.Literal:
            return self.choice(args, value, key)
        return self.plain(hint, value, key)

    def plain(self, hint: Any, value: Any, key: str) -> Any:
        """A number, a text or a switch."""
        is_int = isinstance(value, int) and not isinstance(value, bool)
        if is_int and hint in (float, str):
            return hint(value)
        if hint is int and isinstance(value, float) and value.is_integer():
            return int(value)
        if type(value) is not hint:
            raise self.mistyped(hint, value, key)
        if isinstance(value, float) and not math.isfinite(value):
            raise self.out_of_range("a finite number", value, key)
        return value

    def choice(self, choices: tuple[Any, ...], value: Any, key: str) -> Any:
        """One of a few values. YAML reads `precision: 32` as a number, so its text counts too."""
        if value in choices:
            return value
        if type(value) is int and str(value) in choices:
            return str(value)
        near = difflib.get_close_matches(str(value), map(str, choices), 1, 0.5)
        hint = f"; the nearest is {near[0]!r}" if near else ""
        raise _MistypedError(f"{self.mistyped(typing.Literal[choices], value, key)}{hint}")

    def ranged(self, hint: Any, value: Any, key: str) -> Any:
        """A value of a type of `ranges`."""
        plain, *rules = typing.get_args(hint)
        try:
            bound = self.cast(plain, value, key)
        except _MistypedError as error:
            raise type(error)(f"{error}{note_of(rules)}") from error
        if not _is_within(hint, bound):
            raise self.out_of_range(range_text(rules), value, key, note_of(rules))
        return with_home(bound) if any(isinstance(rule, Home) for rule in rules) else bound

    def union(self, arms: tuple[Any, ...], value: Any, key: str) -> Any:
        if type(value) in arms and not isinstance(value, (dict, list, float)):
            return value

        # A library's `float | Tensor` is read as `float | Any`. Of what YAML can hold, only a node
        # may be the unknown type.
        named = [arm for arm in arms if arm is not Any]
        if set(named) - {type(None)} and not isinstance(value, (dict, list)):
            arms = tuple(named)

        refused: ConfigurationError | None = None
        for arm in sorted(arms, key=lambda a: a is Any):
            try:
                return self.cast(arm, value, key)
            except _OutOfRangeError as error:
                refused = refused or error
            except _MistypedError as error:
                # A fault at a deeper key means that this arm was meant: it is the one to report.
                if not str(error).startswith(f"{key}: "):
                    raise
        raise refused or self.mistyped(" or ".join(map(_name, arms)), value, key)

    def container(self, kind: Any, args: tuple[Any, ...], value: Any, key: str) -> Any:
        wanted: type = dict if kind is dict else list
        if not isinstance(value, wanted):
            raise self.mistyped(kind, value, key)
        if isinstance(value, dict):
            hint = args[1] if len(args) == 2 else Any
            if hint is Any:
                return self.walk(value, key)
            return {k: self.cast(hint, v, join(key, k)) for k, v in value.items()}
        hints = [a for a in args if a is not Ellipsis] or [Any]
        if kind is list or len(hints) == 1:
            hints = hints[:1] * len(value)
        if len(hints) != len(value):
            raise self.mistyped(f"a list of {len(hints)}", value, key)
        return [
            self.cast(h, v, f"{key}[{i}]")
            for i, (h, v) in enumerate(zip(hints, value, strict=True))
        ]

    def node(self, cls: type, value: Any, key: str) -> Any:
        """A dataclass of `schema.py` from the node of its name."""
        if not isinstance(value, dict):
            raise self.mistyped(f"a node of {cls.__name__}", value, key)
        bound = self.bind(dataclass_signature(cls), value, key, cls.__name__)
        try:
            return cls(**bound)
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"{key or 'the root'}: {error}") from error

    def walk(self, value: Any, key: str) -> Any:
        """A free value: every node with a `_target_` in it is checked and bound."""
        if isinstance(value, list):
            return [self.walk(item, f"{key}[{i}]") for i, item in enumerate(value)]
        if not isinstance(value, dict):
            return value
        if "_target_" in value:
            return self.target(value, key)
        return {name: self.walk(item, join(key, name)) for name, item in value.items()}

    def target(self, value: dict[str, Any], key: str) -> dict[str, Any]:
        name = value["_target_"]
        if not (isinstance(name, str) and name.startswith(self.allowed)):
            package = ascii(str(name).split(".")[0])[1:-1]
            raise ConfigurationError(
                f"{key}._target_: {name!r} is not allowed; a target starts with one of "
                f"{', '.join(self.allowed)} or a prefix in security.allow, as in "
                f"security.allow=[{package}.]"
            )
        try:
            signature = signature_of(name, self.allowed, self.importing)
        except SignatureError as error:
            raise ConfigurationError(f"{key}._target_: {error}") from error
        given = {k: v for k, v in value.items() if k not in ("_target_", "_partial_")}
        partial = value.get("_partial_", False)
        if not isinstance(partial, bool):
            raise self.mistyped(bool, partial, f"{key}._partial_")
        bound = self.bind(signature, given, key, name, SUPPLIED, partial)

        # Defaults are bound too, so that a fingerprint depends on their values wherever they live.
        # The arguments that a stage gives are left to it.
        defaults = {n: v for n, v in signature.defaults.items() if n not in SUPPLIED}
        return {
            "_target_": name,
            **({"_partial_": True} if partial else {}),
            **copy.deepcopy(defaults),
            **bound,
        }

    def bind(
        self,
        signature: Signature,
        given: dict[str, Any],
        key: str,
        owner: str,
        supplied: typing.Collection[str] = (),
        partial: bool = False,
    ) -> dict[str, Any]:
        for name in given:
            if name not in signature.hints and not signature.open:
                raise ConfigurationError(self.unknown(name, key, owner, list(signature.hints)))
        # A partial target gets its positional arguments when it is called, never those by name.
        needed = signature.by_name if partial else signature.required
        missing = [n for n in needed if n not in given and n not in supplied]
        if missing:
            raise ConfigurationError(f"{join(key, missing[0])} is missing; {owner} needs it")
        hints = signature.hints
        return {n: self.cast(hints.get(n, Any), v, join(key, n)) for n, v in given.items()}

    def unknown(self, name: str, key: str, owner: str, names: list[str]) -> str:
        place = place_of(join(key, name), self.config_dirs)
        if key == "trainer" and name in MOVED:
            right = MOVED[name]
            hint = f"it shapes a result: set policy.{right} (or warmup.{right}, grm.{right})"
        elif near := difflib.get_close_matches(name, names, 1, 0.5):
            hint = f"the nearest is {join(key, near[0])!r}"
        else:
            hint = f"there is {', '.join(sorted(names)) or 'none'}"
            if place:  # an experiment that chose another option of the group
                place += f"; leave it out with '~{join(key, name)}'"
        return f"unknown key {join(key, name)!r} of {owner}: {hint}{place}"

    def mistyped(self, hint: Any, value: Any, key: str) -> _MistypedError:
        place = place_of(key, self.config_dirs, value) if isinstance(value, str) else ""
        text = repr(value)
        text = text if len(text) <= 200 else f"{text[:200]}..."
        shown = f"{text} ({_name(type(value))})"
        return _MistypedError(f"{key}: expected {_name(hint)}, found {shown}{place}")

    def out_of_range(self, needed: str, value: Any, key: str, note: str = "") -> _OutOfRangeError:
        place = place_of(key, self.config_dirs, str(value))
        return _OutOfRangeError(f"{key} is {value!r}: {needed} is needed{note}{place}")


class _MistypedError(ConfigurationError):
    """A value of another type than the annotated one."""


class _OutOfRangeError(ConfigurationError):
    """A value of the right type that is out of its range."""


def _is_within(hint: Any, value: Any) -> bool:
    """Whether pydantic finds a value of the right type within the constraints of its annotation."""
    from pydantic import ValidationError  # here, because `--help` has no use for it

    try:
        _adapter(hint).validate_python(value)
    except ValidationError:
        return False
    return True


@functools.cache
def _adapter(hint: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(hint)


def _name(hint: Any) -> str:
    """A type as a user knows it: `int`, `null`, or the values of a closed list."""
    if hint is type(None):
        return "null"
    if typing.get_origin(hint) is typing.Annotated:
        return _name(typing.get_args(hint)[0])
    if typing.get_origin(hint) is typing.Literal:
        return f"one of {', '.join(map(str, typing.get_args(hint)))}"
    return hint if isinstance(hint, str) else getattr(hint, "__name__", str(hint))


def join(key: str, name: str) -> str:
    """The dotted key of `name` below `key`."""
    return f"{key}.{name}" if key else str(name)


@functools.cache
def dataclass_signature(cls: type) -> Signature:
    """The fields of a settings class as a signature."""
    hints = typing.get_type_hints(cls, include_extras=True)
    needed = [f.name for f in dataclasses.fields(cls) if _has_no_default(f)]
    return Signature({f.name: hints[f.name] for f in dataclasses.fields(cls)}, tuple(needed), False)


def _has_no_default(f: dataclasses.Field[Any]) -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING


def build(node: dict[str, Any], **extra: Any) -> Any:
    """The object that a checked node describes.

    The target of the node is called with its values and `extra`; nodes among the values are built
    first. With `_partial_` the function is returned with these arguments, still to be called.
    """
    plain = {k: _build_value(v) for k, v in node.items() if k not in ("_target_", "_partial_")}
    target = get_object(node["_target_"])
    if node.get("_partial_"):
        return functools.partial(target, **{**plain, **extra})
    return target(**{**plain, **extra})


def accepts(node: dict[str, Any], name: str) -> bool:
    """Whether the target of a node has an argument `name`."""
    return name in inspect.signature(get_object(node["_target_"])).parameters


def offers(node: dict[str, Any], name: str) -> bool:
    """Whether the class that a node names has a method `name`."""
    return callable(getattr(get_object(node["_target_"]), name, None))


def _build_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_build_value(item) for item in value]
    if isinstance(value, dict):
        if "_target_" in value:
            return build(value)
        return {key: _build_value(item) for key, item in value.items()}
    return value
