"""The stage `policy`: reinforcement and imitation on the joined pairs.

In: the attempts of its round, and of its corrections and scores what its rows and its reward rule
read (`pipeline.pair_records.stages_read`). Out: a model directory with the trained policy. Where
nothing was wrong, or nothing could be corrected, it is the policy that the round began with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

from rlmec.data.datamodule import NothingToTrain, SolutionPairDataModule
from rlmec.lm.generation import Decoding
from rlmec.pipeline import models
from rlmec.pipeline.attempts import attempt_parts
from rlmec.pipeline.chain import ROWS, Outcome, Settings, Stage
from rlmec.pipeline.fit import (
    best_weights,
    can_share_prefixes,
    fit,
    kept_validation,
    new_policy_module,
    plan_settings,
    save_model,
)
from rlmec.pipeline.import_solutions import counts_of
from rlmec.pipeline.judges import accuracy_judge
from rlmec.pipeline.pair_records import PairRecords, join_arguments, pair_records, parts_read
from rlmec.pipeline.score_sequences import correction_logprobs, old_scores
from rlmec.pipeline.sources import ModelSource, RoundStage, dev_problems, is_asked
from rlmec.records import Problem
from rlmec.settings.binding import build, offers
from rlmec.settings.ranges import is_mixed
from rlmec.settings.reads import OLD_LOGPROBS
from rlmec.settings.schema import ModelSettings, PolicySettings, as_plain
from rlmec.store.artifacts import Artifact
from rlmec.training.policy_module import PolicyModule
from rlmec.training.validation import Validation

WATCHED = 64
"""Training rows at whose tokens the policy's entropy is measured with each validation."""


class PolicyStage(RoundStage):
    """Trains the policy further from where its round starts.

    `node` is the policy node, changed for a variant of a comparison.
    """

    name = "policy"
    version = 3  # a step holds as many computed tokens, shared or not

    def __init__(
        self,
        source: ModelSource,
        round: int,
        variant: str,
        node: PolicySettings | None = None,
        **parents: Stage,
    ) -> None:
        super().__init__(source, round, variant, **parents)
        self.node = node or self.run.settings.policy

    def settings(self) -> Settings:
        node = as_plain(self.node)
        del node["one_schedule"], node["imitated_rounds"]
        if self.schedule != (1, 1):
            node["schedule"] = self.schedule
        if not self.imitates_corrections:
            node["imitates_corrections"] = False
        own = super().settings() | {"policy": node}
        if self.scores_itself:
            s = self.run.settings.score
            own["score"] = {"precision": s.precision, "part_size": s.part_size}
        return own

    @property
    def scores_itself(self) -> bool:
        """Whether the training reads old log-probs, but nothing else that `score` makes."""
        return "score" not in self.parents and OLD_LOGPROBS in parts_read(self.node)

    @property
    def schedule(self) -> tuple[int, int]:
        """(k, n): the fit uses the k-th of n parts of the learning rate's schedule."""
        rounds = self.run.settings.rounds
        return (self.round, rounds) if self.node.one_schedule else (1, 1)

    @property
    def imitates_corrections(self) -> bool:
        """Whether corrections are imitated in this round."""
        most = self.node.imitated_rounds
        return most is None or self.round <= most

    def build(self, work: Path, parents: dict[str, Artifact]) -> Outcome:
        run = self.run
        node = self.node
        model = self.source.model(parents)
        if reason := nothing_to_learn(parents, is_asked(run.settings.teach, self.round)):
            return self._untrained(work, model, reason)
        data = self.data(model, parents, work)
        start_logprobs = None
        if node.score_corrections:
            start_logprobs = correction_logprobs(run, self.title, model, data.pairs, work)
        network = model.trainable(run.settings.model.lora, node.seed)
        shared = can_share_prefixes(run, self.title, network)
        try:
            data.plan_for(
                run.ranks.world,
                run.ranks.rank,
                share_prefixes=shared,
                start_logprobs=start_logprobs,
            )
        except NothingToTrain as nothing:
            return self._untrained(work, model, str(nothing))
        module = new_policy_module(
            network,
            model.codec,
            node,
            data,
            build(node.objective),
            ratio_tolerance=_tolerance(node, run.settings.model),
            schedule=self.schedule,
        )

        dev = dev_problems(run, node.val_problems)
        asked = [model.prompts.policy(problem) for problem in dev]
        models.fitting_prompts(network, asked, node.completion_length, self.title)
        validation = Validation(
            asked,
            accuracy_judge(run.task, model.codec, dev),
            every_steps=node.val_every_steps,
            max_completion_length=node.completion_length,
            best=best_weights(work) if dev else None,
            watched=WATCHED,
        )

        history = fit(run, self.title, node, work, module, data, validation)
        save_model(run, self.name, module, model.tokenizer, model.codec, work)
        metrics = self._metrics(data, history) | _ratio_error(module)
        return Outcome(int(history[-1]["step"]), metrics)

    def _untrained(self, work: Path, model: models.LanguageModel, reason: str) -> Outcome:
        """The policy as the round began with it, and its accuracy on the dev problems."""
        run = self.run
        network = model.trainable(run.settings.model.lora, self.node.seed)
        codec = model.codec
        module = PolicyModule(network, pad_id=codec.pad_id, end_ids=codec.end_ids)
        save_model(run, self.name, module, model.tokenizer, codec, work)
        metrics = {"policy/untrained": reason, "dev/accuracy": None, "history": []}

        # A sweep and the table of rounds want the accuracy that a training would have measured.
        dev = dev_problems(run, self.node.val_problems)
        if dev:
            length = self.node.completion_length
            how = replace(
                run.settings.evaluate,
                max_completion_length=length,
                precision=self.node.precision,
            )
            parts = attempt_parts(self, work, model, dev, Decoding(length), how, counts_of)
            counts = run.ranks.share(parts.counts)
            metrics["dev/accuracy"] = counts["right"] / counts["attempts"]
        return Outcome(0, metrics)

    def data(
        self, model: models.LanguageModel, parents: dict[str, Artifact], work: Path
    ) -> SolutionPairDataModule:
        """The DataModule of the training, from the artifacts that the stage reads.

        Its rows are kept in a temporary file in `work`.
        """
        records = pair_records(self.run, self.node, parents)
        if self.scores_itself:
            records = self._with_old_logprobs(records, model, work)
        return SolutionPairDataModule(
            model.prompts,
            records.problems,
            build(self.node.rows),
            plan_settings(self.node, self.run.settings.trainer, model.context),
            attempts=records.attempts,
            corrections=records.corrections,
            scores=records.scores,
            dropped=records.dropped,
            draws=records.draws,
            solve=self._solver(),
            scratch=work / ROWS,
            imitate_corrections=self.imitates_corrections,
            **join_arguments(self.node, scored=bool(records.scores)),
        )

    def _with_old_logprobs(
        self, records: PairRecords, model: models.LanguageModel, work: Path
    ) -> PairRecords:
        """The records with the old log-probs of the attempts that a row of the training can hold;
        the others are dropped."""
        limit = model.limited(self.node.max_length)
        lengths = records.attempts.columns("prompt_ids", "completion_ids")
        fitting = [n for n, ids in enumerate(lengths) if sum(map(len, ids)) <= limit]
        attempts = records.attempts.chosen(fitting)
        dropped = {"too_long_to_score": len(records.attempts) - len(attempts)}
        scores = old_scores(self.run, self.title, model, attempts, work)
        return replace(records, attempts=attempts, scores=scores, dropped=dropped)

    def _solver(self) -> Callable[[Problem], str | None] | None:
        """The teacher's own solutions, for rows that want them; the teacher is made when the first
        is asked for."""
        node = self.run.settings.teacher
        if not offers(node, "solve"):
            return None
        teacher = cache(lambda: build(node, task=self.run.task))
        return lambda problem: teacher().solve(problem)

    def _metrics(self, data: SolutionPairDataModule, history: list[dict[str, float]]) -> Settings:
        best = kept_validation(history, "dev/accuracy") or {}
        return {
            "dev/accuracy": best.get("dev/accuracy"),
            "dev/best_step": best.get("step"),
            "policy/rows": len(data.rows),
            **_rewards(data),
            **{f"policy/dropped/{why}": n for why, n in sorted(data.dropped.items()) if n},
            "policy/padding_share": data.plan.padding_share(),
            "history": history,
        }


def _rewards(data: SolutionPairDataModule) -> Settings:
    """How many tokens have a reward; empty where the attempts have no scores."""
    if not data.table.all_scores:
        return {}
    signs = Counter[str]()
    for row in data.rows:
        signs["positive"] += int((row.token_rewards > 0).sum())
        signs["negative"] += int((row.token_rewards < 0).sum())
    return {
        "policy/rewards/positive": signs["positive"],
        "policy/rewards/negative": signs["negative"],
        "policy/rewards/zero": sum(int((p.token_rewards == 0).sum()) for p in data.pairs),
    }


def _ratio_error(module: PolicyModule) -> Settings:
    """The error of the ratio at step 0; empty if no token had a reward."""
    found = module.ratio_error
    if not found:
        return {}
    return {
        "policy/ratio_error/mean": found["mean"],
        "policy/ratio_error/p99": found["p99"],
        "policy/ratio_error/max": found["max"],
    }


def nothing_to_learn(parents: dict[str, Artifact], asked: bool) -> str:
    """Why a round has nothing to train its policy on; empty if it has.

    Where the teacher was not `asked`, the attempts may still be wrong.
    """
    teach, score = parents.get("teach"), parents.get("score")
    if asked and teach is not None and not teach.rows:
        return "no attempt at a taught problem is wrong"
    if score is not None and score.metrics.get("grm/untrained"):
        return "no correction was accepted that a GRM could be trained on"
    if asked and score is None and teach is not None and not teach.metrics.get("teach/accepted"):
        return "no correction was accepted"
    return ""


def _tolerance(node: PolicySettings, model: ModelSettings) -> float:
    """How large |log ratio| may be on average at step 0, where rounding alone moves it.

    In bfloat16 it was 0.013 to 0.034 on a model of 135 million weights, and 0.12 under a slightly
    other prompt (docs/method.md).
    """
    if node.ratio_tolerance is not None:
        return node.ratio_tolerance
    in_float32 = model.dtype == "float32" and model.quantization is None
    return 8e-2 if is_mixed(node.precision) or not in_float32 else 2e-5
