"""The stage `warmup`: supervised fine-tuning on reference solutions.

In: the task's train problems, and the finished model `model.path` if there is one. Out: a model
directory, the policy's start. A run from a finished model has this stage with `warmup=always`; the
model is then trained in full or, with `model.lora`, by an adapter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlmec.data.datamodule import SolutionPairDataModule
from rlmec.data.policy_rows import reference_rows
from rlmec.lm.tokenizers import codec
from rlmec.method.objectives import weighted_likelihood
from rlmec.pipeline import models
from rlmec.pipeline.chain import ROWS, Outcome, Run, Settings, Stage
from rlmec.pipeline.fit import (
    best_weights,
    fit,
    kept_validation,
    new_policy_module,
    plan_settings,
    save_model,
)
from rlmec.pipeline.judges import accuracy_judge
from rlmec.records import Problem
from rlmec.settings.binding import build
from rlmec.settings.schema import as_plain
from rlmec.store.artifacts import Artifact
from rlmec.tasks.base import Task
from rlmec.training.validation import Validation


def warmup_task(run: Run) -> Task:
    """The task of the warm-up: the run's, with the changes in `warmup.task`."""
    changes = run.settings.warmup.task
    return build(run.settings.task | changes) if changes else run.task


class WarmupStage(Stage):
    """Maximises the plain likelihood of reference solutions.

    It stops early at `warmup.target_accuracy`, or when the accuracy on dev problems has not risen
    for `warmup.patience` validations.
    """

    name = "warmup"

    def settings(self) -> Settings:
        model = self.run.settings.model
        # Validation chooses the weights by completions of this length.
        length = self.run.settings.sample.completion_length
        found = super().settings() | {"max_completion_length": length}
        if model.path is not None and model.lora is not None:
            found["model.lora"] = as_plain(model.lora)
        return found

    def _start(self, problems: list[Problem]) -> tuple[Any, models.Prompts, Any]:
        """The tokenizer, the prompts and the network to train: of the finished model, or new."""
        settings = self.run.settings
        if settings.model.path is not None:
            model = models.LanguageModel(settings.model.path, settings)
            network = model.trainable(settings.model.lora, settings.warmup.seed)
            return model.tokenizer, model.prompts, network

        # The tokenizer is trained on the problems (or given), the network is new.
        tokenizer = models.fresh_tokenizer(settings, problems)
        own = codec(tokenizer, turns=settings.prompt.chat)
        prompts = models.Prompts(models.templates(settings), own)
        return tokenizer, prompts, models.fresh_network(settings, tokenizer)

    def build(self, work: Path, parents: dict[str, Artifact]) -> Outcome:
        run = self.run
        settings = run.settings.warmup
        task = warmup_task(run)
        problems = task.problems("train")

        tokenizer, prompts, network = self._start(problems)
        learned = problems[: settings.max_problems]

        plan = plan_settings(settings, run.settings.trainer, models.context_length(network))
        scratch = work / ROWS
        data = SolutionPairDataModule(prompts, learned, reference_rows, plan, scratch=scratch)
        data.plan_for(run.ranks.world, run.ranks.rank)
        module = new_policy_module(network, prompts.codec, settings, data, weighted_likelihood)

        dev = task.problems("dev")[: settings.val_problems] if settings.val_problems else []
        asked = [prompts.policy(problem) for problem in dev]
        length = run.settings.sample.completion_length
        models.fitting_prompts(network, asked, length, self.title)
        validation = Validation(
            asked,
            accuracy_judge(task, prompts.codec, dev),
            every_steps=settings.val_every_steps,
            max_completion_length=length,
            best=best_weights(work),
            target=settings.target_accuracy,
            patience=settings.patience,
        )

        history = fit(run, self.title, settings, work, module, data, validation)
        save_model(run, self.name, module, tokenizer, prompts.codec, work)
        best = kept_validation(history, "dev/accuracy") or {}
        return Outcome(
            int(history[-1]["step"]),
            {"dev/accuracy": best.get("dev/accuracy"), "history": history},
        )
