"""The stage `teach`: the teacher's corrections of wrong attempts at its share of the problems.

In: `attempts.parquet` of the stage `sample`. Out: `corrections.parquet`, one row per wrong attempt
at a taught problem, accepted or with the reason why not. A teacher gets a whole part of the
attempts at once, and a part is on disk before the next one begins, so that no paid answer is lost.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch

from rlmec.lm.loading import usual_device
from rlmec.lm.token_texts import text_edits, token_spans
from rlmec.method.acceptance import best_of, judge_proposal, proposal_ids
from rlmec.method.alignment import edit_script
from rlmec.pipeline.chain import Outcome, Run, Settings, Stage, address_of
from rlmec.pipeline.judges import correction_metrics
from rlmec.pipeline.models import LanguageModel
from rlmec.pipeline.predict import Tables, in_parts, make_parts
from rlmec.pipeline.sources import RoundStage, is_asked, is_taught
from rlmec.prompts import Codec
from rlmec.records import Attempt, Correction, Problem, by_id, is_wrong
from rlmec.runtime import signals
from rlmec.runtime.display import Bar, say, say_edits
from rlmec.settings.binding import accepts, build
from rlmec.settings.ranges import is_mixed
from rlmec.store.artifacts import Artifact
from rlmec.store.parts import PartFolder
from rlmec.store.tables import count_rows, iter_columns, iter_table
from rlmec.tasks.base import Judge, judge_of
from rlmec.teachers.base import BatchTeacher, Policy, Proposals, WrongAttempt, as_batch_teacher
from rlmec.training.predict_parts import cut

TELLING = 200
"""Accepted corrections from which the one that is shown is chosen."""

LONGEST_QUESTION = 300
"""Characters of its question that are shown."""


def check_teacher(run: Run, stages: Sequence[Stage]) -> None:
    """Lets the teacher say what it lacks (a key, a library) before anything is made.

    Not asked where the corrections of all `stages`, the rounds' teach stages, are there already.
    """
    known: dict[tuple[str, str], tuple[Stage, str]] = {}
    if any(run.store.find(stage.name, address_of(stage, known)) is None for stage in stages):
        node: Settings = run.settings.teacher
        teacher = build(node | {"_partial_": True}, task=run.task)
        if hasattr(teacher.func, "check"):
            teacher().check()


class TeachStage(RoundStage):
    """The teacher's corrections of the wrong attempts at its share of the problems."""

    name = "teach"

    def settings(self) -> Settings:
        found = super().settings()
        return found if self._is_asked else found | {"asked": False}

    @property
    def _is_asked(self) -> bool:
        return is_asked(self.run.settings.teach, self.round)

    def build(self, work: Path, parents: dict[str, Artifact]) -> Outcome:
        return self.run.ranks.share(lambda: self._teach(work, parents))

    def _teach(self, work: Path, parents: dict[str, Artifact]) -> Outcome:
        run = self.run
        s = run.settings.teach
        model = self.source.model(parents)
        codec = model.codec
        problems = by_id(run.task.problems("train"))
        table = parents["sample"].file("attempts.parquet")
        own_teacher = self._teacher(model)
        teacher = as_batch_teacher(own_teacher)

        total = self._count(table)
        if not self._is_asked:
            run.say(f"  {self.title}: the teacher corrects up to round {s.rounds} (teach.rounds)")
        elif not total:
            run.say(
                f"  {self.title}: no wrong attempt in the taught share ({s.share}) of "
                f"{count_rows(table)} attempts: nothing to correct, so the policy of this round "
                f"will not be trained"
            )
        parts = cut(total, s.part_size)
        folder = PartFolder(work / "parts", len(parts))
        made = total - sum(len(parts[index]) for index in folder.missing())
        wanted = run.settings.trainer.progress_bar
        bar = Bar(self.title, total, "attempts", wanted=wanted, done=made)
        spent = Counter(folder.counts())  # a teacher's budget goes on where it was cut off

        def corrected(attempts: list[Attempt]) -> tuple[Tables, dict[str, int]]:
            asked = [WrongAttempt(problems[a.problem_id], a.text) for a in attempts]
            answers = teacher.correct_all(asked, spent=dict(spent), tick=lambda: bar.advance(1))
            _require_one_each(teacher, asked, answers)
            rows = self._judged(attempts, asked, answers, teacher.name, codec)

            counted = Counter[str]()
            for proposals in answers:
                counted.update(proposals.counts)  # zeros stay
            spent.update(counted)
            return {"corrections": (rows, Correction)}, counted

        with contextlib.closing(bar):
            make_parts(
                run,
                self.title,
                folder,
                in_parts(self._wrong(table), s.part_size),
                corrected,
                first_item=lambda attempts: attempts[0].id,
            )
        if hasattr(own_teacher, "close"):
            own_teacher.close()
        outcome = self._finished(work, folder, own_teacher)
        if found := self._telling(table, work / "corrections.parquet"):
            say_correction(problems, codec, *found)
        return outcome

    def _teacher(self, model: LanguageModel) -> Any:
        """The teacher; one that takes a `policy` gets the model that made the attempts."""
        node = self.run.settings.teacher
        if not accepts(node, "policy"):
            return build(node, task=self.run.task)

        device = usual_device()
        sample = self.run.settings.sample
        mixed = is_mixed(sample.precision)
        dtype = torch.float16 if sample.precision.startswith("16") else torch.bfloat16
        policy = Policy(
            model.prompts,
            sample.completion_length,
            model.context,
            lambda: model.network().to(device),
            lambda: torch.autocast(device, dtype, enabled=mixed),
        )
        return build(node, task=self.run.task, policy=policy)

    def _count(self, table: Path) -> int:
        """How many attempts are to be corrected."""
        if not self._is_asked:
            return 0
        s = self.run.settings.teach
        rows = iter_columns(table, Attempt, ("problem_id", "verdict", "clipped"))
        return sum(is_taught(s, problem) and is_wrong(*how) for problem, *how in rows)

    def _wrong(self, table: Path) -> Iterator[Attempt]:
        """The attempts that are to be corrected, in the order of the table."""
        if not self._is_asked:
            return
        for attempt in iter_table(table, Attempt):
            if attempt.is_wrong and is_taught(self.run.settings.teach, attempt.problem_id):
                yield attempt

    def _judged(
        self,
        attempts: Sequence[Attempt],
        asked: Sequence[WrongAttempt],
        answers: Sequence[Proposals],
        source: str,
        codec: Codec,
    ) -> list[Correction]:
        """One correction per attempt of a part: the verdict on its best proposal."""
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
        """The verdict on the best of an attempt's proposals, or the reason why there is none."""
        signals.check()

        def judged(text: str | None, clipped: bool) -> Correction:
            encode, decode = codec.encode, codec.decode
            end = codec.end_of(attempt.completion_ids)
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

    def _telling(self, attempts: Path, corrections: Path) -> tuple[Attempt, Correction] | None:
        """Of the first accepted corrections the one with the fewest edits, and its attempt."""
        every = iter_table(corrections, Correction)
        first = islice((c for c in every if c.accepted), TELLING)
        best = min(first, key=lambda c: c.edit_ratio, default=None)
        if best is None:
            return None
        return next((a, best) for a in iter_table(attempts, Attempt) if a.id == best.attempt_id)

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


def say_correction(
    problems: Mapping[str, Problem], codec: Codec, attempt: Attempt, correction: Correction
) -> None:
    """Shows an attempt with the edits that correct it, after its question."""
    old_ids = codec.without_end(attempt.completion_ids)
    new_ids = codec.without_end(correction.completion_ids)
    old, old_spans = token_spans(old_ids, codec.decode)
    new, new_spans = token_spans(new_ids, codec.decode)
    opcodes = edit_script(old_ids, new_ids).opcodes
    edits = text_edits(old, old_spans, new, new_spans, opcodes)

    say(f"  attempt {attempt.id}, corrected by {correction.source}:")
    question = shorten(problems[attempt.problem_id].question, LONGEST_QUESTION, placeholder=" ...")
    say_edits([("kept", f"{question}\n"), *((edit.kind, edit.text) for edit in edits)])


def _require_one_each(
    teacher: BatchTeacher, asked: list[WrongAttempt], answers: list[Proposals]
) -> None:
    if len(answers) != len(asked):
        raise ValueError(
            f"teacher {teacher.name!r} gave proposals for {len(answers)} of {len(asked)} attempts"
        )
