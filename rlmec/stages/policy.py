"""The door `policy`: training from the joined pairs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rlmec.data.datamodule import SolutionPairDataModule
from rlmec.pipeline import models
from rlmec.pipeline.chain import (
    Outcome,
    Run,
    Settings,
    Stage,
)
from rlmec.pipeline.fit import (
    best_weights,
    fit,
    plan_settings,
    share_prefixes,
)
from rlmec.pipeline.judges import accuracy_judge
from rlmec.pipeline.rounds import (
    RoundStage,
    Start,
    dev_problems,
    policy_module,
)
from rlmec.pipeline.start_logprobs import correction_logprobs
from rlmec.records import Attempt, Correction, Score
from rlmec.settings.build import build
from rlmec.settings.schema import ModelSettings, PolicySettings, as_plain
from rlmec.stages.sample import SampleStage
from rlmec.stages.score import ScoreStage
from rlmec.stages.teach import TeachStage
from rlmec.store.artifacts import Artifact
from rlmec.store.tables import read_table
from rlmec.training.validation import Validation

__all__ = ["PolicyStage", "joined_data", "policies"]

WATCHED = 64
"""Training rows at whose tokens the policy's entropy is measured with each validation."""


class PolicyStage(RoundStage):
    """Trains the policy on from where its round starts; `node` is the policy node, changed for a
    variant of a comparison."""

    name = "policy"
    version = 3  # a step holds as many computed tokens, shared or not

    def __init__(
        self,
        run: Run,
        variant: str = "",
        node: PolicySettings | None = None,
        start: Start | None = None,
    ) -> None:
        super().__init__(run, start, variant)
        self.node = node or run.settings.policy

    def settings(self) -> Settings:
        node = as_plain(self.node)
        del node["one_schedule"]
        if self.schedule != (1, 1):
            node["schedule"] = self.schedule
        return super().settings() | {"policy": node}

    @property
    def schedule(self) -> tuple[int, int]:
        """Which part of how many of the learning rate's schedule is this round's."""
        rounds = self.run.settings.rounds
        return (self.round, rounds) if self.node.one_schedule else (1, 1)

    def parents(self) -> dict[str, Stage]:
        run, start = self.run, self.start
        own = {"sample": SampleStage(run, start), "teach": TeachStage(run, start)}
        return super().parents() | own | {"score": ScoreStage(run, start)}

    def build(self, work: Path, parents: dict[str, Artifact]) -> Outcome:
        run, node = self.run, self.node
        if node.precision != run.settings.score.precision:
            raise ValueError(
                f"policy.precision is {node.precision}, but the scores were made at "
                f"{run.settings.score.precision} (score.precision)"
            )
        model = self.start.model(parents)
        data = joined_data(run, model, node, parents)
        if node.score_corrections:
            data.start_logprobs = correction_logprobs(run, self.title, model, data, work)
        network = model.trainable(run.settings.model.lora, node.seed)
        share_prefixes(run, self.title, network, data)
        data.plan_for(run.ranks.world, run.ranks.rank)
        module = policy_module(
            run,
            network,
            model.codec,
            node,
            data,
            build(node.objective),
            ratio_tolerance=_tolerance(node, run.settings.model),
            schedule=self.schedule,
        )
        dev = dev_problems(run, node.val_problems)
        asked = [model.prompts.policy(p) for p in dev]
        models.fitting_prompts(network, asked, node.max_completion_length, self.title)
        validation = Validation(
            asked,
            accuracy_judge(run.task, model.codec, dev),
            every_steps=node.val_every_steps,
            max_completion_length=node.max_completion_length,
            best=best_weights(work) if dev else None,
            watched=WATCHED,
        )
        history = fit(run, self.title, node, work, module, data, validation)
        run.ranks.share(lambda: models.save(module, model.tokenizer, work / "model"))
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


def policies(run: Run, variant: str = "", node: PolicySettings | None = None) -> list[PolicyStage]:
    """The policy of every round, each trained on from the one before; a variant goes through as
    many rounds, on samples of its own from the second on."""
    found = [PolicyStage(run, variant, node)]
    while len(found) < run.settings.rounds:
        found.append(PolicyStage(run, variant, node, Start(run, found[-1])))
    return found


def joined_data(
    run: Run, model: models.LanguageModel, node: PolicySettings, parents: dict[str, Artifact]
) -> SolutionPairDataModule:
    """The pairs of a policy training, from the artifacts it reads."""
    sampled = read_table(parents["sample"].file("attempts.parquet"), Attempt)
    scores = read_table(parents["score"].file("scores.parquet"), Score)
    attempts = _scored(sampled, scores, parents["score"].metrics["score/too_long"])
    tried = {attempt.problem_id for attempt in attempts}
    corrections = read_table(parents["teach"].file("corrections.parquet"), Correction)
    if not node.teacher_corrections_only:
        corrections += read_table(parents["score"].file("corrections.parquet"), Correction)
    data = SolutionPairDataModule(
        model.prompts,
        [p for p in run.task.problems("train") if p.id in tried],
        build(node.rows),
        plan_settings(node, run.settings.trainer, model.context),
        attempts=attempts,
        corrections=[c for c in corrections if c.accepted],
        scores=scores,
        reward=build(node.reward),
        edited_weight=node.edit_weights.edited,
        kept_weight=node.edit_weights.kept,
        keep_uncorrected=node.keep_uncorrected,
        max_right_per_problem=node.max_right_per_problem,
    )
    data.dropped["too_long_to_score"] = len(sampled) - len(attempts)
    return data


def _scored(attempts: list[Attempt], scores: list[Score], too_long: int) -> list[Attempt]:
    """The attempts that have a score; ValueError where others miss one than were too long."""
    known = {score.attempt_id for score in scores}
    found = [attempt for attempt in attempts if attempt.id in known]
    if len(attempts) - len(found) != too_long:
        raise ValueError(
            f"{len(attempts) - len(found)} of {len(attempts)} attempts have no score, but "
            f"{too_long} were too long to be scored: remake stage=score"
        )
    return found


def _tolerance(node: PolicySettings, model: ModelSettings) -> float:
    """How far the ratio may be from 1 at step 0, where old and new log-probs differ by rounding."""
    if node.ratio_tolerance is not None:
        return node.ratio_tolerance
    in_float32 = model.dtype == "float32" and model.quantization is None
    return 1e-4 if node.precision == "32-true" and in_float32 else 5e-2
