"""Where a fit continues: at its newest checkpoint, at a named one, or at one of another plan.

In: a fit's work folder and its plan. Out: a checkpoint for Lightning, and a line that says at which
step and row the fit continues. A checkpoint of another plan, for example of another number of
ranks, is taken only with `resume=weights`: its weights, optimizer and schedule continue at its
step, with the rows that come next. The result is then no longer bit for bit that of an
uninterrupted fit, and a file in the work folder records that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import DeepSpeedStrategy

from rlmec.data.datamodule import SolutionPairDataModule
from rlmec.pipeline.chain import INEXACT, Run
from rlmec.store.atomic import atomic_write_text
from rlmec.training.checkpoints import (
    AtomicCheckpointIO,
    newest_loadable,
    read_checkpoint,
    remove_newer,
    saved_step,
    step_of,
)


def resume_from(
    run: Run, title: str, folder: Path, strategy: Any, data: SolutionPairDataModule
) -> str | None:
    """The checkpoint to continue from, or None to begin; says which. For rank 0.

    Raises FileNotFoundError if `ckpt_path` is no file or `resume=required` finds nothing for the
    stage that was asked for, ValueError if a fit under DeepSpeed is to be resumed.
    """
    settings = run.settings
    mine = (
        title == run.asked
    )  # ckpt_path and resume=required are about the stage that was asked for

    if isinstance(strategy, DeepSpeedStrategy):
        if mine and (settings.ckpt_path is not None or settings.resume == "required"):
            raise ValueError(f"{title}: a fit under DeepSpeed cannot be resumed; use trainer=fsdp2")
        run.say(f"{title}: under DeepSpeed no checkpoints are kept; a kill costs the whole fit")
        return None

    if settings.ckpt_path is not None and mine:
        path = Path(settings.ckpt_path)
        if not path.is_file():
            raise FileNotFoundError(f"ckpt_path: {path} is no file")
        step = saved_step(path)
        run.say(f"{title}: continues from {path} (ckpt_path), step {step} {data.place(step)}")
        remove_newer(folder, step)
        return _fitting(run, title, path, folder, data)

    folder.mkdir(parents=True, exist_ok=True)
    found = newest_loadable(folder, run.say)
    if found is None:
        if settings.resume == "required" and mine:
            raise FileNotFoundError(f"resume=required: {folder} holds no checkpoint of {title}")
        return None
    step = step_of(found)
    run.say(f"{title}: resumes from optimizer step {step} {data.place(step)} ({found})")
    return _fitting(run, title, found, folder, data)


def _fitting(
    run: Run, title: str, path: Path, folder: Path, data: SolutionPairDataModule
) -> str | None:
    """The checkpoint itself, or with `resume=weights` a copy that fits another plan."""
    if run.settings.resume != "weights":
        return str(path)
    checkpoint = read_checkpoint(path)
    if data.has_plan_of(checkpoint):
        return str(path)

    step = int(checkpoint["global_step"])
    ranks = len(checkpoint["rlmec_random_states"])
    if step > data.plan.steps:
        raise ValueError(f"{path} is of step {step}, but this fit has {data.plan.steps} steps")
    said = (
        f"{title} continued at step {step} with the weights, optimizer and schedule that {ranks} "
        f"rank(s) had saved, now on {data.plan.world_size}: from there on it is not bit for bit "
        f"what an uninterrupted run gives"
    )
    run.say(f"  {said}")
    atomic_write_text(folder.parent / INEXACT, said + "\n")
    copy = folder / f"weights-{step:08d}.ckpt"
    AtomicCheckpointIO().save_checkpoint(refitted(checkpoint, data), copy)
    return str(copy)


def refitted(checkpoint: dict[str, Any], data: SolutionPairDataModule) -> dict[str, Any]:
    """A checkpoint that fits the plan of `data`, at the same optimizer step.

    Its counts of micro-batches are those of the plan. The states of random number generators are
    left out, since they belong to other ranks.
    """
    plan = data.plan
    step = int(checkpoint["global_step"])
    done = step * plan.accumulate
    counts = {"ready": done, "started": done, "processed": done, "completed": done - 1}
    loops = dict(checkpoint["loops"])
    loops["fit_loop"] = loops["fit_loop"] | {
        "epoch_loop.batch_progress": {
            "total": counts,
            "current": dict(counts),
            "is_last_batch": step == plan.steps,
        }
    }
    own = {type(data).__qualname__: data.state_at(done)}
    return checkpoint | own | {"loops": loops, "rlmec_random_states": None}
