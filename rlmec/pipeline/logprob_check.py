"""How far the sampler's log-probs are from those of the trainer's own forward pass.

Between two programs (an engine and the trainer), or between cached decoding and one pass over the
whole, they differ by rounding. More than that means that the tokens were not sampled from the
weights that are trained. Rewards never use the sampler's values: the stage `score` computes its
own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlmec.data.row import Row
from rlmec.pipeline import models
from rlmec.pipeline.chain import Stage
from rlmec.pipeline.predict import Tables, predict_parts
from rlmec.records import Attempt
from rlmec.store.parts import PartFolder
from rlmec.store.tables import read_table
from rlmec.training.policy_module import PolicyModule
from rlmec.training.predict_parts import ScoringPart

FOLDER = "agreement"


@dataclass(frozen=True)
class TwoViews:
    """Log-probs (nats) of an attempt's tokens: the sampler's and the trainer's."""

    attempt_id: str
    sampled: list[float]
    trained: list[float]


def logprob_difference(stage: Stage, work: Path, model: models.LanguageModel) -> dict[str, float]:
    """|sampler's - trainer's log-prob|, mean and maximum over the tokens of `logprob_checks`
    attempts, spread evenly over the stage's; none where there is nothing to check."""
    run, s = stage.run, stage.run.settings.sample
    chosen = run.ranks.share(lambda: _chosen(work / "attempts.parquet", s.logprob_checks))
    if not chosen:
        return {}
    rows = [
        Row.likelihood(a.id, [*a.prompt_ids, *a.completion_ids], len(a.prompt_ids)) for a in chosen
    ]

    def finish(part: ScoringPart, output: list[list[float]]) -> tuple[Tables, dict[str, int]]:
        views = [
            TwoViews(a.id, a.logprobs, values) for a, values in zip(chosen, output, strict=True)
        ]
        return {"views": (views, TwoViews)}, {}

    codec, folder = model.codec, PartFolder(work / FOLDER, 1)
    predict_parts(
        run,
        f"{stage.title} (log-probs)",
        PolicyModule(model.network(), pad_id=codec.pad_id, end_ids=codec.end_ids),
        [ScoringPart(0, rows)],
        folder,
        finish,
        precision=s.precision,
        seed=s.seed,
        first_item=lambda index: chosen[0].id,
    )
    return run.ranks.share(lambda: _difference(folder.part(0) / "views.parquet"))


def _chosen(path: Path, count: int) -> list[Attempt]:
    attempts = [a for a in read_table(path, Attempt) if a.logprobs] if count else []
    step = max(1, len(attempts) // max(count, 1))
    return attempts[::step][:count]


def _difference(path: Path) -> dict[str, float]:
    views = read_table(path, TwoViews)
    sampled = np.concatenate([v.sampled for v in views])  # [tokens]
    trained = np.concatenate([v.trained for v in views])  # [tokens]
    gap = np.abs(sampled - trained)  # [tokens]
    return {
        "sample/logprob_difference/mean": float(gap.mean()),
        "sample/logprob_difference/max": float(gap.max()),
    }
