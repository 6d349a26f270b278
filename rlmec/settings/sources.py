"""Finds the source behind a dotted name, and its digest for fingerprints."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import itertools
from pathlib import Path
from typing import Any

# Packages whose code is named by the installed release; the source of everything else is hashed.
VERSIONED = ("torch", "lightning", "transformers", "peft")
# A package of ours whose code decides verdicts: it counts with every module that imports from it.
JUDGES = "rlmec.answers"
# Fields of a syntax tree that follow from the rest of it, or that do not change what code does.
NOT_MEANING = ("ctx", "kind", "type_comment", "type_ignores")


def module_file(dotted: str) -> tuple[str, Path, list[str]] | None:
    """The module behind a dotted name: its own name, its source file and the attributes left over.

    Nothing is imported. None if there is no such package or it has no source.
    """
    top, *rest = dotted.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not spec.submodule_search_locations:
        ok = spec.origin is not None and spec.origin.endswith(".py")
        return (top, Path(str(spec.origin)), rest) if ok else None
    for folder in map(Path, spec.submodule_search_locations):
        name, names = top, list(rest)
        while names and (folder / names[0]).is_dir():
            folder, name = folder / names[0], f"{name}.{names.pop(0)}"
        if names and (found := folder / f"{names[0]}.py").is_file():
            return f"{name}.{names[0]}", found, names[1:]
        if (found := folder / "__init__.py").is_file():
            return name, found, names
    return None


def source_digest(dotted_target: str) -> str:
    """Digest of the module that a `_target_` names.

    Its syntax tree counts, without comments, docstrings and import lines, so that only a change of
    meaning is a change. The digest is the same under every version of Python. A module that imports
    from `rlmec.answers`, as the tasks do, counts with all of that package. For the libraries in
    VERSIONED it is the name and the installed release (`release`).
    """
    top = dotted_target.split(".")[0]
    if top in VERSIONED:
        return f"{dotted_target}@{release(top)}"
    if (found := module_file(dotted_target)) is None:
        raise ModuleNotFoundError(f"no module with source for {dotted_target!r}")
    tree = ast.parse(found[1].read_text(encoding="utf-8"), filename=str(found[1]))
    judges = _judges_digest() if _imports_judges(tree) else ""
    return hashlib.sha256((meaning(tree) + judges).encode()).hexdigest()


def meaning(tree: ast.Module) -> str:
    """What a module's code does, as text: its syntax tree without import lines and docstrings.

    `tree` is changed.
    """
    imports = (ast.Import, ast.ImportFrom)
    tree.body = [node for node in tree.body if not isinstance(node, imports)]
    for node in ast.walk(tree):
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return canonical(tree)


def canonical(node: Any) -> str:
    """A syntax tree, or a part of one, as text that is the same under every version of Python.

    `ast.dump` is not: it writes a field that a later Python has added, and it writes empty lists
    or leaves them out. Here a node is its type and its fields that are not empty, by name.
    """
    if isinstance(node, ast.JoinedStr):
        pieces = ", ".join(map(canonical, _pieces(node.values)))
        return f"JoinedStr({pieces})"
    if isinstance(node, ast.Constant):
        return _constant(node.value)
    if isinstance(node, ast.AST):
        named = ((name, getattr(node, name, None)) for name in sorted(node._fields))
        shown = [
            f"{name}={canonical(value)}"
            for name, value in named
            if name not in NOT_MEANING and value is not None and value != []
        ]
        return f"{type(node).__name__}({', '.join(shown)})"
    if isinstance(node, list):
        return f"[{', '.join(map(canonical, node))}]"
    return ascii(node)


def _constant(value: Any) -> str:
    """A constant by its type and value.

    `repr` would not do: it escapes what the Unicode tables of its Python do not know, and it
    refuses integers of many digits.
    """
    shown = hex(value) if type(value) is int else ascii(value)
    return f"{type(value).__name__} {shown}"


def _pieces(values: list[Any]) -> list[Any]:
    """The pieces of an f-string with neighbouring texts joined and empty ones left out.

    Where a text is cut into pieces depends on the version of Python.
    """
    pieces: list[Any] = []
    for is_text, group in itertools.groupby(values, lambda piece: isinstance(piece, ast.Constant)):
        if not is_text:
            pieces += group
        elif text := "".join(piece.value for piece in group):
            pieces.append(ast.Constant(text))
    return pieces


def _imports_judges(tree: ast.Module) -> bool:
    """Whether a module imports from the package that decides verdicts."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return any(name == JUDGES or name.startswith(f"{JUDGES}.") for name in names)


@functools.cache
def _judges_digest() -> str:
    """Digest of the package that decides verdicts, file by file."""
    folder = Path(__file__).parents[1] / JUDGES.partition(".")[2]
    texts = [
        f"{path.name}\n{meaning(ast.parse(path.read_text(encoding='utf-8')))}"
        for path in sorted(folder.glob("*.py"))
    ]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def release(distribution: str) -> str:
    """Major and minor version of an installed distribution: 2.13 for 2.13.1+cu126.

    The local part names a build for other hardware, and a patch release fixes errors. Neither is a
    reason to make everything again. A manifest records the whole version, and a run that reuses an
    artifact says which versions differ.
    """
    public = distribution_version(distribution).partition("+")[0]
    return ".".join(public.split(".")[:2])


def distribution_version(distribution: str) -> str:
    """The version of an installed distribution; "none" if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "none"
