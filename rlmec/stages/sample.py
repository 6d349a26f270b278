"""The stage `sample`: attempts at the train problems, each with its verdict.

In: the model that the round starts from, the train problems. Out: `attempts.parquet`, in which of
identical attempts the first stays, and `draws.parquet`, which says how many it stands for. In round
1 a file of ready-made solutions (`sample.path`) can take the place of sampling.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlmec.lm.generation import Decoding
from rlmec.pipeline import models
from rlmec.pipeline.attempts import attempt_parts
from rlmec.pipeline.chain import Outcome, Settings
from rlmec.pipeline.import_solutions import counts_of, import_parts
from rlmec.pipeline.score_sequences import logprob_difference
from rlmec.pipeline.sources import RoundStage
from rlmec.records import Attempt, Draws
from rlmec.store.artifacts import Artifact
from rlmec.store.parts import PartFolder
from rlmec.store.tables import iter_columns, write_records


class SampleStage(RoundStage):
    """Samples attempts from the round's start, or imports them, and judges each."""

    name = "sample"

    @property
    def version(self) -> int:
        """4 and 5: identical attempts are counted; 3: imported by parts; 2: each sample has random
        numbers of its own."""
        return 4 if self.imported is None else 5

    @property
    def imported(self) -> str | None:
        """The file of ready-made solutions to import instead of sampling."""
        return self.run.settings.sample.path if self.round == 1 else None

    def settings(self) -> Settings:
        found = super().settings()
        found["sample"] |= {"path": self.imported}
        if self.first_problem:
            found["first_problem"] = self.first_problem
        return found

    @property
    def first_problem(self) -> int:
        """The train problem with which the round begins, counted from 0."""
        s = self.run.settings.sample
        return (self.round - 1) * (s.max_problems or 0) if s.fresh else 0

    def build(self, work: Path, parents: dict[str, Artifact]) -> Outcome:
        model = self.source.model(parents)
        if self.imported is not None:
            return self.run.ranks.share(lambda: self._import(work, model))
        return self._sample(work, model)

    def _sample(self, work: Path, model: models.LanguageModel) -> Outcome:
        run = self.run
        s = run.settings.sample
        problems = run.task.problems("train")[self.first_problem :][: s.max_problems]
        decoding = Decoding(s.completion_length, s.temperature, s.top_p, s.num_generations)

        folder = attempt_parts(self, work, model, problems, decoding, s, counts_of)
        outcome = run.ranks.share(lambda: _finished(work, folder))
        checked = logprob_difference(self, work, model)
        return Outcome(outcome.rows, outcome.metrics | checked)

    def _import(self, work: Path, model: models.LanguageModel) -> Outcome:
        folder, found = import_parts(self.run, self.title, work, model)
        outcome = _finished(work, folder)
        counts = folder.counts()
        extra: dict[str, Any] = {
            "sample/unknown_rows": found.unknown_rows,
            "sample/labels_checked": counts["labels_checked"],
        }
        if counts["labels_checked"]:
            extra["sample/label_agreement"] = counts["labels_agree"] / counts["labels_checked"]
        return Outcome(outcome.rows, outcome.metrics | extra)


def _finished(work: Path, folder: PartFolder) -> Outcome:
    """Merges the parts into one table without duplicates, and turns their counts into figures."""
    table = work / "attempts.parquet"
    repeats: dict[int, int] = {}
    rows = folder.merge("attempts", Attempt, table, ("problem_id", "completion_ids"), repeats)
    ids = (id_ for (id_,) in iter_columns(table, Attempt, ("id",)))
    draws = (Draws(id_, repeats[row]) for row, id_ in enumerate(ids) if row in repeats)
    write_records(work / "draws.parquet", draws, Draws)

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
