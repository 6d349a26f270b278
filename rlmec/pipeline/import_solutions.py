"""Ready-made solutions as judged attempts, by parts of the file: the other way to make `sample`.

In: the file `sample.path` and the task's problems. Out: finished parts, in which every solution of
the file is tokenized and judged, and the table of attempts, each (problem, ids) once. The file is
gone through twice: a look at every row comes before the first verdict. What is held beside one part
is a matter of the problems, not of the solutions.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import TypeVar

import numpy as np

from rlmec.lm.generation import Completion
from rlmec.pipeline import models
from rlmec.pipeline.chain import Run
from rlmec.pipeline.judges import Answer, attempts_of
from rlmec.pipeline.predict import say_goes_on, stopped_between_parts
from rlmec.records import Attempt, Problem, by_id
from rlmec.runtime.display import Bar
from rlmec.store.parts import PartFolder
from rlmec.tasks.base import SPLITS
from rlmec.tasks.solution_files import Found, ImportedSolution, SolutionFile
from rlmec.training.predict_parts import cut

__all__ = ["PART", "counts_of", "import_parts", "in_parts"]

T = TypeVar("T")
PART = 4096
"""Solutions of a part."""


def import_parts(
    run: Run, title: str, work: Path, model: models.LanguageModel
) -> tuple[PartFolder, Found]:
    """The finished parts, each with a table of `attempts` at the wanted problems and the counts of
    `_Judge.part`; and what was found in the file. ValueError where the file changes meanwhile."""
    s = run.settings.sample
    splits = _splits(run)
    known = by_id([problem for problems in splits.values() for problem in problems])
    file = SolutionFile(
        str(s.path),
        list(known.values()),
        s.text_field,
        s.label_field,
        s.question_field,
        clean=getattr(run.task, "clean", None),
    )
    found = file.found()
    groups = cut(found.solutions, PART)
    folder = PartFolder(work / "parts", len(groups))
    missing = folder.missing()
    wanted = set(missing)
    judge = _Judge(run, model, known, {p.id for p in splits["train"][: s.max_problems]})
    bar = Bar(title, found.solutions, "solutions", wanted=run.settings.trainer.progress_bar)
    done = 0
    with contextlib.closing(bar), stopped_between_parts(title, folder):
        for index, solutions in zip_longest(range(len(groups)), in_parts(file, PART)):
            if index is None or solutions is None or len(solutions) != len(groups[index]):
                raise ValueError(f"{s.path} has changed since its rows were counted")
            numbers = judge.numbered(solutions)
            if missing and index == missing[0]:
                say_goes_on(run, title, folder, missing, solutions[0].problem_id)
            if index in wanted:
                attempts, counts = judge.part(solutions, numbers)
                folder.write(index, {"attempts": (attempts, Attempt)}, counts)
            bar.update(done := done + len(solutions))
    return folder, found


class _Judge:
    """Makes judged attempts of solutions; `known` are the problems by id, of which attempts at the
    `wanted` are kept."""

    def __init__(
        self,
        run: Run,
        model: models.LanguageModel,
        known: dict[str, Problem],
        wanted: Set[str],
    ) -> None:
        self._task, self._model, self._known, self._wanted = run.task, model, known, wanted
        self._seen = Counter[str]()  # solutions of each problem so far
        self._prompts: dict[str, np.ndarray] = {}  # ids by problem, 4 bytes each

    def numbered(self, solutions: Sequence[ImportedSolution]) -> list[int]:
        """The place of each solution among those of its problem, counted from 0."""
        out = []
        for solution in solutions:
            out.append(self._seen[solution.problem_id])
            self._seen[solution.problem_id] += 1
        return out

    def part(
        self, solutions: Sequence[ImportedSolution], numbers: Sequence[int]
    ) -> tuple[list[Attempt], dict[str, int]]:
        """The attempts at wanted problems, and how often all labels agree with the verdicts."""
        codec = self._model.codec
        problems = [self._known[s.problem_id] for s in solutions]
        ids = codec.completions([s.text for s in solutions])
        asked = [
            Answer(problem, number, self._prompt(problem), Completion(completion, [], False))
            for problem, number, completion in zip(problems, numbers, ids, strict=True)
        ]
        attempts = [
            replace(attempt, source=solution.source, label=solution.label)
            for attempt, solution in zip(
                attempts_of(self._task, codec, asked), solutions, strict=True
            )
        ]
        labelled = [a for a in attempts if a.label is not None]
        labels = {
            "labels_checked": len(labelled),
            "labels_agree": sum(a.label == a.is_right for a in labelled),
        }
        kept = [a for a in attempts if a.problem_id in self._wanted]
        return kept, counts_of(kept) | labels

    def _prompt(self, problem: Problem) -> list[int]:
        if problem.id not in self._prompts:
            ids = self._model.prompts.policy(problem)
            self._prompts[problem.id] = np.array(ids, dtype=np.int32)  # [n]
        return self._prompts[problem.id].tolist()


def counts_of(attempts: Sequence[Attempt]) -> dict[str, int]:
    """What is added up over all parts, sampled or imported."""
    return {
        "attempts": len(attempts),
        "right": sum(a.is_right for a in attempts),
        "clipped": sum(a.clipped for a in attempts),
        "no_answer": sum(a.verdict == "no_answer" for a in attempts),
        "unparsable": sum(a.verdict == "unparsable" for a in attempts),
    }


def in_parts(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of `size`, the last one shorter; one list is held at a time."""
    it = iter(items)
    while some := list(islice(it, size)):
        yield some


def _splits(run: Run) -> dict[str, list[Problem]]:
    """The problems of every split that the task has."""
    found = {}
    for split in SPLITS:
        try:
            found[split] = run.task.problems(split)
        except ValueError as error:
            if split == "train":
                raise
            run.say(f"  {error}")
    return found
