"""The doors `grm` and `score`: the generative reward model, and its view of every attempt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rlmec.alignment import edit_ratio
from rlmec.artifacts import Artifact
from rlmec.batching import Row
from rlmec.callbacks import Validation
from rlmec.configuration import build
from rlmec.credit import copied_share
from rlmec.datamodule import SolutionPairDataModule
from rlmec.modules.policy import PolicyModule
from rlmec.modules.reward_model import GrmOutput, RewardModelModule
from rlmec.objectives import weighted_likelihood
from rlmec.parts import Draft, ScoringPart, cut
from rlmec.records import Attempt, Correction, Problem, Score, by_id, require_same_tokenizer
from rlmec.rows import grm_rows, hash_share, rewriting_row
from rlmec.stages import models
from rlmec.stages.chain import Outcome, Stage, model_digest
from rlmec.stages.fitting import best_weights, fit, plan_settings
from rlmec.stages.judging import correction_of, rewriting_judge
from rlmec.stages.predicting import predict_parts
from rlmec.stages.sampling import (
    SampleStage,
    TeachStage,
    correction_metrics,
    is_taught,
    start_model,
    start_of,
)
from rlmec.tables import PartFolder, read_table, write_table

__all__ = ["GrmStage", "ScoreStage"]


@dataclass(frozen=True)
class Taught:
    """The taught share of the attempts, cut by problem into the GRM's training and validation."""

    attempts: list[Attempt]
    corrections: list[Correction]
    val_attempts: list[Attempt]
    val_corrections: list[Correction]


class GrmStage(Stage):
    """Trains the GRM on rewriting, copying and locating over the taught problems."""

    name = "grm"

    def parents(self) -> dict[str, Stage]:
        run = self.run
        return start_of(run)[0] | {"sample": SampleStage(run), "teach": TeachStage(run)}

    def inputs(self) -> dict[str, str]:
        path = self.run.settings.grm.model
        return start_of(self.run)[1] | ({} if path is None else {"grm": model_digest(path, None)})

    def build(self, work: Path, parents: dict[str, Artifact]) -> Outcome:
        run, settings = self.run, self.run.settings.grm
        start = start_model(run, parents)
        model = (
            start if settings.model is None else models.LanguageModel(settings.model, run.settings)
        )
        require_same_tokenizer(
            start.codec.digest, model.codec.digest, f"grm.model ({settings.model})"
        )
        taught = self._taught(parents)
        problems = by_id(run.task.problems("train"))
        data = self._data(model, problems, taught)
        data.plan_for(run.ranks.world, run.ranks.rank)
        module = RewardModelModule(
            model.network(),
            pad_id=model.codec.pad_id,
            end_ids=model.codec.end_ids,
            objective=weighted_likelihood,
            optimizer=build(settings.optimizer),
            scheduler=build(settings.scheduler),
            steps=data.plan.steps,
            warmup_share=settings.warmup_share,
        )
        wrong = by_id([a for a in taught.val_attempts if not a.is_right])
        held_out = [wrong[c.attempt_id] for c in taught.val_corrections]
        held_out = held_out[: settings.val_problems]
        validation = Validation(
            [model.prompts.rewrite(problems[a.problem_id], a.completion_ids) for a in held_out],
            rewriting_judge(
                run.task, model.codec, problems, held_out, run.settings.teach.max_edit_ratio
            ),
            every_steps=settings.val_every_steps,
            max_completion_length=settings.max_completion_length,
            prefix="grm",
            monitor="rewrite_success",
            best=best_weights(work) if held_out else None,
            drafts=[a.completion_ids for a in held_out],
        )
        history = fit(run, self.title, settings, work, module, data, validation)
        run.ranks.share(lambda: models.save(module.network, model.tokenizer, work / "model"))
        last = {k: v for k, v in history[-1].items() if k != "step"}
        counts = {
            "grm/rows": len(data.rows),
            "grm/dropped_too_long": data.dropped["longer_than_max_length"],
            "grm/held_out": len(held_out),
        }
        return Outcome(int(history[-1]["step"]), last | counts | {"history": history})

    def _taught(self, parents: dict[str, Artifact]) -> Taught:
        run, settings = self.run, self.run.settings.grm
        attempts = read_table(parents["sample"].file("attempts.parquet"), Attempt)
        corrections = read_table(parents["teach"].file("corrections.parquet"), Correction)
        attempts = [a for a in attempts if is_taught(run, a.problem_id)]
        accepted = [c for c in corrections if c.accepted]
        if not accepted:
            raise ValueError(
                f"none of {len(corrections)} corrections was accepted: nothing to train a GRM on; "
                f"look at teach/... in summary.json and at teach.max_edit_ratio"
            )

        def is_val(record: Attempt | Correction) -> bool:
            return hash_share(settings.seed, "grm", record.problem_id) < settings.val_share

        return Taught(
            [a for a in attempts if not is_val(a)],
            [c for c in accepted if not is_val(c)],
            [a for a in attempts if is_val(a)],
            [c for c in accepted if is_val(c)],
        )

    def _data(
        self, model: models.LanguageModel, problems: dict[str, Problem], taught: Taught
    ) -> SolutionPairDataModule:
        settings = self.run.settings.grm

        def rows_of(attempts: list[Attempt], corrections: list[Correction], mix: Any):
            return lambda data: grm_rows(
                data.prompts,
                data.problems,
                attempts,
                corrections,
                copy=mix.copy,
                locate=mix.locate,
                seed=settings.seed,
            )

        mixture = settings.mixture
        return SolutionPairDataModule(
            model.prompts,
            list(problems.values()),
            rows_of(taught.attempts, taught.corrections, mixture),
            plan_settings(settings, self.run.settings.trainer),
            val_rows=rows_of(taught.val_attempts, taught.val_corrections, mixture),
            attempts=taught.attempts,
            corrections=taught.corrections,
        )


class ScoreStage(Stage):
    """Raw log-probs of every attempt under the GRM and the old policy, and the GRM's own
    corrections of the wrong attempts that have none from the teacher."""

    name = "score"
    version = 2  # wrong attempts are scored by the passes that rewrite them

    def parents(self) -> dict[str, Stage]:
        run = self.run
        own = {"sample": SampleStage(run), "teach": TeachStage(run), "grm": GrmStage(run)}
        return start_of(run)[0] | own

    def inputs(self) -> dict[str, str]:
        return start_of(self.run)[1]

    def build(self, work: Path, parents: dict[str, Artifact]) -> Outcome:
        run, s = self.run, self.run.settings.score
        start = start_model(run, parents)
        grm = models.of_artifact(parents["grm"], run.settings)
        problems = by_id(run.task.problems("train"))
        attempts = read_table(parents["sample"].file("attempts.parquet"), Attempt)
        taught = read_table(parents["teach"].file("corrections.parquet"), Correction)
        corrected = {c.attempt_id for c in taught if c.accepted}
        groups = [[attempts[i] for i in which] for which in cut(len(attempts), s.part_size)]

        old = PartFolder(work / "parts" / "old", len(groups))
        view = PartFolder(work / "parts" / "grm", len(groups))
        self._pass(start, old, groups, self._old_part, self._old_finish(start))
        rewriting = partial(self._grm_part, grm, problems, corrected)
        self._pass(grm, view, groups, rewriting, self._grm_finish(grm, problems, groups, corrected))
        return run.ranks.share(lambda: self._join(work, old, view, problems, attempts, start.codec))

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
        corrected: set[str],
        index: int,
        group: list[Attempt],
    ) -> ScoringPart:
        """Attempts that the GRM must correct are drafts; the others are scored alone."""
        rows, drafts = [], []
        for a in group:
            problem, ids = problems[a.problem_id], a.completion_ids
            if self._is_draft(a, corrected):
                drafts.append(Draft(grm.prompts.rewrite(problem, ids), ids))
            else:
                rows.append(rewriting_row(grm.prompts, problem, ids, ids, a.id))
        return ScoringPart(index, rows, drafts, self.run.settings.score.max_completion_length)

    def _is_draft(self, attempt: Attempt, corrected: set[str]) -> bool:
        wrong = not attempt.is_right and attempt.verdict != "unparsable"
        return self.run.settings.score.rewrite and wrong and attempt.id not in corrected

    def _grm_finish(
        self,
        grm: models.LanguageModel,
        problems: dict[str, Problem],
        groups: Sequence[list[Attempt]],
        corrected: set[str],
    ):
        run, s, codec = self.run, self.run.settings.score, grm.codec

        def finish(part: ScoringPart, output: GrmOutput):
            alone, rewritten = iter(output.logprobs), iter(output.rewrites)
            scores, corrections = [], []
            for a in groups[part.index]:
                if not self._is_draft(a, corrected):
                    values = next(alone)
                else:
                    problem, made = problems[a.problem_id], next(rewritten)
                    values = made.draft_logprobs
                    proposal = correction_of(
                        run.task, codec, problem, a, made.completion, s.max_edit_ratio
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
        attempts: Sequence[Attempt],
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
        if (copied := copied_share(attempts, scores)) is not None:
            metrics["grm/copied_share"] = copied
        return Outcome(
            len(scores), metrics | self._copying_rival(unseen, attempts, problems, codec)
        )

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
