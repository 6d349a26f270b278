"""The stage `grm`: the generative reward model, trained on the teacher's corrections.

In: the attempts at taught problems and their accepted corrections. Out: a model directory that also
records its prompts. The GRM learns to rewrite wrong attempts, to copy right ones and to locate the
first wrong line; a share of the problems is held out to validate its rewriting. Without an accepted
correction the model stays as it is, and `grm/untrained` says so.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from rlmec.ablations.labels import labelled_rows
from rlmec.data.datamodule import SolutionPairDataModule
from rlmec.data.grm_rows import grm_rows, merge_by_problem
from rlmec.data.row import Row
from rlmec.evaluation.run_warnings import ALL_RIGHT
from rlmec.method.objectives import weighted_likelihood
from rlmec.pipeline import models
from rlmec.pipeline.chain import Outcome, Settings, Stage
from rlmec.pipeline.fit import best_weights, can_share_prefixes, fit, plan_settings, save_model
from rlmec.pipeline.judges import rewriting_judge
from rlmec.pipeline.sources import ModelSource, RoundStage, is_taught
from rlmec.records import Attempt, Correction, Problem, by_id, hash_share, require_same_tokenizer
from rlmec.settings.binding import build
from rlmec.store.artifacts import Artifact
from rlmec.store.tables import read_table
from rlmec.training.reward_model_module import RewardModelModule
from rlmec.training.validation import Validation


@dataclass(frozen=True)
class Taught:
    """The taught attempts with their corrections, split by problem into training and validation."""

    attempts: list[Attempt]
    corrections: list[Correction]
    val_attempts: list[Attempt]
    val_corrections: list[Correction]


class GrmStage(RoundStage):
    """Trains the GRM on rewriting, copying and locating over the taught problems.

    In a later round it trains the GRM of the previous round further, for `grm.later_steps`.
    """

    name = "grm"
    version = 2  # records the prompts it was trained with

    def __init__(self, source: ModelSource, round: int, variant: str, **parents: Stage) -> None:
        super().__init__(source, round, variant, **parents)
        own = self.run.settings.grm
        if round > 1:
            own = dataclasses.replace(own, steps=own.later_steps, epochs=None)
        self.own = own

    def settings(self) -> Settings:
        found = super().settings()
        if self.round > 1:
            found["grm"] |= {"steps": self.own.steps, "epochs": None, "model": None}
        return found

    def _model(
        self, start: models.LanguageModel, parents: dict[str, Artifact]
    ) -> models.LanguageModel:
        """What is trained: the GRM of the previous round, `grm.model`, or the policy's start."""
        if "grm" in parents:
            return models.of_artifact(parents["grm"], self.run.settings)
        if self.own.model is not None:
            # The attempts may end with tokens that this model's own settings do not name.
            ends = start.codec.end_ids
            return models.LanguageModel(self.own.model, self.run.settings, ends)
        return start

    def build(self, work: Path, parents: dict[str, Artifact]) -> Outcome:
        run = self.run
        settings = self.own
        start = self.source.model(parents)
        model = self._model(start, parents)
        require_same_tokenizer(
            start.codec.digest, model.codec.digest, f"grm.model ({settings.model})"
        )

        taught = self._taught(parents)
        if not taught.corrections:
            return self._untrained(work, model, parents)
        problems = by_id(run.task.problems("train"))
        data = self._data(model, problems, taught)
        network = model.trainable(settings.lora, settings.seed)
        shared = can_share_prefixes(run, self.title, network)
        data.plan_for(run.ranks.world, run.ranks.rank, share_prefixes=shared)
        module = RewardModelModule(
            network,
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
        held_out = [a for a in held_out if self._can_be_rewritten(model, problems, a)]
        held_out = held_out[: settings.val_problems]
        validation = Validation(
            [model.prompts.rewrite(problems[a.problem_id], a.completion_ids) for a in held_out],
            rewriting_judge(
                run.task, model.codec, problems, held_out, run.settings.teach.max_edit_ratio
            ),
            every_steps=settings.val_every_steps,
            max_completion_length=settings.completion_length,
            prefix="grm",
            monitor="rewrite_success",
            best=best_weights(work) if held_out else None,
            drafts=[a.completion_ids for a in held_out],
        )

        history = fit(run, self.title, settings, work, module, data, validation)
        save_model(run, self.name, module, model.tokenizer, model.codec, work)
        last = {k: v for k, v in history[-1].items() if k != "step"}
        counts = {
            "grm/rows": len(data.rows),
            "grm/tokens": sum(len(row.input_ids) for row in data.rows),
            "grm/dropped_too_long": data.dropped["longer_than_max_length"],
            "grm/held_out": len(held_out),
        }
        return Outcome(int(history[-1]["step"]), last | counts | {"history": history})

    def _untrained(
        self, work: Path, model: models.LanguageModel, parents: dict[str, Artifact]
    ) -> Outcome:
        """The model as it is, where nothing was corrected in this round.

        Its rewards mean something only if it is the GRM of an earlier round that was trained.
        """
        network = model.trainable(self.own.lora, self.own.seed)
        codec = model.codec
        module = RewardModelModule(network, pad_id=codec.pad_id, end_ids=codec.end_ids)
        save_model(self.run, self.name, module, model.tokenizer, codec, work)

        before = parents["grm"].metrics.get("grm/untrained", 0) if "grm" in parents else 1
        return Outcome(0, {"grm/untrained": before, "history": []})

    def _can_be_rewritten(
        self, model: models.LanguageModel, problems: dict[str, Problem], attempt: Attempt
    ) -> bool:
        """Whether the rewriting prompt and the longest rewrite fit the model's context."""
        limit = model.context
        length = self.own.completion_length
        prompt = model.prompts.rewrite(problems[attempt.problem_id], attempt.completion_ids)
        return limit is None or len(prompt) + max(length, len(attempt.completion_ids)) <= limit

    def _taught(self, parents: dict[str, Artifact]) -> Taught:
        settings = self.own
        attempts = read_table(parents["sample"].file("attempts.parquet"), Attempt)
        corrections = read_table(parents["teach"].file("corrections.parquet"), Correction)
        attempts = [a for a in attempts if is_taught(self.run.settings.teach, a.problem_id)]
        accepted = [c for c in corrections if c.accepted]
        if corrections and not accepted and self.round == 1 and not _nearly_all_right(parents):
            raise ValueError(
                f"none of {len(corrections)} corrections was accepted: nothing to train a GRM on; "
                f"look at teach/... in summary.json and at teach.max_edit_ratio"
            )

        def in_val_share(record: Attempt | Correction) -> bool:
            return hash_share(settings.seed, "grm", record.problem_id) < settings.val_share

        # Of very few corrections all might be held out. None is then.
        holds_out = not all(in_val_share(c) for c in accepted)

        def is_val(record: Attempt | Correction) -> bool:
            return holds_out and in_val_share(record)

        return Taught(
            [a for a in attempts if not is_val(a)],
            [c for c in accepted if not is_val(c)],
            [a for a in attempts if is_val(a)],
            [c for c in accepted if is_val(c)],
        )

    def _data(
        self, model: models.LanguageModel, problems: dict[str, Problem], taught: Taught
    ) -> SolutionPairDataModule:
        settings = self.own

        def rows_of(
            attempts: list[Attempt], corrections: list[Correction], label_weight: float = 0.0
        ):
            def made(data: SolutionPairDataModule) -> list[Row]:
                prompts, known, mix = data.prompts, data.problems, settings.mixture
                found = grm_rows(
                    prompts,
                    known,
                    attempts,
                    corrections,
                    copy=mix.copy,
                    locate=mix.locate,
                    seed=settings.seed,
                )
                if label_weight:
                    found = labelled_rows(found, prompts, known, label_weight)
                limit = min(data.max_length, data.max_tokens or data.max_length)
                return merge_by_problem(found, settings.rows_together, limit)

            return made

        return SolutionPairDataModule(
            model.prompts,
            list(problems.values()),
            rows_of(taught.attempts, taught.corrections, settings.label_weight),
            plan_settings(settings, self.run.settings.trainer, model.context),
            val_rows=rows_of(taught.val_attempts, taught.val_corrections),
            attempts=taught.attempts,
            corrections=taught.corrections,
        )


def _nearly_all_right(parents: dict[str, Artifact]) -> bool:
    """Whether so few attempts are wrong that their corrections may well all be rejected."""
    return parents["sample"].metrics["sample/accuracy"] >= ALL_RIGHT
