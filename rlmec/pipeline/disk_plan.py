"""The disk space that the fits of a run need: said in the plan, checked before the first artifact.

In: the planned stages, the number of checkpoints that are kept, the numbers of problems and
attempts. Out: bytes, a line that says them, and an error that names the settings to change.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlmec.data.row_file import most_bytes
from rlmec.lm.memory_estimate import GIB
from rlmec.lm.model_sizes import UnknownSizesError
from rlmec.pipeline.memory_plan import PlannedStage, PromptLengths, longest_rows, planned_stages
from rlmec.settings.binding import ConfigurationError
from rlmec.settings.schema import RunSettings

LOCATED = 32
"""Tokens that the answer of a locating row has at most."""


@dataclass(frozen=True)
class Examples:
    """The number of problems that the warm-up learns, and of attempts in a round at most."""

    learned: int
    attempts: int


def row_files(
    settings: RunSettings, world: int, examples: Examples, prompts: PromptLengths | None = None
) -> dict[str, int]:
    """The most bytes that the training rows of each fit take in temporary files, by its name.

    Lengths are those of `memory_plan.longest_rows`: no correction is longer than an attempt may be,
    and without `prompts` every token is scored. Every rank writes its own file. A row of the GRM
    over `grm.max_length`, which is written before it is dropped, counts as one of that length.
    """
    longest = longest_rows(settings, prompts)
    known = prompts or PromptLengths(0, 0, 0)

    def rows(length: int, prompt: int) -> int:
        return most_bytes(length, max(length - prompt, 0))

    # A warm-up on other problems has prompts that were not measured.
    prompt = known.policy if settings.warmup.task is None else 0
    warmup = rows(longest["warmup"], prompt)

    # An attempt is rewritten or copied; some are shown once more, for their first wrong line.
    mixture = settings.grm.mixture
    grm = rows(longest["grm"], known.rewrite)
    grm += round(min(mixture.locate, 1.0) * most_bytes(settings.grm.max_length, LOCATED))
    if settings.grm.rows_together > 1:
        grm *= 2  # the rows, and those that several of them become

    # An attempt and its correction, which need not share a row. Either fits a row of `sample`.
    policy = 2 * rows(longest["sample"], known.policy)
    return {
        "warmup": world * examples.learned * warmup,
        "grm": world * examples.attempts * grm,
        "policy": world * examples.attempts * policy,
    }


def disk_need(
    fits: Sequence[PlannedStage], settings: RunSettings, rows: Mapping[str, int] | None = None
) -> float:
    """Bytes that the fits need in the store at most.

    A fit holds its training `rows`, the checkpoints that are kept and the one being written, each
    with weights and moments, and the best weights next to those being written. Of each fit a model
    stays, of the policy one per variant of the comparison.
    """
    kept = settings.callbacks.keep_checkpoints + 1
    written = rows or {}
    largest = max(
        (kept * fit.checkpoint + 2 * fit.model + written.get(fit.name, 0) for fit in fits),
        default=0.0,
    )
    policies = 1 + len(settings.report.variants)
    return largest + sum(fit.model * (policies if fit.name == "policy" else 1) for fit in fits)


def disk_line(
    stages: Sequence[PlannedStage], settings: RunSettings, rows: Mapping[str, int] | None = None
) -> str:
    """What the plan says of the disk; empty if no fit is planned. `rows` are of `row_files`; None
    if the numbers of problems and attempts are not known."""
    fits = [stage for stage in stages if stage.checkpoint]
    if not fits:
        return ""
    largest = max(fits, key=lambda fit: fit.checkpoint)
    need = disk_need(fits, settings, rows)
    free = free_space(Path(settings.paths.artifacts))
    written = "training rows are not counted"
    if rows is not None:
        most = max(fits, key=lambda fit: rows[fit.name])
        written = f"training rows of {most.name} up to {rows[most.name] / GIB:.2f} GiB"
    return (
        f"disk: up to {need / GIB:.1f} GiB in {settings.paths.artifacts} (a checkpoint of "
        f"{largest.name} has {largest.checkpoint / GIB:.2f} GiB, callbacks.keep_checkpoints is "
        f"{settings.callbacks.keep_checkpoints}; {written}), of {free / GIB:.1f} GiB that are free"
    )


def check_disk(settings: RunSettings, world: int, fits: Collection[str]) -> None:
    """Raises ConfigurationError if `fits`, which are still to be made, do not find enough space.

    Training rows are not counted: their bound is several times what most runs write, and a run that
    finds no room for them continues once there is some.
    """
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
