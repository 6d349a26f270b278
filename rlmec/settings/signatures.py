"""Reads what a `_target_` may be called with: names, types, defaults and which are required.

In: a dotted name. Out: its `Signature`. The signatures of this project's and of a user's own code
are read from source, so that a misspelt key is found without importing anything; a library's is
read from source first, and then from the imported library. The definition behind the name must
itself be below an allowed prefix, so that the imports of an allowed module lead to nothing else.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import inspect
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rlmec.settings import ranges
from rlmec.settings.sources import VERSIONED, module_file

_PLAIN: dict[str, Any] = {"int": int, "float": float, "str": str, "bool": bool}
_PLAIN |= {"list": list, "dict": dict, "tuple": tuple, "None": type(None)}
_UNION: Any = typing.Union
_GENERIC: dict[str, Any] = {"list": list, "List": list, "Sequence": list, "tuple": tuple}
_GENERIC |= {"Tuple": tuple, "dict": dict, "Dict": dict, "Mapping": dict}


# Paths among the arguments of library targets, such as loggers; a library marks none.
_PATHS = {"save_dir", "dirpath", "log_dir", "root_dir", "config_file"}


class SignatureError(ValueError):
    """A dotted name that leads to nothing that can be called."""


@dataclass(frozen=True)
class Signature:
    """What a target may be called with.

    `hints` maps each parameter to its type (Any where the type is neither a plain one nor one of
    `ranges`). `required`
    names the parameters without a default, `by_name` those of them that can be given by name only.
    An `open` signature takes any other name too. `defaults` holds the defaults that are plain
    values; they are read from source, so a library's are not among them.
    """

    hints: dict[str, Any] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    open: bool = False
    defaults: dict[str, Any] = field(default_factory=dict)
    by_name: tuple[str, ...] = ()


def signature_of(target: str, allowed: Sequence[str], importing: bool = True) -> Signature:
    """The signature of a class or function.

    Raises SignatureError if the definition is missing or not below an allowed prefix. Without
    `importing`, a library's signature is read from source too; where it is not found there, it
    takes anything.
    """
    if target.split(".")[0] in VERSIONED:
        return _imported(target, allowed) if importing else _of_library(target, allowed)
    try:
        return _from_source(target, allowed, follow=False)
    except RecursionError as error:
        raise SignatureError(f"{target!r} is defined by itself, or nested too deep") from error


def _of_library(target: str, allowed: Sequence[str]) -> Signature:
    """The signature of a library's target as its source has it; an open one if it is elsewhere."""
    if target.startswith("transformers.get_"):
        target = target.replace("transformers.", "transformers.optimization.")
        allowed = ("transformers.optimization.",)
    try:
        found = _from_source(target, allowed, follow=True)
    except (SignatureError, RecursionError):
        return Signature(open=True)
    return replace(found, hints=found.hints | _paths_among(found.hints))


def _paths_among(names: Iterable[str]) -> dict[str, Any]:
    return {name: _UNION[ranges.PathText, None] for name in _PATHS.intersection(names)}


def _imported(target: str, allowed: Sequence[str]) -> Signature:
    module, _, name = target.rpartition(".")
    try:
        found: Any = getattr(importlib.import_module(module), name)
        home = f"{found.__module__}.{found.__qualname__}"
        signature = inspect.signature(found)
    except (ImportError, ValueError, AttributeError, TypeError) as error:
        raise SignatureError(f"{target!r} cannot be used: {error}") from error
    schedule = target.startswith("transformers.get_") and home.startswith("transformers.optim")
    if not (home.startswith(tuple(allowed)) or schedule):
        raise SignatureError(f"{target!r} leads to {home!r}, which is not allowed")
    given = signature.parameters.values()
    named = [p for p in given if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    required = tuple(p.name for p in named if p.default is p.empty)
    hints = {p.name: _from_text(inspect.formatannotation(p.annotation)) for p in named}
    hints |= _paths_among(hints)
    return Signature(hints, required, any(p.kind is p.VAR_KEYWORD for p in given))


def _from_text(annotation: str, names: Mapping[str, Any] = _PLAIN) -> Any:
    try:
        return _from_syntax(ast.parse(annotation.strip("'\""), mode="eval").body, names)
    except SyntaxError:
        return Any


def _from_syntax(node: ast.expr | None, names: Mapping[str, Any]) -> Any:
    """A type annotation with everything that is not in `names` replaced by Any."""
    if isinstance(node, ast.Constant):
        return _from_text(node.value, names) if isinstance(node.value, str) else type(None)
    if isinstance(node, ast.Name):
        return names.get(node.id, Any)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _UNION[_from_syntax(node.left, names), _from_syntax(node.right, names)]
    if not isinstance(node, ast.Subscript):
        return Any
    return _subscripted(node, names)


def _subscripted(node: ast.Subscript, names: Mapping[str, Any]) -> Any:
    name = ast.unparse(node.value).rpartition(".")[2]
    inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if name == "Literal":
        try:
            return typing.Literal[tuple(ast.literal_eval(i) for i in inner)]
        except (ValueError, TypeError):  # no plain values
            return Any
    hints = tuple(... if _is_ellipsis(i) else _from_syntax(i, names) for i in inner)
    if name in ("Optional", "Union"):
        return _UNION[(*hints, type(None))] if name == "Optional" else _UNION[hints]
    return _GENERIC[name][hints] if name in _GENERIC else Any


def _is_ellipsis(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is ...


def _from_source(target: str, allowed: Sequence[str], follow: bool) -> Signature:
    module, tree, definition = _definition(target, allowed, follow)
    names = _PLAIN | _imported_ranges(tree)
    if isinstance(definition, ast.ClassDef):
        return _of_class(module, definition, allowed, names)
    return _of_function(definition, names, skip_first=False)


def _imported_ranges(tree: ast.Module) -> dict[str, Any]:
    """The types of `ranges` that a module imports, by the names that it uses."""
    return {
        alias.asname or alias.name: getattr(ranges, alias.name, Any)
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == ranges.__name__
        for alias in node.names
    }


def _definition(target: str, allowed: Sequence[str], follow: bool) -> tuple[str, ast.Module, Any]:
    """Name and syntax of the module, and syntax of the class or function, of a dotted name;
    `follow` goes through imports."""
    if (found := module_file(target)) is None:
        raise SignatureError(f"there is no module for {target!r}")
    module, path, names = found
    if not f"{module}.".startswith(tuple(allowed)):
        raise SignatureError(f"{target!r} leads to {module!r}, which is not allowed")
    if len(names) != 1:
        raise SignatureError(f"{target!r} is not a class or function of a module")
    stat = path.stat()
    tree = _parsed(path, stat.st_size, stat.st_mtime_ns)
    defined: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            if node.name == names[0]:
                return module, tree, node
            defined.append(node.name)
        if isinstance(node, ast.ImportFrom) and (
            home := _import_home(node, names[0], module, path)
        ):
            if follow:
                return _definition(home, allowed, follow)
            raise SignatureError(f"{target!r} is only imported there; name it {home!r}")
    near = difflib.get_close_matches(names[0], defined, 1, 0.5)
    hint = f"; the nearest is {module}.{near[0]!s}" if near else ""
    raise SignatureError(f"{module!r} defines no {names[0]!r}{hint}")


@functools.lru_cache(maxsize=32)
def _parsed(path: Path, size: int, changed: int) -> ast.Module:
    """The syntax of a file, read once for each state of it."""
    try:
        return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        at = "" if line is None else f", line {line}"
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SignatureError(f"{path}{at}: not Python ({message})") from error


def _import_home(node: ast.ImportFrom, name: str, module: str, path: Path) -> str | None:
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    base = package[: len(package) - node.level + 1] if node.level else []
    for alias in node.names:
        if (alias.asname or alias.name) == name:
            return ".".join([*base, *([node.module] if node.module else []), alias.name])
    return None


def _of_class(
    module: str, node: ast.ClassDef, allowed: Sequence[str], names: Mapping[str, Any]
) -> Signature:
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return _of_function(item, names, skip_first=True)
    hints: dict[str, Any] = {}
    required: list[str] = []
    defaults: dict[str, Any] = {}
    is_open = False

    for base in reversed(node.bases):
        is_open |= isinstance(base, ast.Attribute)
        if not isinstance(base, ast.Name) or base.id in ("Protocol", "ABC", "object"):
            continue
        try:
            inherited = _from_source(f"{module}.{base.id}", allowed, follow=True)
        except SignatureError:
            is_open = True  # a base from elsewhere: its arguments are not known here
            continue
        hints |= inherited.hints
        defaults |= inherited.defaults
        required = [*required, *inherited.required]
        is_open |= inherited.open
    if any("dataclass" in ast.unparse(d) for d in node.decorator_list):
        for item in node.body:
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                name = item.target.id
                hints[name] = _from_syntax(item.annotation, names)
                required = [r for r in required if r != name]
                defaults.pop(name, None)
                if item.value is None:
                    required.append(name)
                else:
                    defaults |= _plain_defaults({name: item.value})
    return Signature(hints, tuple(required), is_open, defaults)


def _of_function(node: ast.FunctionDef, names: Mapping[str, Any], *, skip_first: bool) -> Signature:
    a = node.args
    positional = [*a.posonlyargs, *a.args][1 if skip_first else 0 :]
    count = len(positional) - len(a.defaults)

    hints = {p.arg: _from_syntax(p.annotation, names) for p in [*positional, *a.kwonlyargs]}
    given = {p.arg: value for p, value in zip(positional[count:], a.defaults, strict=True)}
    by_name = []
    for parameter, value in zip(a.kwonlyargs, a.kw_defaults, strict=True):
        if value is None:
            by_name.append(parameter.arg)
        else:
            given[parameter.arg] = value

    required = (*(p.arg for p in positional[:count]), *by_name)
    return Signature(hints, required, a.kwarg is not None, _plain_defaults(given), tuple(by_name))


def _plain_defaults(given: dict[str, ast.expr]) -> dict[str, Any]:
    """The defaults that are written as plain values; a tuple becomes a list, as in YAML."""
    out: dict[str, Any] = {}
    for name, value in given.items():
        try:
            plain = ast.literal_eval(value)
        except ValueError:  # an expression: it is evaluated when the target is called
            continue
        out[name] = list(plain) if isinstance(plain, tuple) else plain
    return out
