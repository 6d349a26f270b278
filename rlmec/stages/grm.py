"""The stage `grm`: the generative reward model, trained on the teacher's corrections.

In: the attempts at taught problems and their accepted corrections. Out: a model directory that also
records its prompts. The GRM learns to rewrite wrong attempts, to copy right ones and to locate the
first wrong line; a share of the problems is held out to validate its rewriting. Without an accepted
correction the model stays as it is, and `grm/untrained` says so.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from rlmec.ablations.labels import labelled_rows
from rlmec.data.datamodule import SolutionPairDataModule
from rlmec.data.grm_rows import GrmRow, grm_rows, merge_by_problem
from rlmec.data.pairs import fields_of
from rlmec.data.row import Row
from rlmec.evaluation.run_warnings import ALL_RIGHT
from rlmec.method.objectives import weighted_likelihood
from rlmec.pipeline import models
from rlmec.pipeline.chain import ROWS, Outcome, Settings, Stage
from rlmec.pipeline.fit import (
    best_weights,
    can_share_prefixes,
    fit,
    kept_validation,
    plan_settings,
    save_model,
)
from rlmec.pipeline.judges import rewriting_judge
from rlmec.pipeline.sources import ModelSource, RoundStage, is_taught
from rlmec.records import (
    Attempt,
    Correction,
    Problem,
    by_id,
    hash_share,
    is_right,
    require_same_tokenizer,
)
from rlmec.settings.binding import build
from rlmec.store.artifacts import Artifact
from rlmec.store.tables import TableRecords
from rlmec.training.reward_model_module import RewardModelModule
from rlmec.training.validation import Validation

R = TypeVar("R")


@dataclass(frozen=True)
class Taught:
    """The taught attempts with their corrections, split by problem into training and validation."""

    attempts: Sequence[Attempt]
    corrections: Sequence[Correction]
    val_attempts: Sequence[Attempt]
    val_corrections: Sequence[Correction]


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

        taught = self.taught(parents)
        if not taught.corrections:
            return self._untrained(work, model, parents)
        problems = by_id(run.task.problems("train"))
        data = self.data(model, problems, taught, work)
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

        held_out = self._held_out(model, problems, taught)
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
        counts = {
            "grm/rows": len(data.rows),
            "grm/tokens": int(data.rows.lengths.sum()),
            "grm/dropped_too_long": data.dropped["longer_than_max_length"],
            "grm/held_out": len(held_out),
        }
        figures = kept_figures(history) | counts | {"history": history}
        return Outcome(int(history[-1]["step"]), figures)

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

    def _held_out(
        self, model: models.LanguageModel, problems: dict[str, Problem], taught: Taught
    ) -> list[Attempt]:
        """The wrong attempts whose rewriting validates the GRM."""
        facts = enumerate(fields_of(taught.val_attempts, "id", "verdict", "clipped"))
        numbers = {id_: n for n, (id_, *verdict) in facts if not is_right(*verdict)}
        found: list[Attempt] = []
        for correction in taught.val_corrections:
            if len(found) == self.own.val_problems:
                break
            attempt = taught.val_attempts[numbers[correction.attempt_id]]
            if self._can_be_rewritten(model, problems, attempt):
                found.append(attempt)
        return found

    def taught(self, parents: dict[str, Artifact]) -> Taught:
        """The attempts and corrections that the stage trains on and validates with."""
        settings = self.own
        attempts = TableRecords([parents["sample"].file("attempts.parquet")], Attempt)
        proposed = TableRecords([parents["teach"].file("corrections.parquet")], Correction)
        reasons = enumerate(proposed.columns("reason"))
        accepted = proposed.chosen([n for n, (reason,) in reasons if reason == "accepted"])
        if proposed and not accepted and self.round == 1 and not _nearly_all_right(parents):
            raise ValueError(
                f"none of {len(proposed)} corrections was accepted: nothing to train a GRM on; "
                f"look at teach/... in summary.json and at teach.max_edit_ratio"
            )

        @functools.cache
        def in_val_share(problem_id: str) -> bool:
            return hash_share(settings.seed, "grm", problem_id) < settings.val_share

        @functools.cache
        def in_training(problem_id: str) -> bool:
            return is_taught(self.run.settings.teach, problem_id)

        tried = attempts.chosen(
            [
                n
                for n, (problem,) in enumerate(attempts.columns("problem_id"))
                if in_training(problem)
            ]
        )
        # Of very few corrections all might be held out. None is then.
        holds_out = not all(in_val_share(problem) for (problem,) in accepted.columns("problem_id"))

        def parted(records: TableRecords[R]) -> tuple[TableRecords[R], TableRecords[R]]:
            """The records of training, and those of validation."""
            found = [holds_out and in_val_share(p) for (p,) in records.columns("problem_id")]
            is_val = np.asarray(found, dtype=bool)  # [records]
            numbers = np.flatnonzero(~is_val), np.flatnonzero(is_val)
            return records.chosen(numbers[0]), records.chosen(numbers[1])

        train_attempts, val_attempts = parted(tried)
        train_corrections, val_corrections = parted(accepted)
        return Taught(train_attempts, train_corrections, val_attempts, val_corrections)

    def data(
        self,
        model: models.LanguageModel,
        problems: dict[str, Problem],
        taught: Taught,
        work: Path | None = None,
    ) -> SolutionPairDataModule:
        """The DataModule of the training; its rows are kept in a temporary file in `work`."""
        settings = self.own

        def rows_of(
            attempts: Sequence[Attempt],
            corrections: Sequence[Correction],
            label_weight: float = 0.0,
        ):
            def made(data: SolutionPairDataModule) -> Iterable[Row]:
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
                return _mixture(data, found, settings.rows_together, limit)

            return made

        return SolutionPairDataModule(
            model.prompts,
            list(problems.values()),
            rows_of(taught.attempts, taught.corrections, settings.label_weight),
            plan_settings(settings, self.run.settings.trainer, model.context),
            val_rows=rows_of(taught.val_attempts, taught.val_corrections),
            attempts=taught.attempts,
            corrections=taught.corrections,
            scratch=work and work / ROWS,
        )


def _mixture(
    data: SolutionPairDataModule, found: Iterable[GrmRow], rows_together: int, limit: int
) -> Iterable[Row]:
    """The rows in the order of the mixture; up to `rows_together` of a problem in one."""
    places = array("i")
    names: list[str] = []  # the problem of each row

    def noted() -> Iterator[Row]:
        for item in found:
            places.append(item.place)
            names.append(sys.intern(item.attempt.problem_id))
            yield item.row

    filed = data.filed(noted())
    order = np.argsort(np.asarray(places))  # [rows]
    rows = filed.chosen(order)
    if rows_together < 2:
        return rows
    return merge_by_problem(rows, [names[i] for i in order.tolist()], rows_together, limit)


def _nearly_all_right(parents: dict[str, Artifact]) -> bool:
    """Whether so few attempts are wrong that their corrections may well all be rejected."""
    return parents["sample"].metrics["sample/accuracy"] >= ALL_RIGHT


def kept_figures(history: list[dict[str, float]]) -> dict[str, float]:
    """The figures of the validation whose weights are kept, and its step.

    It is the last validation if nothing was rewritten.
    """
    kept = kept_validation(history, "grm/rewrite_success") or history[-1]
    figures = {name: value for name, value in kept.items() if name != "step"}
    return figures | {"grm/best_step": kept["step"]}
