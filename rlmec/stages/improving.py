"""The doors `policy` and `evaluate`: training from the joined pairs, and the judging of models."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from rlmec.artifacts import Artifact
from rlmec.callbacks import Validation
from rlmec.configuration import build, stage_settings
from rlmec.datamodule import SolutionPairDataModule
from rlmec.evaluation import by_kind, refuse_overlap, report
from rlmec.language.generation import Decoding
from rlmec.records import Attempt, Correction, Problem, Score
from rlmec.settings import EvaluateSettings, PolicySettings, as_plain
from rlmec.stages import models
from rlmec.stages.attempting import attempt_parts
from rlmec.stages.chain import Outcome, Run, Settings, Stage, model_digest
from rlmec.stages.fitting import best_weights, fit, plan_settings, share_prefixes
from rlmec.stages.judging import accuracy_judge
from rlmec.stages.rewarding import ScoreStage
from rlmec.stages.sampling import (
    SampleStage,
    TeachStage,
    dev_problems,
    policy_module,
    start_model,
    start_of,
)
from rlmec.tables import PartFolder, read_table

__all__ = ["EvaluateStage", "JudgedModel", "PolicyStage", "joined_data"]


class PolicyStage(Stage):
    """Trains the policy; `node` is the policy node, changed for a variant of a comparison."""

    name = "policy"
    version = 2  # one row a pair

    def __init__(self, run: Run, variant: str = "", node: PolicySettings | None = None) -> None:
        super().__init__(run, variant)
        self.node = node or run.settings.policy

    def settings(self) -> Settings:
        return stage_settings(self.run.settings, self.name) | {"policy": as_plain(self.node)}

    def parents(self) -> dict[str, Stage]:
        run = self.run
        own = {"sample": SampleStage(run), "teach": TeachStage(run), "score": ScoreStage(run)}
        return start_of(run)[0] | own

    def inputs(self) -> dict[str, str]:
        return start_of(self.run)[1]

    def build(self, work: Path, parents: dict[str, Artifact]) -> Outcome:
        run, node = self.run, self.node
        if node.precision != run.settings.score.precision:
            raise ValueError(
                f"policy.precision is {node.precision}, but the scores were made at "
                f"{run.settings.score.precision} (score.precision)"
            )
        model = start_model(run, parents)
        data = joined_data(run, model, node, parents)
        network = model.network()
        share_prefixes(run, self.title, network, data)
        data.plan_for(run.ranks.world, run.ranks.rank)
        module = policy_module(
            run,
            network,
            model.codec,
            node,
            data,
            build(node.objective),
            ratio_tolerance=_tolerance(node),
        )
        dev = dev_problems(run, node.val_problems)
        validation = Validation(
            [model.prompts.policy(p) for p in dev],
            accuracy_judge(run.task, model.codec, dev),
            every_steps=node.val_every_steps,
            max_completion_length=node.max_completion_length,
            best=best_weights(work) if dev else None,
        )
        history = fit(run, self.title, node, work, module, data, validation)
        run.ranks.share(lambda: models.save(module.network, model.tokenizer, work / "model"))
        return Outcome(int(history[-1]["step"]), self._metrics(data, history))

    def _metrics(self, data: SolutionPairDataModule, history: list[dict[str, float]]) -> Settings:
        scored = [h for h in history if h["step"] and "dev/accuracy" in h]
        best = max(scored, key=lambda h: h["dev/accuracy"], default={})
        signs = Counter()
        for row in data.rows:
            signs["positive"] += int((row.token_rewards > 0).sum())
            signs["negative"] += int((row.token_rewards < 0).sum())
        return {
            "dev/accuracy": best.get("dev/accuracy"),
            "dev/best_step": best.get("step"),
            "policy/rows": len(data.rows),
            "policy/rewards/positive": signs["positive"],
            "policy/rewards/negative": signs["negative"],
            "policy/rewards/zero": sum(int((p.token_rewards == 0).sum()) for p in data.pairs),
            **{f"policy/dropped/{why}": n for why, n in sorted(data.dropped.items()) if n},
            "policy/padding_share": data.plan.padding_share(),
            "history": history,
        }


def joined_data(
    run: Run, model: models.LanguageModel, node: PolicySettings, parents: dict[str, Artifact]
) -> SolutionPairDataModule:
    """The pairs of a policy training, from the artifacts it reads."""
    attempts = read_table(parents["sample"].file("attempts.parquet"), Attempt)
    tried = {attempt.problem_id for attempt in attempts}
    corrections = read_table(parents["teach"].file("corrections.parquet"), Correction)
    corrections += read_table(parents["score"].file("corrections.parquet"), Correction)
    return SolutionPairDataModule(
        model.prompts,
        [p for p in run.task.problems("train") if p.id in tried],
        build(node.rows),
        plan_settings(node, run.settings.trainer),
        attempts=attempts,
        corrections=[c for c in corrections if c.accepted],
        scores=read_table(parents["score"].file("scores.parquet"), Score),
        reward=build(node.reward),
        edited_weight=node.edit_weights.edited,
        kept_weight=node.edit_weights.kept,
        keep_uncorrected=node.keep_uncorrected,
        max_right_per_problem=node.max_right_per_problem,
    )


def _tolerance(node: PolicySettings) -> float:
    """How far the ratio may be from 1 at step 0, where old and new log-probs differ by rounding."""
    if node.ratio_tolerance is not None:
        return node.ratio_tolerance
    return 1e-4 if node.precision == "32-true" else 5e-2


class JudgedModel:
    """The model of an evaluation: a policy (variant), the start, or a directory of the user's."""

    def __init__(self, run: Run, stage: Stage | None = None, path: str | None = None) -> None:
        self.run, self.stage, self.path = run, stage, path

    def parents(self) -> dict[str, Stage]:
        if self.path is not None:
            return {}
        return {"policy": self.stage} if self.stage else start_of(self.run)[0]

    def inputs(self) -> dict[str, str]:
        if self.path is not None:
            return {"model": model_digest(self.path, None)}
        return {} if self.stage else start_of(self.run)[1]

    def model(self, parents: dict[str, Artifact]) -> models.LanguageModel:
        if self.path is not None:
            return models.LanguageModel(self.path, self.run.settings)
        if self.stage is not None:
            return models.of_artifact(parents["policy"], self.run.settings)
        return start_model(self.run, parents)


class EvaluateStage(Stage):
    """Judges a model on a split: greedily, or by samples with pass@k and maj@k."""

    name = "evaluate"
    version = 2  # a sample's randomness is its own

    def __init__(self, run: Run, judged: JudgedModel, variant: str = "") -> None:
        super().__init__(run, variant)
        self.judged = judged

    def parents(self) -> dict[str, Stage]:
        return self.judged.parents()

    def inputs(self) -> dict[str, str]:
        return self.judged.inputs()

    def build(self, work: Path, parents: dict[str, Artifact]) -> Outcome:
        run, s = self.run, self.run.settings.evaluate
        model = self.judged.model(parents)
        problems = run.task.problems(s.split)[: s.num_problems]
        if self.judged.path is None:
            refuse_overlap(run.task.problems("train"), problems)
        folder = attempt_parts(
            self, work, model, problems, decoding_of(s), s, lambda attempts: (attempts, {})
        )
        return run.ranks.share(lambda: self._judge(work, folder, problems))

    def _judge(self, work: Path, folder: PartFolder, problems: list[Problem]) -> Outcome:
        rows = folder.merge("attempts", Attempt, work / "attempts.parquet")
        attempts = read_table(work / "attempts.parquet", Attempt)
        task = self.run.task
        figures: dict[str, Any] = report(attempts, problems, task.final_answer, task.judge)
        kinds = by_kind(attempts, problems)
        figures |= {f"accuracy/{kind}": right / n for kind, (right, n) in kinds.items() if kind}
        return Outcome(rows, {f"eval/{task.name}/{name}": value for name, value in figures.items()})


def decoding_of(s: EvaluateSettings) -> Decoding:
    if s.num_samples:
        return Decoding(s.max_completion_length, s.temperature, s.top_p, s.num_samples)
    return Decoding(s.max_completion_length)
