"""The start's log-probs of corrections, which DPO compares with those of the policy in training.

In: the joined pairs. Out: log-probs by the attempt's id. Computed by fixed parts in the work folder
of the stage that asks, before its fit; every rank returns the same.
"""

from __future__ import annotations

from pathlib import Path

from rlmec.data.datamodule import SolutionPairDataModule
from rlmec.data.row import Row
from rlmec.pipeline import models
from rlmec.pipeline.chain import Run
from rlmec.pipeline.predict import Tables, predict_parts
from rlmec.records import Score
from rlmec.store.parts import PartFolder
from rlmec.store.tables import read_table
from rlmec.training.policy_module import PolicyModule
from rlmec.training.predict_parts import ScoringPart, cut


def correction_logprobs(
    run: Run, title: str, model: models.LanguageModel, data: SolutionPairDataModule, work: Path
) -> dict[str, list[float]]:
    """Log-probs (nats) of every wrong attempt's correction under `model`, the policy's start."""
    rows = []
    for pair in data.pairs:
        if pair.target_ids and not pair.attempt.is_right:
            prompt = pair.attempt.prompt_ids
            rows.append(Row.likelihood(pair.attempt.id, [*prompt, *pair.target_ids], len(prompt)))
    if not rows:
        return {}
    s, codec, place = run.settings.score, model.codec, work / "parts"
    parts = [
        ScoringPart(index, [rows[i] for i in which])
        for index, which in enumerate(cut(len(rows), s.part_size))
    ]

    def finish(part: ScoringPart, output: list[list[float]]) -> tuple[Tables, dict[str, int]]:
        scores = [
            Score(row.id, values, values, codec.digest)
            for row, values in zip(part.rows, output, strict=True)
        ]
        return {"scores": (scores, Score)}, {}

    folder = PartFolder(place / "corrections", len(parts))
    module = PolicyModule(model.network(), pad_id=codec.pad_id, end_ids=codec.end_ids)
    shown = f"{title} (corrections)"
    predict_parts(
        run,
        shown,
        module,
        parts,
        folder,
        finish,
        precision=s.precision,
        seed=s.seed,
        first_item=lambda index: parts[index].rows[0].id,
    )
    table = place / "corrections.parquet"
    run.ranks.share(lambda: folder.merge("scores", Score, table))
    return {score.attempt_id: list(score.old_logprobs) for score in read_table(table, Score)}
