"""The plan of a training stage: python -m benchmarks.training_plans STAGE FOLDER KEY=VALUE ...

In: STAGE (grm, score or policy), a folder with the artifacts of `sample` and `teach` in `store`,
and the overrides they were made with. It does what the stage does up to the first batch. `score`
writes its tables to the folder, for `policy`. It runs without a forward pass: every token has the
log-probability -1. Prints the number of attempts that were read.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from rlmec.pipeline.chain import Run
from rlmec.records import by_id
from rlmec.runtime.ranks import Ranks
from rlmec.settings.check import check
from rlmec.settings.command_line import check_command_line, with_split_files
from rlmec.stages import flow
from rlmec.store.artifacts import Artifact
from rlmec.store.tables import count_rows
from rlmec.training import policy_module, reward_model_module

CONF = Path(__file__).resolve().parent.parent / "conf"
LENGTHS = [f"{stage}.max_completion_length=256" for stage in ("sample", "grm", "score", "policy")]
"""The lengths that a run takes from its data where they are not set."""


def run_of(folder: Path, overrides: list[str]) -> Run:
    """Return a job with the composed and checked settings."""
    given = check_command_line(with_split_files([*LENGTHS, *overrides]), CONF, "train")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        settings = check(compose("train", given), CONF)
    return Run(settings, Ranks(), folder)


def parents_of(run: Run, folder: Path) -> dict[str, Artifact]:
    """Return the artifacts that the stages read; the model's place stands for the GRM."""
    found = {name: _only(folder / "store" / name, name) for name in ("sample", "teach")}
    found["sample"].manifest["metrics"] = {"sample/accuracy": 0.5}
    model = Path(str(run.settings.model.path))
    found["grm"] = Artifact("grm", "", model.parent, {})
    found["score"] = Artifact("score", "", folder / "score", {"metrics": {"score/too_long": 0}})
    return found


def _only(stage: Path, name: str) -> Artifact:
    (path,) = (found for found in stage.iterdir() if not found.name.startswith("."))
    return Artifact(name, path.name, path, {})


def plan_grm(run: Run, parents: dict[str, Artifact], folder: Path) -> None:
    """Make the first batch of the GRM's training."""
    stage: Any = flow.stage(run, "grm")
    problems = by_id(run.task.problems("train"))
    model = stage.source.model(parents)
    data = stage.data(model, problems, stage.taught(parents), folder)
    data.plan_for(1, 0)
    next(iter(data.train_dataloader()))


def plan_policy(run: Run, parents: dict[str, Artifact], folder: Path) -> None:
    """Make the first batch of the policy's training."""
    stage: Any = flow.stage(run, "policy")
    data = stage.data(stage.source.model(parents), parents, folder)
    data.plan_for(1, 0)
    next(iter(data.train_dataloader()))


def plan_score(run: Run, parents: dict[str, Artifact], folder: Path) -> None:
    """Make the scores of all attempts, with a constant for each token."""

    def constant(net: Any, rows: Any, pad_id: int) -> list[list[float]]:
        return [[-1.0] * row.sources.size for row in rows]

    for module in (policy_module, reward_model_module):
        vars(module)["score_rows"] = constant
    shutil.rmtree(folder / "score", ignore_errors=True)
    (folder / "score").mkdir()
    flow.stage(run, "score").build(folder / "score", parents)


PLANS: dict[str, Callable[[Run, dict[str, Artifact], Path], None]] = {
    "grm": plan_grm,
    "score": plan_score,
    "policy": plan_policy,
}


def main(arguments: list[str]) -> None:
    stage, folder, *overrides = arguments
    run = run_of(Path(folder), overrides)
    parents = parents_of(run, Path(folder))
    PLANS[stage](run, parents, Path(folder))
    print(count_rows(parents["sample"].file("attempts.parquet")))


if __name__ == "__main__":
    main(sys.argv[1:])
