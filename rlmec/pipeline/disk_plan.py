"""The disk space that the fits of a run need: said in the plan, checked before the first artifact.

In: the planned stages, the number of checkpoints that are kept. Out: bytes, a line that says them,
and an error that names the settings to change.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

from rlmec.lm.memory_estimate import GIB
from rlmec.lm.model_sizes import UnknownSizesError
from rlmec.pipeline.memory_plan import PlannedStage, planned_stages
from rlmec.settings.binding import ConfigurationError
from rlmec.settings.schema import RunSettings


def disk_need(fits: Sequence[PlannedStage], settings: RunSettings) -> float:
    """Bytes that the fits need in the store at most.

    A fit holds the checkpoints that are kept and the one being written, each with weights and
    moments, and the best weights next to those being written. Of each fit a model stays, of the
    policy one per variant of the comparison.
    """
    kept = settings.callbacks.keep_checkpoints + 1
    largest = max((kept * fit.checkpoint + 2 * fit.model for fit in fits), default=0.0)
    policies = 1 + len(settings.report.variants)
    return largest + sum(fit.model * (policies if fit.name == "policy" else 1) for fit in fits)


def disk_line(stages: Sequence[PlannedStage], settings: RunSettings) -> str:
    """What the plan says of the disk; empty if no fit is planned."""
    fits = [stage for stage in stages if stage.checkpoint]
    if not fits:
        return ""
    largest = max(fits, key=lambda fit: fit.checkpoint)
    need, free = disk_need(fits, settings), free_space(Path(settings.paths.artifacts))
    return (
        f"disk: up to {need / GIB:.1f} GiB in {settings.paths.artifacts} (a checkpoint of "
        f"{largest.name} has {largest.checkpoint / GIB:.2f} GiB, callbacks.keep_checkpoints is "
        f"{settings.callbacks.keep_checkpoints}), of {free / GIB:.1f} GiB that are free"
    )


def check_disk(settings: RunSettings, world: int, fits: Collection[str]) -> None:
    """Raises ConfigurationError if `fits`, which are still to be made, do not find enough space."""
    try:
        planned = planned_stages(settings, world)
    except UnknownSizesError:
        return
    needed = disk_need([s for s in planned if s.checkpoint and s.name in fits], settings)
    store = Path(settings.paths.artifacts)
    if needed > (free := free_space(store)):
        raise ConfigurationError(
            f"paths.artifacts: {store} has {free / GIB:.1f} GiB free, and {', '.join(fits)} need "
            f"up to {needed / GIB:.1f} GiB for checkpoints and models; name a larger disk, remove "
            f"old artifacts (stage=prune), or lower callbacks.keep_checkpoints"
        )


def free_space(folder: Path) -> int:
    """Free bytes where the folder is, or will be."""
    there = next(f for f in (folder.absolute(), *folder.absolute().parents) if f.exists())
    return shutil.disk_usage(there).free
