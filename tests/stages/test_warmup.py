"""The stage `warmup`: which references it learns."""

import pytest
from small_runs import settings_of, start_model

from rlmec.pipeline.chain import Run
from rlmec.runtime.ranks import Ranks
from rlmec.stages import warmup
from rlmec.stages.warmup import WarmupStage


class Seen(Exception):
    """Ends the stage where its data is known."""


@pytest.mark.parametrize(("limit", "count"), [("null", 24), ("5", 5), ("99", 24)])
def test_it_learns_the_first_problems_alone(limit, count, tmp_path, monkeypatch):
    learned = []

    def data_of(prompts, problems, *args, **more):
        learned.extend(problems)
        raise Seen

    monkeypatch.setattr(warmup, "SolutionPairDataModule", data_of)
    settings = settings_of(
        tmp_path,
        start_model(tmp_path / "model"),
        "warmup=always",
        "warmup.epochs=null",
        f"warmup.max_problems={limit}",
    )
    run = Run(settings, Ranks(), tmp_path)
    with pytest.raises(Seen):
        WarmupStage(run).build(tmp_path, {})
    assert learned == run.task.problems("train")[:count]
