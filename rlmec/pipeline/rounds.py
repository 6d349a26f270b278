"""What a round of the chain starts from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlmec.data.datamodule import SolutionPairDataModule
from rlmec.data.policy_rows import reference_rows
from rlmec.method.objectives import weighted_likelihood
from rlmec.pipeline import models
from rlmec.pipeline.chain import (
    Outcome,
    Run,
    Stage,
    model_digest,
)
from rlmec.pipeline.fit import best_weights, fit, plan_settings
from rlmec.pipeline.judges import accuracy_judge
from rlmec.records import Problem
from rlmec.settings.build import build
from rlmec.store.artifacts import Artifact
from rlmec.tasks.base import Task
from rlmec.training.policy_module import PolicyModule
from rlmec.training.validation import Validation


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
