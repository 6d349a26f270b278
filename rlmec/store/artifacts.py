"""The store of artifacts: where a stage works, and how its result becomes final.

In: the files that a stage has written into its work folder, and a manifest. Out:
`<root>/<stage>/<fingerprint>/`, a folder that exists only when it is whole. The manifest is written
last, everything is flushed to disk, and one rename of the work folder is the commit. This module
knows nothing about models, the columns of tables, or configuration files.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import Timeout

from rlmec.settings.sources import distribution_version
from rlmec.store.atomic import (
    atomic_write_json,
    remove_below,
    remove_temporary,
    rename_folder,
    sync_below,
)
from rlmec.store.locks import file_lock, locks_needed

MANIFEST = "manifest.json"
RECORDED = ("torch", "lightning", "transformers", "hydra-core", "omegaconf", "datasets")
RECORDED += ("numpy", "rapidfuzz", "peft", "vllm")
"""The libraries whose versions a manifest records."""


class ArtifactError(RuntimeError):
    """An artifact that cannot be read or must not be written; the message names its folder."""


@dataclass(frozen=True)
class Artifact:
    """A finished result: a whole folder with its manifest."""

    stage: str
    fingerprint: str
    path: Path
    manifest: dict[str, Any]

    def file(self, name: str) -> Path:
        """The path of one of the artifact's files. Raises ArtifactError if it does not exist."""
        path = self.path / name
        if not path.exists():
            raise ArtifactError(f"{self.path} has no {name}")
        return path

    @property
    def metrics(self) -> dict[str, Any]:
        return self.manifest.get("metrics", {})

    @property
    def rows(self) -> Any:
        return self.manifest.get("rows")


class ArtifactStore:
    """Artifacts by stage and fingerprint below `root`, which is created by the first write."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def final(self, stage: str, fp: str) -> Path:
        """The folder of a finished artifact."""
        return self.root / stage / fp

    def work(self, stage: str, fp: str) -> Path:
        """The folder in which an artifact is made."""
        return self.root / stage / f".work-{fp}"

    def find(self, stage: str, fp: str) -> Artifact | None:
        """The finished artifact, or None if there is none.

        Raises ArtifactError if the folder was not made by a commit (its manifest cannot be read or
        names another artifact), or if a file is missing or has another size than was committed.
        """
        folder = self.final(stage, fp)
        if not folder.is_dir():
            return None

        manifest = _read_manifest(folder)
        address = (manifest["stage"], manifest["fingerprint"])
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
        """Hold the lock under which an artifact is made.

        The operating system releases the lock when the process ends. If another process holds it,
        `on_wait` is called once with the path of the lock, and then the caller waits without limit.
        Raises LockError on a file system without locks.
        """
        path = self.root / stage / f".lock-{fp}"
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = file_lock(path)
        with locks_needed(path):
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
        """Make the work folder final by one rename, and return the artifact.

        The manifest gets `stage`, `fingerprint`, `created` and the sizes of all `files`. `drop`
        names the subfolders that only a resume needs (parts, checkpoints). Raises ArtifactError if
        the final folder already exists.
        """
        work = self.work(stage, fp)
        final = self.final(stage, fp)
        if final.exists():
            raise ArtifactError(f"{final} was already made; its work folder {work} is left alone")

        # All that this work has written is written, so a temporary file is one of a killed process.
        remove_temporary(work)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        files = _sizes_below(work, skip=(*drop, MANIFEST))
        own = {"stage": stage, "fingerprint": fp, "created": now, "files": files}
        whole = {**manifest, **own}

        # The order matters: the manifest must not exist before the files that it vouches for.
        sync_below(work, skip=drop)
        atomic_write_json(work / MANIFEST, whole)
        rename_folder(work, final)

        # After the rename, because a kill before it must not lose what a resume needs.
        remove_below(final, drop)
        return Artifact(stage, fp, final, json.loads(json.dumps(whole)))


def _read_manifest(folder: Path) -> dict[str, Any]:
    """A manifest whose `stage`, `fingerprint`, `metrics` and `files` can be used."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(manifest, dict):
            raise TypeError("it is not an object")
        for name in ("stage", "fingerprint"):
            if name not in manifest:
                raise KeyError(name)
        for name in ("metrics", "files"):
            if not isinstance(manifest.get(name, {}), dict):
                raise TypeError(f"its {name} are not an object")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(
            f"{path} cannot be read ({type(error).__name__}: {error}); "
            f"remove {folder} to have it made again"
        ) from error
    return manifest


def _size(path: Path) -> int | None:
    """The size of a file in bytes, or None if there is no such file."""
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:  # a name that no file can have
        return None


def _sizes_below(folder: Path, skip: Sequence[str]) -> dict[str, int]:
    """The size in bytes of every file by its relative path, without what `skip` names."""
    found = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {p.as_posix(): (folder / p).stat().st_size for p in found if p.parts[0] not in skip}


def environment(world_size: int = 1, threads: int = 0) -> dict[str, Any]:
    """What a manifest records about the environment: library versions, git commit, world size,
    threads."""
    versions = {name: distribution_version(name) for name in RECORDED}
    installed = {name: version for name, version in versions.items() if version != "none"}
    return {
        "libraries": {"python": platform.python_version(), **installed},
        "commit": _commit(),
        "world_size": world_size,
        "threads": threads,
    }


def _commit() -> str | None:
    """The git commit of the checkout that holds this package, or None outside a checkout.

    It ends in `-dirty` if there are uncommitted changes.
    """
    root = Path(__file__).resolve().parents[2]
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
    """One line per entry that differs between two `environment()` records or parts of them."""

    def flat(record: Mapping[str, Any]) -> dict[str, Any]:
        plain = {k: v for k, v in record.items() if not isinstance(v, dict)}
        return {**plain, **record.get("libraries", {})}

    before = flat(old)
    after = flat(new)
    return [
        f"{name}: {before.get(name)} -> {after.get(name)}"
        for name in sorted(before | after)
        if before.get(name) != after.get(name)
    ]
