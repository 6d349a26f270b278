"""Finds the source behind a dotted name, and its digest for fingerprints."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
from pathlib import Path

# Packages whose code is named by the installed version; the source of everything else is hashed.
VERSIONED = ("torch", "lightning", "transformers", "peft")
# A package of ours whose code decides verdicts: it counts with every module that imports from it.
JUDGES = "rlmec.answers"


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
    meaning is a change. A module that imports from `rlmec.answers`, as the tasks do, counts with
    all of that package. For the libraries in VERSIONED it is the name and the installed version.
    """
    top = dotted_target.split(".")[0]
    if top in VERSIONED:
        return f"{dotted_target}@{distribution_version(top)}"
    if (found := module_file(dotted_target)) is None:
        raise ModuleNotFoundError(f"no module with source for {dotted_target!r}")
    tree = ast.parse(found[1].read_text(encoding="utf-8"), filename=str(found[1]))
    judges = _judges_digest() if _imports_judges(tree) else ""
    return hashlib.sha256((_meaning(tree) + judges).encode()).hexdigest()


def _meaning(tree: ast.Module) -> str:
    """The syntax tree as text, without import lines and docstrings; `tree` is changed."""
    imports = (ast.Import, ast.ImportFrom)
    tree.body = [node for node in tree.body if not isinstance(node, imports)]
    for node in ast.walk(tree):
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


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
        f"{path.name}\n{_meaning(ast.parse(path.read_text(encoding='utf-8')))}"
        for path in sorted(folder.glob("*.py"))
    ]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def distribution_version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "none"
