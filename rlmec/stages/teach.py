"""The door `teach`: the teacher's corrections of the wrong attempts of its share of the problems.

A teacher gets a whole part of the attempts at once; a part is on disk when the next one begins.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from rlmec.method.acceptance import (
    best_of,
    count_reasons,
    judge_proposal,
    proposal_ids,
)
from rlmec.pipeline.chain import (
    Outcome,
    Run,
    Settings,
    Stage,
    address_of,
    model_digest,
)
from rlmec.pipeline.import_solutions import in_parts
from rlmec.pipeline.predict import say_goes_on, stopped_between_parts
from rlmec.pipeline.rounds import RoundStage, Start
from rlmec.prompts import Codec
from rlmec.records import (
    Attempt,
    Correction,
    Problem,
    by_id,
    hash_share,
    is_wrong,
)
from rlmec.runtime import signals
from rlmec.runtime.display import Bar
from rlmec.settings.build import build
from rlmec.stages.sample import SampleStage
from rlmec.store.artifacts import Artifact
from rlmec.store.fingerprint import directory_digest, file_digest
from rlmec.store.parts import PartFolder
from rlmec.store.tables import count_rows, iter_columns, iter_table
from rlmec.tasks.base import Judge, judge_of
from rlmec.teachers.base import (
    BatchTeacher,
    Proposals,
    WrongAttempt,
    as_batch_teacher,
)
from rlmec.training.predict_parts import cut

__all__ = ["TeachStage", "check_teacher", "correction_metrics", "is_taught"]


def is_taught(run: Run, problem_id: str) -> bool:
    """Whether a problem is in the teacher's share."""
    teach = run.settings.teach
    return hash_share(teach.seed, "teach", problem_id) < teach.share


def check_teacher(run: Run, start: Start) -> None:
    """Lets the teacher say what it lacks (a key, a library) before anything is made, unless its
    corrections of the round that `start` begins, and of those before, are there already."""
    stages = [TeachStage(run, at) for at in start.until_here()]
    known: dict[tuple[str, str], tuple[Stage, str]] = {}
    if any(run.store.find(stage.name, address_of(stage, known)) is None for stage in stages):
        node: Settings = run.settings.teacher
        teacher = build(node | {"_partial_": True}, task=run.task)
        if hasattr(teacher.func, "check"):
            teacher().check()


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
        table = parents["sample"].file("attempts.parquet")
        total = self._count(table)
        own = build(run.settings.teacher, task=run.task)
        teacher = as_batch_teacher(own)
        parts = cut(total, s.part_size)
        folder = PartFolder(work / "parts", len(parts))
        missing = folder.missing()
        counts = Counter(folder.counts())
        done = total - sum(len(parts[index]) for index in missing)
        bar = _Progress(self.title, total, run.settings.trainer.progress_bar, done)
        until, wanted = max(missing, default=-1) + 1, set(missing)
        with contextlib.closing(bar), stopped_between_parts(self.title, folder):
            for index, some in enumerate(islice(in_parts(self._wrong(table), s.part_size), until)):
                if index not in wanted:
                    continue
                if index == missing[0]:
                    say_goes_on(run, self.title, folder, missing, some[0].id)
                asked = [WrongAttempt(problems[a.problem_id], a.text) for a in some]
                answers = teacher.correct_all(asked, spent=dict(counts), tick=bar.tick)
                _require_one_each(teacher, asked, answers)
                rows = self._judged(some, asked, answers, teacher.name, codec)
                counted = Counter[str]()
                for proposals in answers:
                    counted.update(proposals.counts)  # zeros stay
                folder.write(index, {"corrections": (rows, Correction)}, counted)
                counts.update(counted)
        return self._finished(work, folder, own)

    def _count(self, table: Path) -> int:
        """How many attempts are to be corrected; ValueError for none."""
        run, names = self.run, ("problem_id", "verdict", "clipped")
        rows = iter_columns(table, Attempt, names)
        if total := sum(is_taught(run, problem) and is_wrong(*how) for problem, *how in rows):
            return total
        raise ValueError(
            f"no wrong attempt in the taught share ({run.settings.teach.share}) of "
            f"{count_rows(table)} attempts: nothing to correct"
        )

    def _wrong(self, table: Path) -> Iterator[Attempt]:
        """The attempts that are to be corrected, in the order of the table."""
        for attempt in iter_table(table, Attempt):
            if attempt.is_wrong and is_taught(self.run, attempt.problem_id):
                yield attempt

    def _judged(
        self,
        attempts: Sequence[Attempt],
        asked: Sequence[WrongAttempt],
        answers: Sequence[Proposals],
        source: str,
        codec: Codec,
    ) -> list[Correction]:
        """The verdicts on a part's proposals: of each attempt on its best one."""
        each = list(zip(asked, answers, strict=True))
        texts = [text for _, proposals in each for text, _ in proposals.texts]
        about = [wrong.problem for wrong, proposals in each for _ in proposals.texts]
        judge = judge_of(self.run.task, texts, about)
        return [
            self._best(wrong.problem, attempt, proposals, source, codec, judge)
            for attempt, (wrong, proposals) in zip(attempts, each, strict=True)
        ]

    def _best(
        self,
        problem: Problem,
        attempt: Attempt,
        proposals: Proposals,
        source: str,
        codec: Codec,
        judge: Judge,
    ) -> Correction:
        """The verdict on the best of a teacher's proposals, or on there being none."""
        signals.check()

        def judged(text: str | None, clipped: bool) -> Correction:
            encode, decode, end = codec.encode, codec.decode, codec.eos_id
            return judge_proposal(
                problem,
                attempt,
                None if text is None else proposal_ids(attempt, text, encode, decode, end),
                text,
                judge=judge,
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
        corrections = iter_table(work / "corrections.parquet", Correction)
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


def correction_metrics(corrections: Iterable[Correction], prefix: str) -> dict[str, Any]:
    """Counts of accepted and rejected corrections by reason; edit ratio of the accepted."""
    ratios: list[float] = []

    def seen() -> Iterator[Correction]:
        for correction in corrections:
            if correction.accepted:
                ratios.append(correction.edit_ratio)
            yield correction

    reasons = count_reasons(seen())
    ratios.sort()
    out: dict[str, Any] = {f"{prefix}/{reason}": count for reason, count in reasons.items()}
    if ratios:
        out[f"{prefix}/edit_ratio/median"] = ratios[len(ratios) // 2]
    return out
