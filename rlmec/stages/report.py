"""The stage `report`: the closing table, the quality of the credit, figures and pages.

In: the artifacts of every round and the evaluations of every judged model. Out: a folder with
`table.md`, `table.json`, `results.json`, figures, the first page and the token-reward page.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlmec.evaluation.run_warnings import of_no_training
from rlmec.pipeline.chain import Outcome, Settings, Stage
from rlmec.pipeline.models import of_artifact
from rlmec.pipeline.pair_records import what_is_rewarded
from rlmec.pipeline.sources import ModelSource
from rlmec.prompts import Codec
from rlmec.records import Correction
from rlmec.report.harness_results import harness_results
from rlmec.report.tables import (
    Judgement,
    Line,
    RoundLine,
    markdown,
    paired_p_value,
    rounds_table,
    warning_lines,
)
from rlmec.report.token_page import Case, chosen
from rlmec.settings.schema import as_plain
from rlmec.stages.evaluate import EvaluateStage, judged_tasks
from rlmec.stages.evaluate_models import judgement_of, panels_of
from rlmec.stages.report_again import asked_again
from rlmec.stages.report_against import find_other, read_other
from rlmec.stages.report_credit import Scored, scored_attempts
from rlmec.stages.report_facts import MAIN, page_facts, short_name
from rlmec.stages.report_pages import Found, pictures
from rlmec.store.artifacts import Artifact
from rlmec.store.atomic import atomic_write_json, atomic_write_text
from rlmec.store.tables import read_table

if TYPE_CHECKING:
    from rlmec.stages.flow import Round

START = "start"
"""Name of the policy's start among the judged models."""

ROUND = "round_"
"""Beginning of the names of the policies of earlier rounds."""


class ReportStage(Stage):
    """The table of the start, the compared policies and the trained one on the same problems.

    `main` are the rounds of the run, `variants` those of each compared policy. `evaluations` has,
    for the task of training (None) and each task of `evaluate.tasks`, the judged models by name,
    the start first and the trained policy last.
    """

    name = "report"
    version = 9  # says what was trained, and calls it the policy

    def __init__(
        self,
        start: ModelSource,
        main: list[Round],
        variants: Mapping[str, list[Round]],
        evaluations: Mapping[str | None, Mapping[str, EvaluateStage]],
    ) -> None:
        self.start = start
        self.main = main
        self.variants = variants
        self.evaluations = evaluations
        super().__init__(start.run, self._parents())

    def _parents(self) -> dict[str, Stage]:
        """All artifacts that the report reads: rounds, then policies, then evaluations.

        Those of the last round have the stages' own names, those of earlier rounds end in
        `/round_1` and so on.
        """
        rounds: dict[str, Stage] = {}
        policies: dict[str, Stage] = {}
        for each in self.main[:-1]:
            rounds |= {f"{kind}/{each.name}": stage for kind, stage in self._made_in(each).items()}
            policies[f"policy/{each.name}"] = each.policy
        rounds |= self._made_in(self.main[-1])
        policies |= {f"policy/{name}": found[-1].policy for name, found in self.variants.items()}
        policies[f"policy/{MAIN}"] = self.main[-1].policy

        judged: dict[str, Stage] = {}
        for task, stages in self.evaluations.items():
            judged |= {f"{_judged_as(task)}/{name}": stage for name, stage in stages.items()}
        return self.start.parents | rounds | policies | judged

    def _made_in(self, each: Round) -> dict[str, Stage]:
        """What a round makes before its policies; the GRM in the round that trains it.

        Corrections and scores are read where a policy of the report reads them.
        """
        policies = [found[-1].policy for found in (self.main, *self.variants.values())]
        made: dict[str, Stage] = {"sample": each.sample}
        for name, stage in {"teach": each.teach, "score": each.score}.items():
            if any(name in policy.parents for policy in policies):
                made[name] = stage
        is_trained = each is self.main[-1] or each.grm is not self.main[-1].grm
        return made | ({"grm": each.grm} if "score" in made and is_trained else {})

    def settings(self) -> Settings:
        return super().settings() | {"tasks": judged_tasks(self.run)}

    def inputs(self) -> dict[str, str]:
        other = find_other(self.run)
        return self.start.inputs() | ({} if other is None else {"against": other.fingerprint})

    def build(self, work: Path, parents: dict[str, Artifact]) -> Outcome:
        scored = scored_attempts(self.run, self.start.model(parents).codec, parents)
        shown = chosen(scored.cases, self.run.settings.report.page_pairs)
        policy = of_artifact(parents[f"policy/{MAIN}"], self.run.settings)
        cases = asked_again(self, work, policy, shown)
        return self.run.ranks.share(lambda: self._report(work, parents, scored, cases))

    def _report(
        self,
        work: Path,
        parents: dict[str, Artifact],
        scored: Scored,
        cases: list[Case],
    ) -> Outcome:
        judged = {
            task: [
                judgement_of(parents[f"{_judged_as(task)}/{name}"], name, stage.label)
                for name, stage in stages.items()
            ]
            for task, stages in self.evaluations.items()
        }
        own = self._lines(judged[None])
        lines = {task: self._lines(models) for task, models in judged.items() if task is not None}

        credit = scored.metrics()
        rounds = self._rounds(parents, scored.codec, judged[None], credit)
        notes = self._notes(parents)
        everything = [judgement for models in judged.values() for judgement in models]
        warned = [*self._untrained(), *warning_lines(everything)]
        table = [rounds_table(rounds).markdown()] if len(rounds) > 1 else []

        facts = page_facts(self.run, parents.get("score") or parents[f"policy/{MAIN}"], parents)
        text = markdown(own, credit, [*table, *notes, *warned], lines)
        atomic_write_text(work / "table.md", text)
        atomic_write_json(work / "table.json", _plain_tables(own, lines, credit, rounds, facts))

        s = self.run.settings.evaluate
        policy = [judgement for judgement in everything if judgement.model == MAIN]
        atomic_write_json(
            work / "results.json", harness_results(policy, s.num_fewshot, as_plain(s))
        )
        ends = (parents[f"evaluate/{name}"] for name in (START, MAIN))
        report = find_other(self.run)
        other = None if report is None else read_other(self.run, report)
        panels = panels_of(everything)
        found = Found(facts, own, lines, panels, rounds, credit, notes, cases, *ends, other=other)
        warnings = pictures(self.run, work, parents, scored, found)

        metrics: dict[str, Any] = {f"report/{line.name}/accuracy": line.accuracy for line in own}
        metrics |= credit
        metrics["report/gain"] = own[-1].accuracy - own[0].accuracy
        metrics["report/warnings"] = [warning.name for warning in warnings]
        return Outcome(len(own), metrics)

    def _lines(self, judged: list[Judgement]) -> list[Line]:
        """One line per model, each compared with the start and with the policy by pairs."""
        start, policy = judged[0], judged[-1]
        out = []
        for j in judged:
            updates, seconds = self._spent(j.model)
            out.append(
                Line(
                    j.model,
                    j.figures["accuracy"],
                    j.figures["accuracy_low"],
                    j.figures["accuracy_high"],
                    int(j.figures["problems"]),
                    updates,
                    seconds,
                    None if j is start else paired_p_value(start.attempts, j.attempts),
                    None if j is policy else paired_p_value(policy.attempts, j.attempts),
                    flexible=j.figures.get("accuracy_flexible"),
                )
            )
        return out

    def _spent(self, name: str) -> tuple[int | None, float | None]:
        """Updates and seconds of a policy's trainings, those of earlier rounds included."""
        trained = {each.name: self.main[: each.number] for each in self.main[:-1]}
        trained |= {MAIN: self.main, **self.variants}
        if name not in trained:
            return None, None
        made = [self.run.made[each.policy.key] for each in trained[name]]
        return sum(m.rows for m in made), sum(m.manifest["seconds"] for m in made)

    def _rounds(
        self,
        parents: dict[str, Artifact],
        codec: Codec,
        judged: list[Judgement],
        credit: Mapping[str, Any],
    ) -> list[RoundLine]:
        """What each round sampled, corrected and trained; the last one's `credit` is known."""
        accuracy = {j.model: j.figures["accuracy"] for j in judged}
        out = []
        for each in self.main:
            last = each is self.main[-1]
            name = MAIN if last else each.name
            named = {k: k if last else f"{k}/{name}" for k in ("sample", "teach", "score")}
            own = {k: parents[name] for k, name in named.items() if name in parents}
            accepted = [own[k].metrics.get(f"{k}/accepted", 0) for k in own if k != "sample"]
            found = credit
            if not last:
                found = scored_attempts(self.run, codec, parents | own).metrics()
            policy = parents[f"policy/{name}"]
            out.append(
                RoundLine(
                    each.number,
                    own["sample"].rows,
                    own["sample"].metrics.get("sample/accuracy"),
                    sum(accepted),
                    found.get("grm/credit_precision"),
                    policy.rows,
                    policy.metrics.get("dev/accuracy"),
                    accuracy.get(name),
                )
            )
        return out

    def _notes(self, parents: dict[str, Artifact]) -> list[str]:
        notes = []
        node = self.run.settings.policy
        rewards = "no token rewards"
        if what_is_rewarded(node) is not None:
            rewards = f"token rewards by {short_name(node.reward)}"
        notes.append(
            f"The {MAIN} was trained on {short_name(node.rows)} with the objective "
            f"{short_name(node.objective)} and {rewards}."
        )
        corrections: list[Correction] = []
        if "teach" in parents:
            corrections = read_table(parents["teach"].file("corrections.parquet"), Correction)
        if any(c.source == "reference" for c in corrections):
            notes.append(
                "The teacher splices the reference solution into the attempt: its corrections are "
                "right, but they are not minimal edits."
            )
        return notes

    def _untrained(self) -> list[str]:
        return [
            f"Round {each.number}, {warning}"
            for each in self.main
            for warning in of_no_training(self.run.made[each.policy.key].metrics)
        ]


def _judged_as(task: str | None) -> str:
    """The beginning of an evaluation's name among the parents."""
    return "evaluate" if task is None else f"evaluate/{task}"


def _plain_tables(
    own: list[Line],
    others: Mapping[str, list[Line]],
    credit: Mapping[str, Any],
    rounds: list[RoundLine],
    facts: list[tuple[str, str]],
) -> dict[str, Any]:
    """All tables of the report as plain values, and the facts of its first page."""
    plain: dict[str, Any] = {"lines": [dataclasses.asdict(line) for line in own], "credit": credit}
    plain["facts"] = facts
    if others:
        plain["tasks"] = {
            task: [dataclasses.asdict(line) for line in lines] for task, lines in others.items()
        }
    if len(rounds) > 1:
        plain["rounds"] = [dataclasses.asdict(line) for line in rounds]
    return plain
