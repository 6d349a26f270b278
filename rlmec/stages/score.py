"""The stage `score`: log-probs of every attempt's tokens under the old policy and the GRM.

In: the round's attempts, the teacher's corrections, the GRM. Out: `scores.parquet`, raw log-probs
that a reward rule turns into token rewards later, so that trying another rule makes nothing again;
`corrections.parquet`, the GRM's rewrites of the wrong attempts that have no accepted correction of
the teacher (with `score.rewrite_corrected` of all wrong ones); and `alternatives.parquet`, what the
GRM would have written where it disagrees with the attempts that it rewrites. One pass of the GRM
gives all.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlmec.ablations.labels import kept_logprobs, reading_row
from rlmec.data.grm_rows import rewriting_row
from rlmec.data.pairs import fields_of
from rlmec.data.row import Row
from rlmec.lm.draft_decoding import Rewrite
from rlmec.method.alignment import edit_ratio
from rlmec.method.credit import copied_share
from rlmec.on_demand import Made
from rlmec.pipeline import models
from rlmec.pipeline.chain import Outcome
from rlmec.pipeline.judges import correction_metrics, correction_of
from rlmec.pipeline.predict import Tables, predict_parts
from rlmec.pipeline.score_sequences import old_logprobs
from rlmec.pipeline.sources import RoundStage, is_taught
from rlmec.records import (
    Alternatives,
    Attempt,
    Correction,
    Problem,
    Score,
    SequenceLogprobs,
    by_id,
)
from rlmec.store.artifacts import Artifact
from rlmec.store.parts import PartFolder
from rlmec.store.tables import TableRecords, write_records
from rlmec.tasks.base import judge_of
from rlmec.training.predict_parts import Draft, ScoringPart, cut
from rlmec.training.reward_model_module import GrmOutput, RewardModelModule


@dataclass(frozen=True)
class Shown:
    """The attempts that are short enough to be scored, and the ids of those that the GRM rewrites.

    Attempts that are too long for either are counted.
    """

    attempts: Sequence[Attempt]
    drafts: set[str]
    too_long: int
    too_long_to_rewrite: int


@dataclass(frozen=True)
class GrmView:
    """One pass of the GRM over the shown attempts: what it reads and how its output is recorded."""

    stage: ScoreStage
    grm: models.LanguageModel
    problems: dict[str, Problem]
    shown: Shown

    def part(self, index: int, group: Sequence[Attempt]) -> ScoringPart:
        """The rows and drafts of a part.

        Attempts to rewrite are drafts, whose own tokens are scored on the way; the others are rows.
        With `score.labels` every attempt is a row, and drafts are rewritten as well.
        """
        s = self.stage.run.settings.score
        rows: list[Row] = []
        drafts: list[Draft] = []
        for attempt in group:
            problem = self.problems[attempt.problem_id]
            ids = self.grm.codec.as_written(attempt.completion_ids)
            if attempt.id in self.shown.drafts:
                drafts.append(Draft(self.grm.prompts.rewrite(problem, ids), ids))
            if s.labels:
                rows.append(reading_row(self.grm.prompts, problem, ids, attempt.id))
            elif attempt.id not in self.shown.drafts:
                rows.append(rewriting_row(self.grm.prompts, problem, ids, ids, attempt.id))
        return ScoringPart(index, rows, drafts, s.completion_length, s.alternatives)

    def finish(self, group: Sequence[Attempt], output: GrmOutput) -> Tables:
        """Log-probs, corrections and alternatives of a part, from the GRM's output on it."""
        run = self.stage.run
        s = run.settings.score
        codec = self.grm.codec
        row_values = iter(output.logprobs)
        rewrites = iter(output.rewrites)
        about = [self.problems[a.problem_id] for a in group if a.id in self.shown.drafts]
        texts = [codec.text(made.completion.ids) for made in output.rewrites]
        judge = judge_of(run.task, texts, about)

        logprobs: list[SequenceLogprobs] = []
        corrections: list[Correction] = []
        alternatives: list[Alternatives] = []
        for attempt in group:
            values: list[float] = []
            if s.labels:
                values = kept_logprobs(next(row_values))
            elif attempt.id not in self.shown.drafts:
                values = next(row_values)

            if attempt.id in self.shown.drafts:
                made = next(rewrites)
                values = values or made.draft_logprobs
                problem = self.problems[attempt.problem_id]
                corrections.append(
                    correction_of(judge, codec, problem, attempt, made.completion, s.max_edit_ratio)
                )
                if made.alternatives:
                    alternatives.append(_alternatives(attempt, made, codec.digest))
            logprobs.append(SequenceLogprobs(attempt.id, values, codec.digest))
        return {
            "logprobs": (logprobs, SequenceLogprobs),
            "corrections": (corrections, Correction),
            "alternatives": (alternatives, Alternatives),
        }


def _alternatives(attempt: Attempt, made: Rewrite, tokenizer: str) -> Alternatives:
    places = [each.place for each in made.alternatives]
    ids = [id_ for each in made.alternatives for id_ in each.ids]
    logprobs = [value for each in made.alternatives for value in each.logprobs]
    return Alternatives(attempt.id, places, ids, logprobs, tokenizer)


class ScoreStage(RoundStage):
    """Raw log-probs of every attempt, and the GRM's own corrections.

    With `score.labels` the GRM's log-probs are those of keeping each token.
    """

    name = "score"
    version = 4  # alternatives

    def build(self, work: Path, parents: dict[str, Artifact]) -> Outcome:
        run = self.run
        start = self.source.model(parents)
        grm = models.of_artifact(parents["grm"], run.settings)
        problems = by_id(run.task.problems("train"))
        shown = self._shown(parents, start, grm, problems)

        old = old_logprobs(run, self.title, start, shown.attempts, work)
        view = self._grm_pass(GrmView(self, grm, problems, shown), work / "parts" / "grm")
        outcome = run.ranks.share(lambda: self._join(work, old, view, problems, shown, start.codec))
        if parents["grm"].metrics.get("grm/untrained"):
            outcome.metrics["grm/untrained"] = 1
        return outcome

    def _shown(
        self,
        parents: dict[str, Artifact],
        start: models.LanguageModel,
        grm: models.LanguageModel,
        problems: dict[str, Problem],
    ) -> Shown:
        """The attempts that fit `score.max_length` and both models' contexts with their prompts."""
        s = self.run.settings.score
        attempts = TableRecords([parents["sample"].file("attempts.parquet")], Attempt)
        taught = TableRecords([parents["teach"].file("corrections.parquet")], Correction)
        reasons = taught.columns("attempt_id", "reason")
        corrected = {id_ for id_, reason in reasons if reason == "accepted"}
        old_limit = start.limited(s.max_length)
        grm_limit = grm.limited(s.max_length)

        fitting = array("i")  # numbers of attempts
        drafts: set[str] = set()
        no_draft = 0
        for number, a in enumerate(attempts):
            prompt = len(grm.prompts.rewrite(problems[a.problem_id], a.completion_ids))
            length = len(a.completion_ids)
            if len(a.prompt_ids) + length > old_limit or prompt + length > grm_limit:
                continue
            fitting.append(number)

            # What the teacher has corrected needs no rewrite of the GRM.
            is_needed = s.rewrite_corrected or a.id not in corrected
            if not (s.rewrite and a.is_wrong and is_needed):
                continue
            if prompt + s.completion_length <= grm_limit:
                drafts.add(a.id)
            else:
                no_draft += 1
        if not fitting:
            raise ValueError(
                f"none of {len(attempts)} attempts can be scored: with its prompt every one is "
                f"longer than {old_limit} tokens for the policy or {grm_limit} for the GRM "
                f"(score.max_length is {s.max_length}, the models' contexts bound it too)"
            )
        too_long = len(attempts) - len(fitting)
        return Shown(attempts.chosen(fitting), drafts, too_long, no_draft)

    def _grm_pass(self, view: GrmView, place: Path) -> PartFolder:
        """Runs the GRM over all shown attempts, by parts below `place`."""
        s = self.run.settings.score
        codec = view.grm.codec
        attempts = view.shown.attempts
        ranges = cut(len(attempts), s.part_size)

        def group(index: int) -> list[Attempt]:
            return [attempts[i] for i in ranges[index]]

        def finish(part: ScoringPart, output: GrmOutput) -> tuple[Tables, dict[str, int]]:
            return view.finish(group(part.index), output), {}

        folder = PartFolder(place, len(ranges))
        predict_parts(
            self.run,
            f"{self.title} (grm)",
            RewardModelModule(view.grm.network(), pad_id=codec.pad_id, end_ids=codec.end_ids),
            Made(len(ranges), lambda index: view.part(index, group(index))),
            folder,
            finish,
            precision=s.precision,
            seed=s.seed,
            first_item=lambda index: attempts[ranges[index][0]].id,
        )
        return folder

    def _join(
        self,
        work: Path,
        old: Sequence[SequenceLogprobs],
        view: PartFolder,
        problems: dict[str, Problem],
        shown: Shown,
        codec: models.Codec,
    ) -> Outcome:
        """Joins both views into `scores.parquet`, and measures the GRM's corrections."""
        view.merge("logprobs", SequenceLogprobs, work / "parts" / "grm.parquet")
        theirs = TableRecords([work / "parts" / "grm.parquet"], SequenceLogprobs)
        made = (
            Score(own.id, grm.logprobs, own.logprobs, own.tokenizer)
            for own, grm in zip(old, theirs, strict=True)
        )
        count = write_records(work / "scores.parquet", made, Score)

        view.merge("alternatives", Alternatives, work / "alternatives.parquet")
        view.merge("corrections", Correction, work / "corrections.parquet")
        corrections = TableRecords([work / "corrections.parquet"], Correction)
        scores = TableRecords([work / "scores.parquet"], Score)
        metrics = correction_metrics(corrections, "score") | self._rewriting(
            corrections, shown.attempts, problems, codec
        )
        if (copied := copied_share(shown.attempts, scores)) is not None:
            metrics["grm/copied_share"] = copied
        metrics |= {
            "score/too_long": shown.too_long,
            "score/too_long_to_rewrite": shown.too_long_to_rewrite,
        }
        return Outcome(count, metrics)

    def _rewriting(
        self,
        corrections: Sequence[Correction],
        attempts: Sequence[Attempt],
        problems: dict[str, Problem],
        codec: models.Codec,
    ) -> dict[str, Any]:
        """How well the GRM, and the trivial rewriter, rewrite attempts outside the GRM's training.

        The trivial rewriter copies the reference solution.
        """
        teach = self.run.settings.teach
        numbers = {id_: number for number, (id_,) in enumerate(fields_of(attempts, "id"))}
        found = Rewrites()
        for c in corrections:
            if is_taught(teach, c.problem_id):
                continue
            found.add(c)
            solution = problems[c.problem_id].solution
            if solution is not None:
                ids = attempts[numbers[c.attempt_id]].completion_ids
                found.copied.append(edit_ratio(ids, codec.completion(solution, ids)))
        return found.metrics(self.run.settings.score.max_edit_ratio)


@dataclass
class Rewrites:
    """Figures of rewrites of attempts at problems outside the GRM's training; all proposals count.

    `copied` are the edit ratios of copying the reference solution instead.
    """

    ratios: list[float] = field(default_factory=list)
    right: int = 0
    accepted: int = 0
    copied: list[float] = field(default_factory=list)

    def add(self, correction: Correction) -> None:
        """Counts a rewrite."""
        self.ratios.append(correction.edit_ratio)
        self.right += correction.verdict == "right"
        self.accepted += correction.accepted

    def metrics(self, max_edit_ratio: float) -> dict[str, Any]:
        """The figures by name; those without a rewrite or a reference are left out."""
        found: dict[str, Any] = {}
        if self.ratios:
            found |= {
                "grm/rewritten": len(self.ratios),
                "grm/rewrite_right": self.right / len(self.ratios),
                "grm/rewrite_success": self.accepted / len(self.ratios),
                "grm/edit_ratio/median": _median(self.ratios),
            }
        if self.copied:
            fitting = sum(ratio <= max_edit_ratio for ratio in self.copied)
            found |= {
                "grm/reference_success": fitting / len(self.copied),
                "grm/reference_edit_ratio/median": _median(self.copied),
            }
        return found


def _median(values: list[float]) -> float:
    """The value in the middle, the upper one of two."""
    return sorted(values)[len(values) // 2]
