"""The stage `sample`: attempts at the train problems, each with its verdict.

In: the model that the round starts from, the train problems. Out: `attempts.parquet`. In round 1 a
file of ready-made solutions (`sample.path`) can take the place of sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlmec.lm.generation import Decoding
from rlmec.pipeline import models
from rlmec.pipeline.attempts import attempt_parts
from rlmec.pipeline.chain import Outcome, Settings
from rlmec.pipeline.import_solutions import counts_of, import_parts
from rlmec.pipeline.score_sequences import logprob_difference
from rlmec.pipeline.sources import RoundStage
from rlmec.records import Attempt
from rlmec.store.artifacts import Artifact
from rlmec.store.parts import PartFolder


class SampleStage(RoundStage):
    """Samples attempts from the round's start, or imports them, and judges each."""

    name = "sample"

    @property
    def version(self) -> int:
        """3: imported by parts; 2: each sample has random numbers of its own."""
        return 2 if self.imported is None else 3

    @property
    def imported(self) -> str | None:
        """The file of ready-made solutions to import instead of sampling."""
        return self.run.settings.sample.path if self.round == 1 else None

    def settings(self) -> Settings:
        found = super().settings()
        found["sample"] |= {"path": self.imported}
        return found

    def build(self, work: Path, parents: dict[str, Artifact]) -> Outcome:
        model = self.source.model(parents)
        if self.imported is not None:
            return self.run.ranks.share(lambda: self._import(work, model))
        return self._sample(work, model)

    def _sample(self, work: Path, model: models.LanguageModel) -> Outcome:
        run = self.run
        s = run.settings.sample
        problems = run.task.problems("train")[: s.max_problems]
        decoding = Decoding(s.completion_length, s.temperature, s.top_p, s.num_generations)

        folder = attempt_parts(self, work, model, problems, decoding, s, counted)
        outcome = run.ranks.share(lambda: _finished(work, folder))
        checked = logprob_difference(self, work, model)
        return Outcome(outcome.rows, outcome.metrics | checked)

    def _import(self, work: Path, model: models.LanguageModel) -> Outcome:
        folder, found = import_parts(self.run, self.title, work, model)
        outcome = _finished(work, folder, unique=("problem_id", "completion_ids"))
        counts = folder.counts()
        extra: dict[str, Any] = {
            "sample/unknown_rows": found.unknown_rows,
            "sample/labels_checked": counts["labels_checked"],
        }
        if counts["labels_checked"]:
            extra["sample/label_agreement"] = counts["labels_agree"] / counts["labels_checked"]
        return Outcome(outcome.rows, outcome.metrics | extra)


def without_duplicates(attempts: list[Attempt]) -> list[Attempt]:
    """The first attempt of each (problem, token ids)."""
    first: dict[tuple[str, tuple[int, ...]], Attempt] = {}
    for attempt in attempts:
        first.setdefault((attempt.problem_id, tuple(attempt.completion_ids)), attempt)
    return list(first.values())


def counted(attempts: list[Attempt]) -> tuple[list[Attempt], dict[str, int]]:
    """The attempts without duplicates, and the counts of all of them."""
    return without_duplicates(attempts), counts_of(attempts)


def _finished(work: Path, folder: PartFolder, unique: Sequence[str] = ()) -> Outcome:
    """Merges the parts into one table and turns their counts into figures.

    Rows that are equal in the columns `unique` are duplicates, as are those that a part has left
    out already.
    """
    rows = folder.merge("attempts", Attempt, work / "attempts.parquet", unique)
    counts = folder.counts()
    total = max(counts["attempts"], 1)
    duplicates = counts["attempts"] - rows
    return Outcome(
        rows,
        {
            "sample/accuracy": counts["right"] / total,
            "sample/duplicates": duplicates,
            "sample/duplicate_rate": duplicates / total,
            "sample/clipped_rate": counts["clipped"] / total,
            "sample/no_answer_rate": counts["no_answer"] / total,
            "sample/unparsable": counts["unparsable"],
        },
    )
