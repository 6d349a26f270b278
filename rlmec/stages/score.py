"""The door `score`: what the old policy and the GRM make of every attempt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rlmec.ablations.labels import kept_logprobs, reading_row
from rlmec.data.grm_rows import rewriting_row
from rlmec.data.row import Row
from rlmec.method.alignment import edit_ratio
from rlmec.method.credit import copied_share
from rlmec.pipeline import models
from rlmec.pipeline.chain import Outcome, Stage
from rlmec.pipeline.judges import correction_of
from rlmec.pipeline.predict import predict_parts
from rlmec.pipeline.rounds import RoundStage
from rlmec.records import (
    Attempt,
    Correction,
    Problem,
    Score,
    by_id,
)
from rlmec.stages.grm import grm_of
from rlmec.stages.sample import SampleStage
from rlmec.stages.teach import TeachStage, correction_metrics, is_taught
from rlmec.store.artifacts import Artifact
from rlmec.store.parts import PartFolder
from rlmec.store.tables import read_table, write_table
from rlmec.tasks.base import judge_of
from rlmec.training.policy_module import PolicyModule
from rlmec.training.predict_parts import Draft, ScoringPart, cut
from rlmec.training.reward_model_module import GrmOutput, RewardModelModule

__all__ = ["ScoreStage"]


@dataclass(frozen=True)
class Shown:
    """The attempts that are short enough to be scored, and the ids of those that the GRM is to
    correct; what is too long for either is counted."""

    attempts: list[Attempt]
    drafts: set[str]
    too_long: int
    too_long_to_rewrite: int


class ScoreStage(RoundStage):
    """Raw log-probs of every attempt under the GRM and the old policy (with `score.labels` those of
    keeping its tokens), and the GRM's own corrections of the wrong attempts that have none from the
    teacher."""

    name = "score"
    version = 3  # attempts too long for a model are left out and counted

    def parents(self) -> dict[str, Stage]:
        run, start = self.run, self.start
        own = {"sample": SampleStage(run, start), "teach": TeachStage(run, start)}
        return super().parents() | own | {"grm": grm_of(start)}

    def build(self, work: Path, parents: dict[str, Artifact]) -> Outcome:
        run, s = self.run, self.run.settings.score
        start = self.start.model(parents)
        grm = models.of_artifact(parents["grm"], run.settings)
        problems = by_id(run.task.problems("train"))
        shown = self._shown(parents, start, grm, problems)
        groups = [
            [shown.attempts[i] for i in which] for which in cut(len(shown.attempts), s.part_size)
        ]

        old = PartFolder(work / "parts" / "old", len(groups))
        view = PartFolder(work / "parts" / "grm", len(groups))
        self._pass(start, old, groups, self._old_part, self._old_finish(start))
        rewriting = partial(self._grm_part, grm, problems, shown.drafts)
        finish = self._grm_finish(grm, problems, groups, shown.drafts)
        self._pass(grm, view, groups, rewriting, finish)
        return run.ranks.share(lambda: self._join(work, old, view, problems, shown, start.codec))

    def _shown(
        self,
        parents: dict[str, Artifact],
        start: models.LanguageModel,
        grm: models.LanguageModel,
        problems: dict[str, Problem],
    ) -> Shown:
        """What fits `score.max_length` and the contexts of both models, prompts included."""
        s = self.run.settings.score
        attempts = read_table(parents["sample"].file("attempts.parquet"), Attempt)
        taught = read_table(parents["teach"].file("corrections.parquet"), Correction)
        corrected = {c.attempt_id for c in taught if c.accepted}
        old_limit, grm_limit = start.limited(s.max_length), grm.limited(s.max_length)
        fitting: list[Attempt] = []
        drafts: set[str] = set()
        no_draft = 0
        for a in attempts:
            prompt = len(grm.prompts.rewrite(problems[a.problem_id], a.completion_ids))
            length = len(a.completion_ids)
            if len(a.prompt_ids) + length > old_limit or prompt + length > grm_limit:
                continue
            fitting.append(a)
            if not (s.rewrite and a.is_wrong and a.id not in corrected):
                continue
            if prompt + s.max_completion_length <= grm_limit:
                drafts.add(a.id)
            else:
                no_draft += 1
        if not fitting:
            raise ValueError(
                f"none of {len(attempts)} attempts can be scored: with its prompt every one is "
                f"longer than {old_limit} tokens for the policy or {grm_limit} for the GRM "
                f"(score.max_length is {s.max_length}, the models' contexts bound it too)"
            )
        return Shown(fitting, drafts, len(attempts) - len(fitting), no_draft)

    def _pass(
        self,
        model: models.LanguageModel,
        folder: PartFolder,
        groups: Sequence[list[Attempt]],
        part: Callable[[int, list[Attempt]], ScoringPart],
        finish: Any,
    ) -> None:
        s, codec = self.run.settings.score, model.codec
        kind = RewardModelModule if folder.folder.name == "grm" else PolicyModule
        module = kind(model.network(), pad_id=codec.pad_id, end_ids=codec.end_ids)
        predict_parts(
            self.run,
            f"{self.title} ({folder.folder.name})",
            module,
            [part(i, group) for i, group in enumerate(groups)],
            folder,
            finish,
            precision=s.precision,
            seed=s.seed,
            first_item=lambda index: groups[index][0].id,
        )

    def _old_part(self, index: int, group: list[Attempt]) -> ScoringPart:
        rows = [
            Row.likelihood(a.id, [*a.prompt_ids, *a.completion_ids], len(a.prompt_ids))
            for a in group
        ]
        return ScoringPart(index, rows)

    def _old_finish(self, start: models.LanguageModel):
        digest = start.codec.digest

        def finish(part: ScoringPart, output: list[list[float]]):
            scores = [
                Score(row.id, values, values, digest)
                for row, values in zip(part.rows, output, strict=True)
            ]
            return {"scores": (scores, Score)}, {}

        return finish

    def _grm_part(
        self,
        grm: models.LanguageModel,
        problems: dict[str, Problem],
        to_correct: set[str],
        index: int,
        group: list[Attempt],
    ) -> ScoringPart:
        """Attempts that the GRM must correct are drafts; the others are scored alone. With
        `score.labels` all are read, and drafts rewritten besides."""
        rows, drafts, labels = [], [], self.run.settings.score.labels
        for a in group:
            problem, ids = problems[a.problem_id], a.completion_ids
            if a.id in to_correct:
                drafts.append(Draft(grm.prompts.rewrite(problem, ids), ids))
            if labels:
                rows.append(reading_row(grm.prompts, problem, ids, a.id))
            elif a.id not in to_correct:
                rows.append(rewriting_row(grm.prompts, problem, ids, ids, a.id))
        return ScoringPart(index, rows, drafts, self.run.settings.score.max_completion_length)

    def _grm_finish(
        self,
        grm: models.LanguageModel,
        problems: dict[str, Problem],
        groups: Sequence[list[Attempt]],
        to_correct: set[str],
    ):
        run, s, codec = self.run, self.run.settings.score, grm.codec

        def finish(part: ScoringPart, output: GrmOutput):
            alone, rewritten = iter(output.logprobs), iter(output.rewrites)
            about = [problems[a.problem_id] for a in groups[part.index] if a.id in to_correct]
            texts = [codec.text(made.completion.ids) for made in output.rewrites]
            judge = judge_of(run.task, texts, about)
            scores, corrections = [], []
            for a in groups[part.index]:
                values: list[float] = []
                if s.labels:
                    values = kept_logprobs(next(alone))
                elif a.id not in to_correct:
                    values = next(alone)
                if a.id in to_correct:
                    problem, made = problems[a.problem_id], next(rewritten)
                    values = values or made.draft_logprobs
                    proposal = correction_of(
                        judge, codec, problem, a, made.completion, s.max_edit_ratio
                    )
                    corrections.append(proposal)
                scores.append(Score(a.id, values, values, codec.digest))
            tables = {"scores": (scores, Score), "corrections": (corrections, Correction)}
            return tables, {}

        return finish

    def _join(
        self,
        work: Path,
        old: PartFolder,
        view: PartFolder,
        problems: dict[str, Problem],
        shown: Shown,
        codec: models.Codec,
    ) -> Outcome:
        run = self.run
        old.merge("scores", Score, work / "parts" / "old.parquet")
        view.merge("scores", Score, work / "parts" / "grm.parquet")
        view.merge("corrections", Correction, work / "corrections.parquet")
        first = read_table(work / "parts" / "old.parquet", Score)
        second = read_table(work / "parts" / "grm.parquet", Score)
        scores = [
            Score(a.attempt_id, b.grm_logprobs, a.old_logprobs, a.tokenizer)
            for a, b in zip(first, second, strict=True)
        ]
        write_table(work / "scores.parquet", scores, Score)
        corrections = read_table(work / "corrections.parquet", Correction)
        unseen = [c for c in corrections if not is_taught(run, c.problem_id)]
        metrics = correction_metrics(corrections, "score") | rewriting(unseen)
        metrics |= self._copying_rival(unseen, shown.attempts, problems, codec)
        if (copied := copied_share(shown.attempts, scores)) is not None:
            metrics["grm/copied_share"] = copied
        metrics |= {
            "score/too_long": shown.too_long,
            "score/too_long_to_rewrite": shown.too_long_to_rewrite,
        }
        return Outcome(len(scores), metrics)

    def _copying_rival(
        self,
        corrections: list[Correction],
        attempts: Sequence[Attempt],
        problems: dict[str, Problem],
        codec: models.Codec,
    ) -> dict[str, Any]:
        """The trivial rewriter, which copies the reference solution: the edits that would take."""
        wrong = by_id(attempts)
        ratios = sorted(
            edit_ratio(wrong[c.attempt_id].completion_ids, codec.completion(solution))
            for c in corrections
            if (solution := problems[c.problem_id].solution) is not None
        )
        if not ratios:
            return {}
        limit = self.run.settings.score.max_edit_ratio
        return {
            "grm/reference_success": sum(ratio <= limit for ratio in ratios) / len(ratios),
            "grm/reference_edit_ratio/median": ratios[len(ratios) // 2],
        }


def rewriting(corrections: list[Correction]) -> dict[str, Any]:
    """How well the GRM rewrites attempts of problems outside its training: all proposals count."""
    if not corrections:
        return {}
    ratios = sorted(c.edit_ratio for c in corrections)
    return {
        "grm/rewritten": len(corrections),
        "grm/rewrite_right": sum(c.verdict == "right" for c in corrections) / len(corrections),
        "grm/rewrite_success": sum(c.accepted for c in corrections) / len(corrections),
        "grm/edit_ratio/median": ratios[len(ratios) // 2],
    }
