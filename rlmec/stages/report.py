"""The door `report`: the closing table, and how good the credit was."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlmec.pipeline.chain import (
    Outcome,
    Run,
    Settings,
    Stage,
    make,
)
from rlmec.pipeline.rounds import Start, start_of
from rlmec.records import Correction
from rlmec.report.figures import accuracy_figure
from rlmec.report.harness_results import harness_results
from rlmec.report.tables import Judgement, Line, RoundLine, markdown, paired_p_value, rounds_table
from rlmec.settings.binding import ConfigurationError
from rlmec.settings.check import rebind
from rlmec.settings.schema import as_plain
from rlmec.stages.evaluate import EvaluateStage, JudgedModel, judged_tasks
from rlmec.stages.evaluate_models import judgement_of, panels_of
from rlmec.stages.grm import grm_of
from rlmec.stages.policy import PolicyStage, policies
from rlmec.stages.report_credit import scored_attempts
from rlmec.stages.report_pages import pictures
from rlmec.stages.sample import SampleStage
from rlmec.stages.score import ScoreStage
from rlmec.stages.teach import TeachStage
from rlmec.store.artifacts import Artifact
from rlmec.store.atomic import atomic_write_json, atomic_write_text
from rlmec.store.tables import read_table

__all__ = ["ReportStage", "policy_variants"]

START, MAIN = "start", "rlmec"
ROUND = "round_"


def policy_variants(run: Run) -> dict[str, PolicyStage]:
    """The policies of the comparison by name: `report.compare`'s changes of the policy node, each
    as it is after the last round."""
    out = {}
    for name, changes in (run.settings.report.compare or {}).items():
        if name in (START, MAIN) or name.startswith(ROUND):
            raise ConfigurationError(f"report.compare: the name {name!r} is taken")
        node = rebind(run.settings.policy, changes, f"report.compare.{name}")
        out[name] = policies(run, name, node)[-1]
    return out


def earlier_rounds(run: Run) -> dict[str, PolicyStage]:
    """The policies of all rounds but the last, by name."""
    return {f"{ROUND}{stage.round}": stage for stage in policies(run)[:-1]}


def round_stages(start: Start) -> dict[str, Stage]:
    """What a round has before its policy is trained."""
    run = start.run
    own: dict[str, Stage] = {"sample": SampleStage(run, start), "teach": TeachStage(run, start)}
    return own | {"score": ScoreStage(run, start), "grm": grm_of(start)}


class ReportStage(Stage):
    """The table of start, compared policies and RLMEC on the same problems, with credit quality."""

    name = "report"
    version = 4  # pages and figures, paired with the policy, several tasks, credit of each round

    def settings(self) -> Settings:
        return super().settings() | {"tasks": judged_tasks(self.run)}

    def judged(self, task: str | None = None) -> dict[str, EvaluateStage]:
        """Evaluations on a task by the name of what is judged, the policy last."""
        run = self.run
        out = {START: EvaluateStage(run, JudgedModel(run), START, task)}
        others = policy_variants(run)
        if run.settings.report.each_round:
            others |= earlier_rounds(run)
        for name, stage in others.items():
            out[name] = EvaluateStage(run, JudgedModel(run, stage), name, task)
        return out | {MAIN: EvaluateStage(run, JudgedModel(run, policies(run)[-1]), task=task)}

    def parents(self) -> dict[str, Stage]:
        run, last = self.run, policies(self.run)[-1]
        own: dict[str, Stage] = {}
        trained: dict[str, Stage] = {}
        for name, stage in earlier_rounds(run).items():
            before = round_stages(stage.start)
            if run.settings.grm.later_steps is None:
                del before["grm"]  # the last round has it too
            own |= {f"{kind}/{name}": s for kind, s in before.items()}
            trained[f"policy/{name}"] = stage
        own |= round_stages(last.start)
        trained |= {f"policy/{name}": s for name, s in policy_variants(run).items()}
        trained[f"policy/{MAIN}"] = last
        judged = {f"evaluate/{name}": stage for name, stage in self.judged().items()}
        for task in judged_tasks(run):
            judged |= {f"evaluate/{task}/{name}": s for name, s in self.judged(task).items()}
        return start_of(run)[0] | own | trained | judged

    def inputs(self) -> dict[str, str]:
        return start_of(self.run)[1]

    def build(self, work: Path, parents: dict[str, Artifact]) -> Outcome:
        return self.run.ranks.share(lambda: self._report(work, parents))

    def _report(self, work: Path, parents: dict[str, Artifact]) -> Outcome:
        own = self._judgements(parents, None)
        others = {task: self._judgements(parents, task) for task in judged_tasks(self.run)}
        lines = self._lines(parents, own)
        beside = {task: self._lines(parents, judged) for task, judged in others.items()}
        scored = scored_attempts(self.run, parents)
        credit = scored.metrics()
        notes = self._notes(parents)
        rounds = self._rounds(parents, own, credit)
        if len(rounds) > 1:
            notes.insert(0, rounds_table(rounds))
        atomic_write_text(work / "table.md", markdown(lines, credit, notes, beside))
        tables = {None: lines, **beside}
        plain = {task: [dataclasses.asdict(line) for line in t] for task, t in tables.items()}
        atomic_write_json(
            work / "table.json",
            {"lines": plain.pop(None), "credit": credit}
            | ({"tasks": plain} if plain else {})
            | ({"rounds": [*map(dataclasses.asdict, rounds)]} if len(rounds) > 1 else {}),
        )
        everything = [*own, *(j for judged in others.values() for j in judged)]
        accuracy_figure(panels_of(everything), work / "accuracy.png")
        s = self.run.settings.evaluate
        policy = [j for j in everything if j.model == MAIN]
        results = harness_results(policy, s.num_fewshot, as_plain(s))
        atomic_write_json(work / "results.json", results)
        warnings = pictures(self.run, work, parents, scored, credit, (START, MAIN))
        metrics: dict[str, Any] = {
            f"report/{line.name}/accuracy": line.accuracy for line in lines
        } | credit
        metrics["report/gain"] = lines[-1].accuracy - lines[0].accuracy
        metrics["report/warnings"] = [warning.name for warning in warnings]
        return Outcome(len(lines), metrics)

    def _judgements(self, parents: dict[str, Artifact], task: str | None) -> list[Judgement]:
        above = "evaluate" if task is None else f"evaluate/{task}"
        return [
            judgement_of(parents[f"{above}/{name}"], name, stage.label)
            for name, stage in self.judged(task).items()
        ]

    def _lines(self, parents: dict[str, Artifact], judged: list[Judgement]) -> list[Line]:
        """The start first, the policy last; each compared with both on the same problems."""
        out = []
        for at, j in enumerate(judged):
            spent, m = self._spent(j.model), j.figures
            others = (judged[0] if at else None, judged[-1] if at < len(judged) - 1 else None)
            paired = [o and paired_p_value(o.attempts, j.attempts) for o in others]
            out.append(
                Line(
                    j.model,
                    m["accuracy"],
                    m["accuracy_low"],
                    m["accuracy_high"],
                    int(m["problems"]),
                    *spent,
                    *paired,
                    flexible=m.get("accuracy_flexible"),
                )
            )
        return out

    def _spent(self, name: str) -> tuple[int | None, float | None]:
        """Updates and seconds of a policy's trainings, those of earlier rounds with them."""
        run = self.run
        named = policy_variants(run) | earlier_rounds(run) | {MAIN: policies(run)[-1]}
        if name not in named:
            return None, None
        stages = [at.policy for at in Start(run, named[name]).until_here() if at.policy]
        made = [make(stage) for stage in stages]  # made before the report
        return sum(m.rows for m in made), sum(m.manifest["seconds"] for m in made)

    def _rounds(
        self, parents: dict[str, Artifact], judged: list[Judgement], credit: Mapping[str, Any]
    ) -> list[RoundLine]:
        """What each round sampled, corrected and trained; the last one's `credit` is known."""
        out, accuracy = [], {j.model: j.figures["accuracy"] for j in judged}
        for name in (*earlier_rounds(self.run), MAIN):
            last = name == MAIN
            of = {k: parents[k if last else f"{k}/{name}"] for k in ("sample", "teach", "score")}
            found = credit if last else scored_attempts(self.run, parents | of).metrics()
            policy = parents[f"policy/{name}"]
            out.append(
                RoundLine(
                    len(out) + 1,
                    of["sample"].rows,
                    of["sample"].metrics.get("sample/accuracy"),
                    of["teach"].metrics.get("teach/accepted", 0)
                    + of["score"].metrics.get("score/accepted", 0),
                    found.get("grm/credit_precision"),
                    policy.rows,
                    policy.metrics.get("dev/accuracy"),
                    accuracy.get(name),
                )
            )
        return out

    def _notes(self, parents: dict[str, Artifact]) -> list[str]:
        corrections = read_table(parents["teach"].file("corrections.parquet"), Correction)
        notes = []
        if any(c.source == "reference" for c in corrections):
            notes.append(
                "The teacher splices the reference solution into the attempt: its corrections are "
                "right, but they are not minimal edits."
            )
        return notes
