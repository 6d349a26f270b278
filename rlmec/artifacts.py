"""The store of artifacts: where a stage works, how its result becomes final, and what its address
depends on.

In: finished files in a stage's work folder and a manifest. Out: `<root>/<stage>/<fingerprint>/`,
which exists only when it is whole: the manifest is written last, everything is flushed to disk, and
one rename of the folder is the commit. Digests of files, directories and of the source behind a
`_target_` are what a fingerprint is made from. Nothing here knows a model, a table's columns or a
configuration file.
"""

from __future__ import annotations

import ast
import contextlib
import datetime
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

MANIFEST = "manifest.json"
# Packages whose code is named by the installed version; the source of everything else is hashed.
VERSIONED = ("torch", "lightning", "transformers", "peft")
RECORDED = ("torch", "lightning", "transformers", "hydra-core", "omegaconf", "datasets")
RECORDED += ("numpy", "rapidfuzz", "peft", "vllm")


class ArtifactError(RuntimeError):
    """An artifact that cannot be read or may not be written; the message names its folder."""


@dataclass(frozen=True)
class Artifact:
    """A finished result: a folder that is whole, with its manifest."""

    stage: str
    fingerprint: str
    path: Path
    manifest: dict[str, Any]

    def file(self, name: str) -> Path:
        """The path of one of its files; one that is not there is an ArtifactError naming it."""
        if not (found := self.path / name).exists():
            raise ArtifactError(f"{self.path} has no {name}")
        return found

    @property
    def metrics(self) -> dict[str, Any]:
        return self.manifest.get("metrics", {})

    @property
    def rows(self) -> Any:
        return self.manifest.get("rows")


class ArtifactStore:
    """Artifacts by stage and fingerprint below `root`; the folder is made when first written to."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def final(self, stage: str, fp: str) -> Path:
        return self.root / stage / fp

    def work(self, stage: str, fp: str) -> Path:
        return self.root / stage / f".work-{fp}"

    def find(self, stage: str, fp: str) -> Artifact | None:
        """The finished artifact, or None. A folder without a readable manifest of its own address
        was not made by a commit and raises ArtifactError; so does one of whose files one is gone or
        has another size than was committed."""
        folder = self.final(stage, fp)
        if not folder.is_dir():
            return None
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            address = (manifest["stage"], manifest["fingerprint"])
            for name in ("metrics", "files"):
                if not isinstance(manifest.get(name, {}), dict):
                    raise TypeError(f"its {name} are no object")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ArtifactError(
                f"{folder / MANIFEST} cannot be read ({type(error).__name__}: {error}); "
                f"remove {folder} to have it made again"
            ) from error
        if address != (stage, fp):
            other = ascii(f"{address[0]}/{address[1]}")[:80]
            raise ArtifactError(f"{folder} holds the manifest of {other}")
        for name, size in manifest.get("files", {}).items():
            found = _size(folder / name)
            if found != size:
                state = "is gone" if found is None else f"has {found} bytes, not {size}"
                shown = ascii(f"{folder / name} {state}")[1:-1][:300]
                raise ArtifactError(f"{shown}; remove {folder} to have it made again")
        return Artifact(stage, fp, folder, manifest)

    @contextlib.contextmanager
    def lock(
        self, stage: str, fp: str, on_wait: Callable[[Path], object] | None = None
    ) -> Iterator[None]:
        """Holds the artifact's lock, which dies with its process. If another process has it,
        `on_wait` is called once with the lock's path and the caller waits, however long that
        takes."""
        path = self.root / stage / f".lock-{fp}"
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if on_wait is not None:
                on_wait(path)
            lock.acquire(poll_interval=0.2)
        try:
            yield
        finally:
            lock.release()

    def commit(
        self, stage: str, fp: str, manifest: Mapping[str, Any], drop: Sequence[str] = ()
    ) -> Artifact:
        """Makes the work folder final by one rename and returns the artifact.

        The manifest gets `stage`, `fingerprint`, `created` and the sizes of all `files`. `drop`
        names what only resuming needed (parts, checkpoints): removed after the rename, so that a
        kill before it loses nothing. A final folder that is there is an ArtifactError.
        """
        work, final = self.work(stage, fp), self.final(stage, fp)
        if final.exists():
            raise ArtifactError(f"{final} was already made; its work folder {work} is left alone")
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        files = _sizes_below(work, skip=(*drop, MANIFEST))
        own = {"stage": stage, "fingerprint": fp, "created": now, "files": files}
        whole = {**manifest, **own}
        _sync_below(work, skip=drop)
        atomic_write_json(work / MANIFEST, whole)
        os.rename(work, final)
        sync(final.parent)
        remove_below(final, drop)
        return Artifact(stage, fp, final, json.loads(json.dumps(whole)))


def remove_below(folder: Path, names: Sequence[str]) -> None:
    """Removes subfolders that are there."""
    for name in names:
        shutil.rmtree(folder / name, ignore_errors=True)


def sync(path: Path) -> None:
    """Flushes a file or a folder's list of names to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_below(folder: Path, skip: Sequence[str] = ()) -> None:
    for parent, folders, files in os.walk(folder):
        if Path(parent) == folder:
            folders[:] = [name for name in folders if name not in skip]
        for name in files:
            sync(Path(parent, name))
        sync(Path(parent))


def _size(path: Path) -> int | None:
    """Bytes of a file, None where there is none."""
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:  # a name that no file can have
        return None


def _sizes_below(folder: Path, skip: Sequence[str]) -> dict[str, int]:
    """Bytes of every file by its path; what `skip` names in the folder itself is left out."""
    found = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {p.as_posix(): (folder / p).stat().st_size for p in found if p.parts[0] not in skip}


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Writes a file that is either the old one or the whole new one, also after a crash or a power
    cut."""
    handle, temporary = tempfile.mkstemp(
        prefix=f".{path.name[:60]}.", suffix=".tmp", dir=path.parent
    )
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            os.fchmod(out.fileno(), 0o644)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync(path.parent)


def atomic_write_text(path: Path, text: str) -> None:
    """As `atomic_write_bytes`, in UTF-8."""
    atomic_write_bytes(path, text.encode())


def atomic_write_json(path: Path, value: Any) -> None:
    """As `atomic_write_bytes`, for plain values; anything else is a TypeError before the file is
    touched."""
    atomic_write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def fingerprint(
    stage: str,
    version: int | str,
    settings: Mapping[str, Any],
    parents: Mapping[str, str],
    inputs: Mapping[str, str],
    sources: Mapping[str, str],
) -> str:
    """20 hex digits that change with anything that can change the artifact, whatever the order of
    keys.

    `settings` are plain values already cast to their types (1 and 1.0 are different), `parents`
    fingerprints, `inputs` digests of files and directories or commits of hub names, `sources`
    digests of code and templates.
    """
    parts = [stage, version, dict(settings), dict(parents), dict(inputs), dict(sources)]
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:20]


_DIGESTS: dict[tuple[str, int, int], str] = {}


def file_digest(path: Path | str) -> str:
    """sha256 of a file's content; read once per (path, size, time of change) in a process."""
    path = Path(path).resolve()
    stat = path.stat()
    key = (str(path), stat.st_size, stat.st_mtime_ns)
    if key not in _DIGESTS:
        with path.open("rb") as handle:
            _DIGESTS[key] = hashlib.file_digest(handle, "sha256").hexdigest()
    return _DIGESTS[key]


def directory_digest(path: Path | str) -> str:
    """sha256 over the names below a directory and the contents of the files; hidden names are left
    out."""
    root = Path(path)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a directory")
    names = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    shown = [n for n in names if not any(part.startswith(".") for part in n.split("/"))]
    lines = "".join(f"{name}\0{file_digest(root / name)}\n" for name in shown)
    return hashlib.sha256(lines.encode()).hexdigest()


def module_file(dotted: str) -> tuple[str, Path, list[str]] | None:
    """The module behind a dotted name: its own dotted name, its source file and the names left over
    for attributes. Nothing is imported; None where there is no such package or it has no source."""
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
    """Digest of the module that a `_target_` names: its syntax tree without comments and
    docstrings, so that only a change of meaning counts. For the libraries in VERSIONED: the name
    and the installed version."""
    top = dotted_target.split(".")[0]
    if top in VERSIONED:
        return f"{dotted_target}@{_version(top)}"
    if (found := module_file(dotted_target)) is None:
        raise ModuleNotFoundError(f"no module with source for {dotted_target!r}")
    tree = ast.parse(found[1].read_text(encoding="utf-8"), filename=str(found[1]))
    for node in ast.walk(tree):
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def environment(world_size: int = 1, threads: int = 0) -> dict[str, Any]:
    """What a manifest records of the surroundings: library versions, git commit, world size,
    threads."""
    versions = {name: v for name in RECORDED if (v := _version(name)) != "none"}
    return {
        "libraries": {"python": platform.python_version(), **versions},
        "commit": _commit(),
        "world_size": world_size,
        "threads": threads,
    }


def _commit() -> str | None:
    """The commit of the checkout that this package lies in, ending in -dirty with uncommitted
    changes."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    described = ("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    command = ["git", "-C", str(root), *described]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def environment_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line for each entry that differs between two `environment()`s or parts of them."""

    def flat(env: Mapping[str, Any]) -> dict[str, Any]:
        plain = {k: v for k, v in env.items() if not isinstance(v, dict)}
        return {**plain, **env.get("libraries", {})}

    a, b = flat(old), flat(new)
    return [f"{k}: {a.get(k)} -> {b.get(k)}" for k in sorted(a | b) if a.get(k) != b.get(k)]
