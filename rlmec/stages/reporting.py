"""The door `report`: the closing table, and how good the credit was."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from rlmec.artifacts import Artifact, atomic_write_json, atomic_write_text
from rlmec.binding import ConfigurationError
from rlmec.configuration import rebind
from rlmec.records import Correction
from rlmec.report.figures import accuracy_figure
from rlmec.report.harness import harness_results
from rlmec.report.judgements import Judgement, paired_p_value
from rlmec.report.table import Line, markdown
from rlmec.settings import as_plain
from rlmec.stages.chain import Outcome, Run, Settings, Stage
from rlmec.stages.comparing import judgement_of, panels_of
from rlmec.stages.crediting import scored_attempts
from rlmec.stages.evaluating import EvaluateStage, JudgedModel, judged_tasks
from rlmec.stages.improving import PolicyStage
from rlmec.stages.picturing import pictures
from rlmec.stages.rewarding import GrmStage
from rlmec.stages.sampling import SampleStage, start_of
from rlmec.stages.scoring import ScoreStage
from rlmec.stages.teaching import TeachStage
from rlmec.tables import read_table

__all__ = ["ReportStage", "policy_variants"]

START, MAIN = "start", "rlmec"


def policy_variants(run: Run) -> dict[str, PolicyStage]:
    """The policies of the comparison by name: `report.compare`'s changes of the policy node."""
    out = {}
    for name, changes in (run.settings.report.compare or {}).items():
        if name in (START, MAIN):
            raise ConfigurationError(f"report.compare: the name {name!r} is taken")
        node = rebind(run.settings.policy, changes, f"report.compare.{name}")
        out[name] = PolicyStage(run, name, node)
    return out


class ReportStage(Stage):
    """The table of start, compared policies and RLMEC on the same problems, with credit quality."""

    name = "report"
    version = 3  # pages and figures, paired with the policy, several tasks

    def settings(self) -> Settings:
        return super().settings() | {"tasks": judged_tasks(self.run)}

    def judged(self, task: str | None = None) -> dict[str, EvaluateStage]:
        """Evaluations on a task by the name of what is judged, the policy last."""
        run = self.run
        out = {START: EvaluateStage(run, JudgedModel(run), START, task)}
        for name, stage in policy_variants(run).items():
            out[name] = EvaluateStage(run, JudgedModel(run, stage), name, task)
        return out | {MAIN: EvaluateStage(run, JudgedModel(run, PolicyStage(run)), task=task)}

    def parents(self) -> dict[str, Stage]:
        run = self.run
        own = {"sample": SampleStage(run), "teach": TeachStage(run), "score": ScoreStage(run)}
        own["grm"] = GrmStage(run)
        policies = {f"policy/{name}": s for name, s in policy_variants(run).items()}
        policies[f"policy/{MAIN}"] = PolicyStage(run)
        judged = {f"evaluate/{name}": stage for name, stage in self.judged().items()}
        for task in judged_tasks(run):
            judged |= {f"evaluate/{task}/{name}": s for name, s in self.judged(task).items()}
        return start_of(run)[0] | own | policies | judged

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
        atomic_write_text(work / "table.md", markdown(lines, credit, notes, beside))
        tables = {None: lines, **beside}
        plain = {task: [dataclasses.asdict(line) for line in t] for task, t in tables.items()}
        atomic_write_json(
            work / "table.json",
            {"lines": plain.pop(None), "credit": credit} | ({"tasks": plain} if plain else {}),
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
            policy, m = parents.get(f"policy/{j.model}"), j.figures
            others = (judged[0] if at else None, judged[-1] if at < len(judged) - 1 else None)
            paired = [o and paired_p_value(o.attempts, j.attempts) for o in others]
            out.append(
                Line(
                    j.model,
                    m["accuracy"],
                    m["accuracy_low"],
                    m["accuracy_high"],
                    int(m["problems"]),
                    None if policy is None else policy.rows,
                    None if policy is None else policy.manifest["seconds"],
                    *paired,
                    flexible=m.get("accuracy_flexible"),
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
