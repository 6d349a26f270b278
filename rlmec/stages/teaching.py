"""The door `teach`: the teacher's corrections of the wrong attempts of its share of the problems.

A teacher gets a whole part of the attempts at once; a part is on disk when the next one begins.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from rlmec.artifacts import Artifact, directory_digest, file_digest
from rlmec.configuration import build
from rlmec.display import Bar
from rlmec.parts import cut
from rlmec.prompts import Codec
from rlmec.records import Attempt, Correction, Problem, by_id
from rlmec.rewriting import best_of, count_reasons, judge_proposal, proposal_ids
from rlmec.rows import hash_share
from rlmec.stages.chain import Outcome, Run, Settings, Stage, model_digest
from rlmec.stages.sampling import RoundStage, SampleStage, Start
from rlmec.tables import PartFolder, read_table
from rlmec.teachers.base import BatchTeacher, Proposals, WrongAttempt, as_batch_teacher

__all__ = ["TeachStage", "check_teacher", "correction_metrics", "is_taught"]


def is_taught(run: Run, problem_id: str) -> bool:
    """Whether a problem is in the teacher's share."""
    teach = run.settings.teach
    return hash_share(teach.seed, "teach", problem_id) < teach.share


def check_teacher(run: Run, start: Start) -> None:
    """Lets the teacher say what it lacks (a key, a library) before anything is made, unless its
    corrections of the round that `start` begins, and of those before, are there already."""
    stages = [TeachStage(run, at) for at in start.until_here()]
    known: dict[tuple[str, str], str] = {}
    if any(run.store.find(stage.name, _address(stage, known)) is None for stage in stages):
        node: Settings = run.settings.teacher
        teacher = build(node | {"_partial_": True}, task=run.task)
        if hasattr(teacher.func, "check"):
            teacher().check()


def _address(stage: Stage, known: dict[tuple[str, str], str]) -> str:
    """The fingerprint that a stage's artifact has or will have; those found are `known`."""
    key = (stage.name, stage.which)
    if key not in known:
        parents = {name: (p.name, _address(p, known)) for name, p in stage.parents().items()}
        found = {k: Artifact(n, fp, Path(), {}) for k, (n, fp) in parents.items()}
        known[key] = stage.fingerprint(found)
    return known[key]


class TeachStage(RoundStage):
    """The teacher's corrections of the wrong attempts of its share of the problems."""

    name = "teach"

    def parents(self) -> dict[str, Stage]:
        return super().parents() | {"sample": SampleStage(self.run, self.start)}

    def inputs(self) -> dict[str, str]:
        return super().inputs() | teacher_files(self.run.settings.teacher)

    def build(self, work: Path, parents: dict[str, Artifact]) -> Outcome:
        return self.run.ranks.share(lambda: self._teach(work, parents))

    def _teach(self, work: Path, parents: dict[str, Artifact]) -> Outcome:
        run, s = self.run, self.run.settings.teach
        codec = self.start.model(parents).codec
        problems = by_id(run.task.problems("train"))
        attempts = read_table(parents["sample"].file("attempts.parquet"), Attempt)
        wrong = [a for a in attempts if a.is_wrong and is_taught(run, a.problem_id)]
        if not wrong:
            raise ValueError(
                f"no wrong attempt in the taught share ({s.share}) of {len(attempts)} attempts: "
                f"nothing to correct"
            )
        own = build(run.settings.teacher, task=run.task)
        teacher = as_batch_teacher(own)
        parts = cut(len(wrong), s.part_size)
        folder = PartFolder(work / "parts", len(parts))
        missing = folder.missing()
        counts = Counter(folder.counts())
        done = len(wrong) - sum(len(parts[index]) for index in missing)
        bar = _Progress(self.title, len(wrong), run.settings.trainer.progress_bar, done)
        for index in missing:
            some = [wrong[i] for i in parts[index]]
            asked = [WrongAttempt(problems[a.problem_id], a.text) for a in some]
            answers = teacher.correct_all(asked, spent=dict(counts), tick=bar.tick)
            _require_one_each(teacher, asked, answers)
            rows = [
                self._judged(problems[a.problem_id], a, proposals, teacher.name, codec)
                for a, proposals in zip(some, answers, strict=True)
            ]
            counted = Counter[str]()
            for proposals in answers:
                counted.update(proposals.counts)  # zeros stay
            folder.write(index, {"corrections": (rows, Correction)}, counted)
            counts.update(counted)
        bar.close()
        return self._finished(work, folder, own)

    def _judged(
        self, problem: Problem, attempt: Attempt, proposals: Proposals, source: str, codec: Codec
    ) -> Correction:
        """The verdict on the best of a teacher's proposals, or on there being none."""

        def judged(text: str | None, clipped: bool) -> Correction:
            encode, decode, end = codec.encode, codec.decode, codec.eos_id
            return judge_proposal(
                problem,
                attempt,
                None if text is None else proposal_ids(attempt, text, encode, decode, end),
                text,
                judge=self.run.task.judge,
                max_edit_ratio=self.run.settings.teach.max_edit_ratio,
                source=source,
                tokenizer=codec.digest,
                clipped=clipped,
                without=proposals.reason,
            )

        if not proposals.texts:
            return judged(None, False)
        return best_of([judged(text, clipped) for text, clipped in proposals.texts])

    def _finished(self, work: Path, folder: PartFolder, teacher: Any) -> Outcome:
        rows = folder.merge("corrections", Correction, work / "corrections.parquet")
        corrections = read_table(work / "corrections.parquet", Correction)
        counts = folder.counts()
        figures = dict(counts)
        if hasattr(teacher, "figures"):
            figures |= teacher.figures(counts)
        metrics = correction_metrics(corrections, "teach")
        if (unasked := metrics.get("teach/over_budget", 0)) > 0:
            self.run.say(
                f"  {self.title}: the teacher's budget is spent; {unasked} of {rows} wrong "
                f"attempts were not corrected (teach/over_budget)"
            )
        return Outcome(rows, metrics | {f"teach/{name}": n for name, n in figures.items()})


class _Progress:
    """A bar over attempts that a teacher moves by one."""

    def __init__(self, title: str, total: int, wanted: bool, done: int) -> None:
        self._bar = Bar(title, total, "attempts", wanted=wanted, done=done)
        self._done = done

    def tick(self) -> None:
        self._done += 1
        self._bar.update(self._done)

    def close(self) -> None:
        self._bar.close()


def _require_one_each(
    teacher: BatchTeacher, asked: list[WrongAttempt], answers: list[Proposals]
) -> None:
    if len(answers) != len(asked):
        raise ValueError(
            f"teacher {teacher.name!r} gave proposals for {len(answers)} of {len(asked)} attempts"
        )


def teacher_files(node: Settings) -> dict[str, str]:
    """What names the content of a file, directory or (with a key `revision`) hub model under a
    teacher node's `path`."""
    path = node.get("path")
    if not isinstance(path, str):
        return {}
    if Path(path).is_file():
        return {"teacher.path": file_digest(path)}
    if Path(path).is_dir():
        return {"teacher.path": directory_digest(path)}
    return {"teacher.path": model_digest(path, node["revision"])} if "revision" in node else {}


def correction_metrics(corrections: list[Correction], prefix: str) -> dict[str, Any]:
    """Counts of accepted and rejected corrections by reason; edit ratio of the accepted."""
    ratios = sorted(c.edit_ratio for c in corrections if c.accepted)
    reasons = count_reasons(corrections)
    out: dict[str, Any] = {f"{prefix}/{reason}": count for reason, count in reasons.items()}
    if ratios:
        out[f"{prefix}/edit_ratio/median"] = ratios[len(ratios) // 2]
    return out
