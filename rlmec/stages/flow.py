"""The chain: which stage is made from which. The order of stages is written here and nowhere else.

    warmup ──► sample ──► teach ──► grm ──► score ──► policy ──► evaluate ──► report
               └──────────── a round ─────────────────────┘
                  the next round samples from this round's policy

Every stage is handed the stages whose artifacts it reads, and what nothing reads is not made: a
policy that learns from the teacher's corrections without token rewards needs neither `grm` nor
`score`. Whatever needs the order asks here:
fingerprints, the menu of `stage=`, `stage=status`, `stage=prune`, exports and the documentation.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlmec.pipeline.chain import Run, Stage
from rlmec.pipeline.pair_records import stages_read
from rlmec.pipeline.sources import ModelSource
from rlmec.settings.binding import ConfigurationError
from rlmec.settings.check import rebind
from rlmec.settings.schema import PolicySettings
from rlmec.stages.evaluate import EvaluateStage, judged_tasks
from rlmec.stages.grm import GrmStage
from rlmec.stages.policy import PolicyStage
from rlmec.stages.report import ROUND, START, ReportStage
from rlmec.stages.report_facts import MAIN
from rlmec.stages.sample import SampleStage
from rlmec.stages.score import ScoreStage
from rlmec.stages.teach import TeachStage
from rlmec.stages.warmup import WarmupStage

STAGES = ("warmup", "sample", "teach", "grm", "score", "policy", "evaluate", "report")


@dataclass(frozen=True)
class Round:
    """One pass of the method: from a model's attempts to the same model, trained on them."""

    sample: SampleStage
    teach: TeachStage
    grm: GrmStage
    score: ScoreStage
    policy: PolicyStage

    @property
    def number(self) -> int:
        return self.policy.round

    @property
    def name(self) -> str:
        """The name of its policy among the judged models, if it is not the last round."""
        return f"{ROUND}{self.number}"


def start(run: Run) -> ModelSource:
    """The policy's start: the warm-up, or the finished model `model.path`."""
    return ModelSource(run, WarmupStage(run) if run.settings.has_warmup else None)


def rounds(run: Run, variant: str = "", node: PolicySettings | None = None) -> list[Round]:
    """All rounds, each starting from the policy of the one before.

    A `variant` of a comparison trains with its own policy `node`. It branches off at the policy of
    round 1, and samples for itself from round 2 on.
    """
    found: list[Round] = []
    source = start(run)
    for number in range(1, run.settings.rounds + 1):
        own = variant if number > 1 else ""
        sample = SampleStage(source, number, own)
        teach = TeachStage(source, number, own, sample=sample)
        grm = _grm(source, number, own, sample, teach, found)
        score = ScoreStage(source, number, own, sample=sample, teach=teach, grm=grm)
        made: dict[str, Stage] = {"sample": sample, "teach": teach, "score": score}
        read = {name: made[name] for name in stages_read(node or run.settings.policy)}
        policy = PolicyStage(source, number, variant, node, **read)
        found.append(Round(sample, teach, grm, score, policy))
        source = ModelSource(run, policy)
    return found


def _grm(
    source: ModelSource,
    number: int,
    variant: str,
    sample: SampleStage,
    teach: TeachStage,
    before: list[Round],
) -> GrmStage:
    """The GRM of a round: trained further in each (`grm.later_steps`), or that of round 1."""
    if not before:
        return GrmStage(source, number, variant, sample=sample, teach=teach)
    if source.run.settings.grm.later_steps is None:
        return before[-1].grm
    return GrmStage(source, number, variant, sample=sample, teach=teach, grm=before[-1].grm)


def variants(run: Run) -> dict[str, list[Round]]:
    """The rounds of every policy variant that `report.compare` names."""
    found = {}
    for name, changes in run.settings.report.variants.items():
        if name in (START, MAIN) or name.startswith(ROUND):
            raise ConfigurationError(f"report.compare: the name {name!r} is taken")
        node = rebind(run.settings.policy, changes, f"report.compare.{name}")
        found[name] = rounds(run, name, node)
    return found


def evaluation(run: Run, task: str | None = None) -> EvaluateStage:
    """The trained policy, judged on a task of `evaluate.tasks` or on the task of training."""
    return EvaluateStage(ModelSource(run, rounds(run)[-1].policy), task=task)


def report(run: Run) -> ReportStage:
    """The report on the start, every variant, every round and the trained policy."""
    main = rounds(run)
    others = variants(run)
    judged = {START: start(run)}
    judged |= {name: ModelSource(run, found[-1].policy) for name, found in others.items()}
    if run.settings.report.each_round:
        judged |= {each.name: ModelSource(run, each.policy) for each in main[:-1]}

    evaluations = {
        task: {
            **{name: EvaluateStage(source, name, task) for name, source in judged.items()},
            MAIN: evaluation(run, task),
        }
        for task in (None, *judged_tasks(run))
    }
    return ReportStage(start(run), main, others, evaluations)


def stage(run: Run, name: str) -> Stage:
    """The stage that `stage=name` asks for, of the last round."""
    if name == "warmup":
        return WarmupStage(run)
    if name == "evaluate":
        return evaluation(run)
    if name == "report":
        return report(run)
    return getattr(rounds(run)[-1], name)


def stages_until(run: Run, last: str | None) -> list[str]:
    """The names of the stages that are made for `last`, in order; without it none."""
    if last is None:
        return []
    found = _names(stage(run, last))
    return [name for name in STAGES if name in found]


def _names(last: Stage) -> set[str]:
    """The names of a stage and of all that it is made from."""
    return {last.name}.union(*(_names(parent) for parent in last.parents.values()))
