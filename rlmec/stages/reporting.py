"""The door `report`: the closing table, and how good the credit was."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from rlmec.artifacts import Artifact, atomic_write_json, atomic_write_text
from rlmec.binding import ConfigurationError
from rlmec.configuration import rebind
from rlmec.evaluation import paired_difference
from rlmec.records import Attempt, Correction
from rlmec.report.figures import accuracy_figure
from rlmec.report.table import Line, markdown
from rlmec.stages.chain import Outcome, Run, Stage
from rlmec.stages.crediting import scored_attempts
from rlmec.stages.improving import EvaluateStage, JudgedModel, PolicyStage
from rlmec.stages.picturing import pictures
from rlmec.stages.rewarding import GrmStage, ScoreStage
from rlmec.stages.sampling import SampleStage, TeachStage, start_of
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
    version = 2  # pages and figures

    def judged(self) -> dict[str, EvaluateStage]:
        """Evaluations by the name of what is judged, the policy last."""
        run = self.run
        out = {START: EvaluateStage(run, JudgedModel(run), START)}
        for name, stage in policy_variants(run).items():
            out[name] = EvaluateStage(run, JudgedModel(run, stage), name)
        return out | {MAIN: EvaluateStage(run, JudgedModel(run, PolicyStage(run)))}

    def parents(self) -> dict[str, Stage]:
        run = self.run
        own = {"sample": SampleStage(run), "teach": TeachStage(run), "score": ScoreStage(run)}
        own["grm"] = GrmStage(run)
        policies = {f"policy/{name}": s for name, s in policy_variants(run).items()}
        policies[f"policy/{MAIN}"] = PolicyStage(run)
        judged = {f"evaluate/{name}": stage for name, stage in self.judged().items()}
        return start_of(run)[0] | own | policies | judged

    def inputs(self) -> dict[str, str]:
        return start_of(self.run)[1]

    def build(self, work: Path, parents: dict[str, Artifact]) -> Outcome:
        return self.run.ranks.share(lambda: self._report(work, parents))

    def _report(self, work: Path, parents: dict[str, Artifact]) -> Outcome:
        lines = [self._line(name, parents) for name in self.judged()]
        scored = scored_attempts(self.run, parents)
        credit = scored.metrics()
        notes = self._notes(parents)
        atomic_write_text(work / "table.md", markdown(lines, credit, notes))
        atomic_write_json(
            work / "table.json",
            {"lines": [dataclasses.asdict(line) for line in lines], "credit": credit},
        )
        accuracy_figure(lines, work / "accuracy.png")
        warnings = pictures(self.run, work, parents, scored, credit, (START, MAIN))
        metrics: dict[str, Any] = {
            f"report/{line.name}/accuracy": line.accuracy for line in lines
        } | credit
        metrics["report/gain"] = lines[-1].accuracy - lines[0].accuracy
        metrics["report/warnings"] = [warning.name for warning in warnings]
        return Outcome(len(lines), metrics)

    def _line(self, name: str, parents: dict[str, Artifact]) -> Line:
        artifact = parents[f"evaluate/{name}"]
        m, of = artifact.metrics, f"eval/{self.run.task.name}"
        policy = parents.get(f"policy/{name}")
        mine = read_table(artifact.file("attempts.parquet"), Attempt)
        start = read_table(parents[f"evaluate/{START}"].file("attempts.parquet"), Attempt)
        paired = None if name == START else paired_difference(start, mine)["p_value"]
        return Line(
            name,
            m[f"{of}/accuracy"],
            m[f"{of}/accuracy_low"],
            m[f"{of}/accuracy_high"],
            int(m[f"{of}/problems"]),
            None if policy is None else policy.rows,
            None if policy is None else policy.manifest["seconds"],
            paired,
        )

    def _notes(self, parents: dict[str, Artifact]) -> list[str]:
        corrections = read_table(parents["teach"].file("corrections.parquet"), Correction)
        notes = []
        if any(c.source == "reference" for c in corrections):
            notes.append(
                "The teacher splices the reference solution into the attempt: its corrections are "
                "right, but they are not minimal edits."
            )
        return notes
