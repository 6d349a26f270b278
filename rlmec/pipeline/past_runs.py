"""How long a stage may take: as long as earlier runs took for the same amount of work.

In: the manifests of a store. Out: seconds, or None where no manifest tells. The same amount of work
means: the same settings but for those of FREE, the same input files and models, the same numbers of
ranks and threads, and all this for what the stage is made from, too. A manifest does not record the
machine, so a store that two machines share mixes their times.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from typing import Any

from rlmec.store.artifacts import MANIFEST, ArtifactStore
from rlmec.store.begun import flat

FREE = frozenset(
    {
        *("seed", "optimizer", "scheduler", "warmup_share", "gradient_clip", "ratio_tolerance"),
        *("objective", "reward", "edit_weights", "mixture", "temperature", "top_p"),
    }
)
"""Parts of a setting's dotted key that change a result, but hardly the time that it takes."""

NEWEST = 20
"""Artifacts of a stage that are looked at."""


class PastRuns:
    """The artifacts of a store whose work was done by `world` ranks with `threads` threads."""

    def __init__(self, store: ArtifactStore, world: int, threads: int) -> None:
        self._store = store
        self._environment = {"world_size": world, "threads": threads}
        self._manifests: dict[tuple[str, str], dict[str, Any]] = {}
        self._alike: dict[tuple[Any, str], bool] = {}

    def seconds(self, stage: Any) -> float | None:
        """The median time of the artifacts that took as much work as `stage` will."""
        folders = [path for path in (self._store.root / stage.name).glob("[!.]*") if path.is_dir()]
        folders.sort(key=lambda path: path.stat().st_mtime)
        found = [
            self._manifest(stage.name, folder.name)["seconds"]
            for folder in folders[-NEWEST:]
            if self._is_alike(stage, folder.name)
        ]
        return statistics.median(found) if found else None

    def _is_alike(self, stage: Any, fp: str) -> bool:
        key = (stage.key, fp)
        if key not in self._alike:
            self._alike[key] = self._compared(stage, self._manifest(stage.name, fp))
        return self._alike[key]

    def _compared(self, stage: Any, manifest: Mapping[str, Any]) -> bool:
        environment = manifest.get("environment", {})
        if any(environment.get(name) != value for name, value in self._environment.items()):
            return False
        if _work(manifest) != _work(json.loads(json.dumps(stage.counted()))):
            return False
        above = manifest.get("parents", {})
        return above.keys() == stage.parents.keys() and all(
            self._is_alike(parent, above[name]) for name, parent in stage.parents.items()
        )

    def _manifest(self, stage: str, fp: str) -> dict[str, Any]:
        """The manifest of an artifact; empty for one that is gone or cannot be read."""
        key = (stage, fp)
        if key not in self._manifests:
            path = self._store.final(stage, fp) / MANIFEST
            try:
                self._manifests[key] = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                self._manifests[key] = {}
        return self._manifests[key]


def _work(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the amount of work depends on, of a manifest or of what a stage counts."""
    counted = flat({"settings": record.get("settings", {}), "inputs": record.get("inputs", {})})
    return {key: value for key, value in counted.items() if FREE.isdisjoint(key.split("."))}
