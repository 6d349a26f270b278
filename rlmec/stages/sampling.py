"""The doors `warmup` and `sample`: from problems to attempts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlmec.artifacts import Artifact, file_digest
from rlmec.callbacks import Validation
from rlmec.configuration import build
from rlmec.datamodule import SolutionPairDataModule
from rlmec.language.generation import Decoding
from rlmec.modules.policy import PolicyModule
from rlmec.objectives import weighted_likelihood
from rlmec.records import Attempt, Problem
from rlmec.rows import reference_rows
from rlmec.stages import models
from rlmec.stages.agreement import logprob_difference
from rlmec.stages.attempting import attempt_parts
from rlmec.stages.chain import Outcome, Run, Stage, model_digest
from rlmec.stages.fitting import best_weights, fit, plan_settings
from rlmec.stages.importing import counts_of, import_parts
from rlmec.stages.judging import accuracy_judge
from rlmec.tables import PartFolder
from rlmec.tasks.base import Task

__all__ = ["RoundStage", "SampleStage", "Start", "WarmupStage", "start_model", "start_of"]


def start_of(run: Run) -> tuple[dict[str, Stage], dict[str, str]]:
    """The start of the policy as (parents, inputs): the warm-up, or a finished model."""
    model = run.settings.model
    if model.path is None:
        return {"warmup": WarmupStage(run)}, {}
    return {}, {"model": model_digest(model.path, model.revision)}


def start_model(run: Run, parents: dict[str, Artifact]) -> models.LanguageModel:
    """The start's model, from the warm-up's artifact or the model's own place."""
    if "warmup" in parents:
        return models.of_artifact(parents["warmup"], run.settings)
    return models.LanguageModel(str(run.settings.model.path), run.settings)


@dataclass(frozen=True)
class Start:
    """What a round of the chain starts from: the first from the start of the policy, a later one
    from the `policy` that the round before has trained."""

    run: Run
    policy: RoundStage | None = None

    @property
    def round(self) -> int:
        return 1 if self.policy is None else self.policy.round + 1

    @property
    def variant(self) -> str:
        return "" if self.policy is None else self.policy.variant

    def until_here(self) -> list[Start]:
        """The starts of all rounds up to this one."""
        before = [] if self.policy is None else self.policy.start.until_here()
        return [*before, self]

    def parents(self) -> dict[str, Stage]:
        return start_of(self.run)[0] if self.policy is None else {"policy": self.policy}

    def inputs(self) -> dict[str, str]:
        return start_of(self.run)[1] if self.policy is None else {}

    def model(self, parents: dict[str, Artifact]) -> models.LanguageModel:
        if self.policy is None:
            return start_model(self.run, parents)
        return models.of_artifact(parents["policy"], self.run.settings)


class RoundStage(Stage):
    """A stage that every round of the chain has; `start` says which round (default: the first)."""

    def __init__(self, run: Run, start: Start | None = None, variant: str | None = None) -> None:
        self.start = start or Start(run)
        super().__init__(run, self.start.variant if variant is None else variant)
        self.round = self.start.round

    def parents(self) -> dict[str, Stage]:
        return self.start.parents()

    def inputs(self) -> dict[str, str]:
        return self.start.inputs()


def dev_problems(run: Run, count: int) -> list[Problem]:
    return run.task.problems("dev")[:count] if count else []


def warmup_task(run: Run) -> Task:
    """The task of the warm-up: the run's, with the changes in `warmup.task`."""
    changes = run.settings.warmup.task
    return run.task if not changes else build(run.settings.task | changes)


class WarmupStage(Stage):
    """Plain likelihood on reference solutions, from random weights to a first policy."""

    name = "warmup"

    def inputs(self) -> dict[str, str]:
        path = self.run.settings.model.tokenizer
        return {} if path is None else {"tokenizer": model_digest(path, None)}

    def build(self, work: Path, parents: dict[str, Artifact]) -> Outcome:
        run, settings = self.run, self.run.settings.warmup
        task = warmup_task(run)
        problems = task.problems("train")
        tokenizer = models.fresh_tokenizer(run.settings, problems)
        prompts = models.Prompts(models.templates(run.settings), models.codec(tokenizer))
        network = models.fresh_network(run.settings, tokenizer)
        plan = plan_settings(settings, run.settings.trainer, models.context_length(network))
        data = SolutionPairDataModule(prompts, problems, reference_rows, plan)
        data.plan_for(run.ranks.world, run.ranks.rank)
        module = policy_module(run, network, prompts.codec, settings, data, weighted_likelihood)
        dev = task.problems("dev")[: settings.val_problems] if settings.val_problems else []
        asked, length = [prompts.policy(p) for p in dev], run.settings.sample.max_completion_length
        models.fitting_prompts(network, asked, length, self.title)
        validation = Validation(
            asked,
            accuracy_judge(task, prompts.codec, dev),
            every_steps=settings.val_every_steps,
            max_completion_length=length,
            best=best_weights(work),
            target=settings.target_accuracy,
        )
        history = fit(run, self.title, settings, work, module, data, validation)
        run.ranks.share(lambda: models.save(module, tokenizer, work / "model"))
        best = max(history, key=lambda h: h.get("dev/accuracy", 0.0))
        return Outcome(
            int(history[-1]["step"]),
            {"dev/accuracy": best.get("dev/accuracy"), "history": history},
        )


def policy_module(
    run: Run,
    network: Any,
    codec: models.Codec,
    settings: Any,
    data: SolutionPairDataModule,
    objective: Callable[..., Any],
    ratio_tolerance: float | None = None,
    schedule: tuple[int, int] = (1, 1),
) -> PolicyModule:
    return PolicyModule(
        network,
        pad_id=codec.pad_id,
        end_ids=codec.end_ids,
        objective=objective,
        optimizer=build(settings.optimizer),
        scheduler=build(settings.scheduler),
        steps=data.plan.steps,
        warmup_share=settings.warmup_share,
        ratio_tolerance=ratio_tolerance,
        schedule=schedule,
    )


class SampleStage(RoundStage):
    """Attempts at the train problems: sampled from the start, or (in the first round) imported;
    each judged."""

    name = "sample"

    @property
    def version(self) -> int:
        """3: imported by parts; 2: sampled with random numbers of their own for each sample."""
        return 2 if self.imported is None else 3

    @property
    def imported(self) -> str | None:
        """The file of ready-made solutions that takes the place of sampling."""
        return self.run.settings.sample.path if self.round == 1 else None

    def inputs(self) -> dict[str, str]:
        own = {} if self.imported is None else {"sample.path": file_digest(self.imported)}
        return super().inputs() | own

    def build(self, work: Path, parents: dict[str, Artifact]) -> Outcome:
        model = self.start.model(parents)
        if self.imported is not None:
            return self.run.ranks.share(lambda: self._import(work, model))
        return self._sample(work, model)

    def _sample(self, work: Path, model: models.LanguageModel) -> Outcome:
        run, s = self.run, self.run.settings.sample
        problems = run.task.problems("train")[: s.max_problems]
        decoding = Decoding(s.max_completion_length, s.temperature, s.top_p, s.num_generations)
        folder = attempt_parts(self, work, model, problems, decoding, s, counted)
        outcome = run.ranks.share(lambda: _finished(work, folder))
        found = logprob_difference(self, work, model)
        return Outcome(outcome.rows, outcome.metrics | found)

    def _import(self, work: Path, model: models.LanguageModel) -> Outcome:
        folder, found = import_parts(self.run, self.title, work, model)
        same = ("problem_id", "completion_ids")
        outcome = _finished(work, folder, unique=same)
        counts = folder.counts()
        extra: dict[str, Any] = {
            "sample/unknown_rows": found.unknown_rows,
            "sample/labels_checked": counts["labels_checked"],
        }
        if counts["labels_checked"]:
            extra["sample/label_agreement"] = counts["labels_agree"] / counts["labels_checked"]
        return Outcome(outcome.rows, outcome.metrics | extra)


def without_duplicates(attempts: list[Attempt]) -> list[Attempt]:
    """One attempt of each (problem, ids), the first."""
    first: dict[tuple[str, tuple[int, ...]], Attempt] = {}
    for attempt in attempts:
        first.setdefault((attempt.problem_id, tuple(attempt.completion_ids)), attempt)
    return list(first.values())


def counted(attempts: list[Attempt]) -> tuple[list[Attempt], dict[str, int]]:
    """The attempts without duplicates, and the counts of all of them."""
    return without_duplicates(attempts), counts_of(attempts)


def _finished(work: Path, folder: PartFolder, unique: Sequence[str] = ()) -> Outcome:
    """Merges the parts; rows that are equal in the columns `unique` are duplicates, as are those
    that a part has left out."""
    rows = folder.merge("attempts", Attempt, work / "attempts.parquet", unique)
    counts = folder.counts()
    total, duplicates = max(counts["attempts"], 1), counts["attempts"] - rows
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
