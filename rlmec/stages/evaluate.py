"""The stage `evaluate`: a model's attempts at a task's problems, judged.

In: the model (the start, a trained policy, or a directory of the user's) and a split of a task.
Out: `attempts.parquet` and the figures under each reading of the answers.
"""

from __future__ import annotations

from pathlib import Path

from rlmec.evaluation.readings import figures
from rlmec.evaluation.train_overlap import (
    Overlap,
    apply_choice,
    choose_examples,
    find_overlap,
)
from rlmec.lm.generation import Decoding
from rlmec.pipeline.attempts import attempt_parts
from rlmec.pipeline.chain import Outcome, Run, Settings, Stage
from rlmec.pipeline.sources import ModelSource
from rlmec.records import Attempt, Problem
from rlmec.settings.binding import build
from rlmec.settings.schema import EvaluateSettings, as_plain
from rlmec.store.artifacts import Artifact
from rlmec.store.parts import PartFolder
from rlmec.store.tables import read_table
from rlmec.tasks.base import Task


def judged_tasks(run: Run) -> list[str]:
    """The names of `evaluate.tasks`."""
    return list(run.settings.evaluate.tasks or {})


def judged_task(run: Run, name: str | None) -> Task:
    """A task of `evaluate.tasks`, built once per run; without a name the task of training."""
    if name is None:
        return run.task
    if name not in run.tasks:
        run.tasks[name] = build((run.settings.evaluate.tasks or {})[name])
    return run.tasks[name]


def judged_problems(run: Run, name: str | None, trained: bool) -> tuple[list[Problem], Overlap]:
    """The problems of a task that are judged, and their overlap with the train problems.

    The overlap is looked for only in a model that was `trained` by the chain. Raises ValueError if
    `evaluate.overlap` refuses what is found.
    """
    s = run.settings.evaluate
    task = judged_task(run, name)
    problems = task.problems(s.split)[: s.num_problems]
    run.say_left_out(task)

    overlap = Overlap([], [])
    if trained:
        overlap = find_overlap(run.task.problems("train"), problems)
    return apply_choice(s.overlap, overlap, problems), overlap


def examples_before(run: Run, name: str | None, problems: list[Problem]) -> list[Problem]:
    """The train problems that precede each judged one; ValueError if there are too few."""
    s = run.settings.evaluate
    if not s.num_fewshot:
        return []
    trained = judged_task(run, name).problems("train")
    return choose_examples(trained, problems, s.num_fewshot, s.seed)


class EvaluateStage(Stage):
    """Judges a model on a split: greedily, or by samples with pass@k and maj@k.

    `task` names one of `evaluate.tasks`; without it the model is judged on the task of training.
    """

    name = "evaluate"
    version = 3  # several readings of an answer

    def __init__(self, source: ModelSource, variant: str = "", task: str | None = None) -> None:
        which = ", ".join(filter(None, (variant, task)))
        super().__init__(source.run, source.parents, variant=which)
        self.source = source
        self.task = task

    @property
    def label(self) -> str:
        """The task's name in the names of its figures."""
        return self.task or self.run.task.name

    def settings(self) -> Settings:
        own = super().settings() | {"prompt": as_plain(self.source.settings.prompt)}
        tasks = self.run.settings.evaluate.tasks or {}
        return own if self.task is None else own | {"task": tasks[self.task], "label": self.task}

    def inputs(self) -> dict[str, str]:
        return self.source.inputs()

    def build(self, work: Path, parents: dict[str, Artifact]) -> Outcome:
        run = self.run
        s = run.settings.evaluate
        task = judged_task(run, self.task)
        model = self.source.model(parents)

        trained = not self.source.is_foreign
        problems, overlap = judged_problems(run, self.task, trained)
        counts: Settings = {}
        if trained:
            counts = {"overlap_same": len(overlap.same), "overlap_near": len(overlap.near)}
        if overlap.same or overlap.near:
            run.say(f"  {self.title}: of the problems to be judged {overlap.summary}")

        folder = attempt_parts(
            self,
            work,
            model,
            problems,
            decoding_of(s),
            s,
            lambda attempts: {},
            task=task,
            examples=examples_before(run, self.task, problems),
        )
        return run.ranks.share(lambda: self._judge(work, folder, task, problems, counts))

    def _judge(
        self, work: Path, folder: PartFolder, task: Task, problems: list[Problem], counts: Settings
    ) -> Outcome:
        rows = folder.merge("attempts", Attempt, work / "attempts.parquet")
        attempts = read_table(work / "attempts.parquet", Attempt)
        found = figures(attempts, problems, task, self.run.settings.evaluate.modes) | counts
        return Outcome(rows, {f"eval/{self.label}/{name}": value for name, value in found.items()})


def decoding_of(s: EvaluateSettings) -> Decoding:
    """Samples if `evaluate.num_samples` is above 0, else greedy decoding."""
    if s.num_samples:
        return Decoding(s.completion_length, s.temperature, s.top_p, s.num_samples)
    return Decoding(s.completion_length)
