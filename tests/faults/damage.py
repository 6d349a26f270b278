"""What is done to the files between two runs: torn ones, a disk that is full, a read-only one."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType

from .comparison import finished


def no_damage(store: Path) -> Damage:
    return Damage("", store)


def can_mount() -> bool:
    """Whether this process may mount file systems of its own."""
    return os.geteuid() == 0 and shutil.which("mount") is not None


class Damage:
    """One kind of damage to a store; around a case, since it may mount a disk."""

    def __init__(self, kind: str, store: Path) -> None:
        self.kind, self.store = kind, store
        self.is_torn = self.must_be_refused = False
        self._torn: Path | None = None
        self._mounted = False

    def __enter__(self) -> Damage:
        self.store.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._mounted:
            subprocess.run(["umount", str(self._artifacts)], check=True)

    @property
    def _artifacts(self) -> Path:
        return self.store / "artifacts"

    def before(self, number: int) -> None:
        """Before a run that will be stopped: makes the disk a small or a read-only one."""
        if self.kind not in ("disk", "read-only") or not can_mount():
            return
        kept = self.store / "kept"
        self._artifacts.rename(kept)
        self._artifacts.mkdir()
        used = sum(p.stat().st_size + 4096 for p in kept.rglob("*"))
        size = used + (60_000 if self.kind == "disk" else 50_000_000)
        self._mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs")
        self._mounted = True
        shutil.copytree(kept, self._artifacts, dirs_exist_ok=True)
        shutil.rmtree(kept)
        if self.kind == "read-only":
            self._mount("-o", "remount,ro")

    def after(self, number: int, stage: str) -> None:
        """After the run was stopped: room again, or tears what there is to tear."""
        if self._mounted:
            self._mount("-o", "remount,rw,size=200m")
        elif self.kind.startswith("checkpoint"):
            found = sorted(self._artifacts.glob("*/.work-*/checkpoints/step-*.ckpt"))
            self._tear(found[-1:] if self.kind == "checkpoint" else found)
            self.must_be_refused = self.kind == "checkpoints"
        elif self.kind in ("part", "part.json"):
            name = "part.json" if self.kind == "part.json" else "*.parquet"
            self._tear(sorted(self._artifacts.glob(f"*/.work-*/parts/**/{name}"))[-1:])
        elif self.kind and self.kind not in ("disk", "read-only"):
            (folder,) = finished(self.store, stage)
            self._tear(sorted(folder.glob(self.kind)))
            self.must_be_refused = True

    def take_away(self) -> None:
        """What the error told the user to remove."""
        if self._torn is None:
            return
        inside = [*self._torn.parents]
        work = [p for p in inside if p.name == "checkpoints"]
        final = [p for p in inside if p.parent.parent == self._artifacts]
        shutil.rmtree((work or final)[0])

    def _tear(self, files: list[Path]) -> None:
        for path in files:
            os.truncate(path, path.stat().st_size // 2)
            self._torn, self.is_torn = path, True

    def _mount(self, *how: str) -> None:
        subprocess.run(["mount", *how, str(self._artifacts)], check=True)


def unmount_all(root: Path) -> None:
    """Lets go of what an earlier, killed harness has left mounted below a folder."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/mounts").read_text().splitlines():
            place = line.split()[1]
            if place.startswith(str(root)):
                subprocess.run(["umount", place], check=False)
