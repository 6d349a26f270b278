"""The doors `warmup` and `sample`: from problems to attempts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlmec.artifacts import Artifact, file_digest
from rlmec.callbacks import Validation
from rlmec.configuration import build
from rlmec.datamodule import SolutionPairDataModule
from rlmec.display import Bar
from rlmec.language.generation import Completion, Decoding
from rlmec.modules.policy import PolicyModule
from rlmec.objectives import weighted_likelihood
from rlmec.records import Attempt, Problem, by_id
from rlmec.rows import reference_rows
from rlmec.stages import models
from rlmec.stages.agreement import logprob_difference
from rlmec.stages.attempting import attempt_parts
from rlmec.stages.chain import Outcome, Run, Stage, model_digest
from rlmec.stages.fitting import best_weights, fit, plan_settings
from rlmec.stages.judging import accuracy_judge, attempt_of
from rlmec.tables import PartFolder
from rlmec.tasks.base import Task
from rlmec.tasks.imports import import_solutions

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
    )


class SampleStage(RoundStage):
    """Attempts at the train problems: sampled from the start, or (in the first round) imported;
    each judged."""

    name = "sample"
    version = 2  # random numbers of their own for each sample

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
        run, s = self.run, self.run.settings.sample
        wanted = {p.id for p in run.task.problems("train")[: s.max_problems]}
        known = by_id([p for split in _splits(run) for p in run.task.problems(split)])
        found = import_solutions(
            str(s.path),
            list(known.values()),
            s.text_field,
            s.label_field,
            s.question_field,
            clean=getattr(run.task, "clean", None),
        )
        attempts, labels, numbers = [], Counter[str](), Counter[str]()
        bar = Bar(self.title, len(found.solutions), "solutions", wanted=True)
        for at, solution in enumerate(found.solutions):
            problem = known[solution.problem_id]
            completion = Completion(model.codec.completion(solution.text), [], False)
            prompt = model.prompts.policy(problem)
            number = numbers[problem.id]
            numbers[problem.id] += 1
            attempt = attempt_of(run.task, model.codec, problem, number, prompt, completion)
            fields = vars(attempt) | {"source": solution.source, "label": solution.label}
            attempt = Attempt(**fields)
            if attempt.label is not None:
                labels["checked"] += 1
                labels["agree"] += attempt.label == attempt.is_right
            if problem.id in wanted:
                attempts.append(attempt)
            bar.update(at)
        bar.close()
        kept, counts = counted(attempts)
        folder = PartFolder(work / "parts", 1)
        folder.missing()
        folder.write(0, {"attempts": (kept, Attempt)}, counts)
        outcome = _finished(work, folder)
        extra: dict[str, Any] = {
            "sample/unknown_rows": found.unknown_rows,
            "sample/labels_checked": labels["checked"],
        }
        if labels["checked"]:
            extra["sample/label_agreement"] = labels["agree"] / labels["checked"]
        return Outcome(outcome.rows, outcome.metrics | extra)


def _splits(run: Run) -> list[str]:
    found = []
    for split in ("train", "dev", "test"):
        try:
            run.task.problems(split)
        except ValueError as error:
            if split == "train":
                raise
            run.say(f"  {error}")
            continue
        found.append(split)
    return found


def without_duplicates(attempts: list[Attempt]) -> list[Attempt]:
    """One attempt of each (problem, ids), the first."""
    first: dict[tuple[str, tuple[int, ...]], Attempt] = {}
    for attempt in attempts:
        first.setdefault((attempt.problem_id, tuple(attempt.completion_ids)), attempt)
    return list(first.values())


def counted(attempts: list[Attempt]) -> tuple[list[Attempt], dict[str, int]]:
    """The attempts without duplicates, and the counts of all of them."""
    kept = without_duplicates(attempts)
    return kept, {
        "attempts": len(attempts),
        "right": sum(a.is_right for a in attempts),
        "clipped": sum(a.clipped for a in attempts),
        "no_answer": sum(a.verdict == "no_answer" for a in attempts),
        "unparsable": sum(a.verdict == "unparsable" for a in attempts),
        "duplicates": len(attempts) - len(kept),
    }


def _finished(work: Path, folder: PartFolder) -> Outcome:
    rows = folder.merge("attempts", Attempt, work / "attempts.parquet")
    counts = folder.counts()
    total = max(counts["attempts"], 1)
    return Outcome(
        rows,
        {
            "sample/accuracy": counts["right"] / total,
            "sample/duplicates": counts["duplicates"],
            "sample/duplicate_rate": counts["duplicates"] / total,
            "sample/clipped_rate": counts["clipped"] / total,
            "sample/no_answer_rate": counts["no_answer"] / total,
            "sample/unparsable": counts["unparsable"],
        },
    )
