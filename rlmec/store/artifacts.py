"""The store of artifacts: where a stage works, how its result becomes final, and what its address
depends on.

In: finished files in a stage's work folder and a manifest. Out: `<root>/<stage>/<fingerprint>/`,
which exists only when it is whole: the manifest is written last, everything is flushed to disk, and
one rename of the folder is the commit. Digests of files, directories and of the source behind a
`_target_` are what a fingerprint is made from. Nothing here knows a model, a table's columns or a
configuration file.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rlmec.store.atomic import atomic_write_json, remove_below, sync, sync_below

MANIFEST = "manifest.json"


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
        sync_below(work, skip=drop)
        atomic_write_json(work / MANIFEST, whole)
        os.rename(work, final)
        sync(final.parent)
        remove_below(final, drop)
        return Artifact(stage, fp, final, json.loads(json.dumps(whole)))


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
