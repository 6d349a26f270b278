"""Ready-made solutions as judged attempts, by parts of a file: the alternative to sampling.

In: the file `sample.path` and the task's problems. Out: finished parts, in which every solution of
the file is tokenised and judged. The file is read twice, because every row is checked before the
first verdict. Memory grows with the problems, not with the solutions.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import numpy as np

from rlmec.lm.generation import Completion
from rlmec.pipeline import models
from rlmec.pipeline.chain import Run
from rlmec.pipeline.judges import Answer, attempts_of
from rlmec.pipeline.predict import Tables, in_parts, make_parts
from rlmec.records import Attempt, Problem, by_id
from rlmec.runtime.display import Bar
from rlmec.store.parts import PartFolder
from rlmec.tasks.base import SPLITS
from rlmec.tasks.solution_files import Found, ImportedSolution, SolutionFile
from rlmec.training.predict_parts import cut

PART = 4096
"""Solutions of a part."""


def import_parts(
    run: Run, title: str, work: Path, model: models.LanguageModel
) -> tuple[PartFolder, Found]:
    """The finished parts of the file `sample.path`, and what was found in it.

    Each part has a table of `attempts` at the wanted problems and the counts of `_Judge.part`.
    Raises ValueError if the file changes meanwhile.
    """
    s = run.settings.sample
    splits = _splits(run)
    known = by_id([problem for problems in splits.values() for problem in problems])
    file = solution_file(run, list(known.values()))
    found = file.found()
    if found.unknown_rows or found.blank_solutions:
        run.say(
            f"  {title}: {found.unknown_rows} of {found.rows} rows are of other problems and "
            f"{found.blank_solutions} solutions are blank; they are left out"
        )
    judge = _Judge(run, model, known, {p.id for p in splits["train"][: s.max_problems]})

    # Solutions are numbered per problem over the whole file, so parts that are made already are
    # counted as well.
    sizes = [len(which) for which in cut(found.solutions, PART)]
    parts = (
        (solutions, judge.numbered(solutions))
        for solutions in _checked_parts(str(s.path), file, sizes)
    )
    folder = PartFolder(work / "parts", len(sizes))
    bar = Bar(title, found.solutions, "solutions", wanted=run.settings.trainer.progress_bar)
    with contextlib.closing(bar):
        make_parts(
            run,
            title,
            folder,
            parts,
            lambda part: judge.part(*part),
            first_item=lambda part: part[0][0].problem_id,
            passed=lambda part: bar.advance(len(part[0])),
        )
    return folder, found


def solution_file(run: Run, problems: Sequence[Problem]) -> SolutionFile:
    """The file `sample.path` with its solutions of the given problems."""
    s = run.settings.sample
    return SolutionFile(
        str(s.path),
        problems,
        s.text_field,
        s.label_field,
        s.question_field,
        clean=getattr(run.task, "clean", None),
    )


def _checked_parts(
    path: str, file: Iterable[ImportedSolution], sizes: Sequence[int]
) -> Iterator[list[ImportedSolution]]:
    """The file's solutions in parts; ValueError if their sizes are not those counted before."""
    for size, solutions in zip_longest(sizes, in_parts(file, PART)):
        if size is None or solutions is None or len(solutions) != size:
            raise ValueError(f"{path} has changed since its rows were counted")
        yield solutions


class _Judge:
    """Turns solutions into judged attempts.

    `known` are the problems by id; attempts at the `wanted` ones are kept.
    """

    def __init__(
        self,
        run: Run,
        model: models.LanguageModel,
        known: dict[str, Problem],
        wanted: Set[str],
    ) -> None:
        self._task = run.task
        self._model = model
        self._known = known
        self._wanted = wanted
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
    ) -> tuple[Tables, dict[str, int]]:
        """A part's attempts at wanted problems; its counts, with how often labels agree.

        Labels are counted over all solutions of the part, also at problems that are not wanted.
        """
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
        return {"attempts": (kept, Attempt)}, counts_of(kept) | labels

    def _prompt(self, problem: Problem) -> list[int]:
        if problem.id not in self._prompts:
            ids = self._model.prompts.policy(problem)
            self._prompts[problem.id] = np.array(ids, dtype=np.int32)  # [n]
        return self._prompts[problem.id].tolist()


def counts_of(attempts: Sequence[Attempt]) -> dict[str, int]:
    """The counts of a part that are added up over all parts, sampled or imported."""
    return {
        "attempts": len(attempts),
        "right": sum(a.is_right for a in attempts),
        "clipped": sum(a.clipped for a in attempts),
        "no_answer": sum(a.verdict == "no_answer" for a in attempts),
        "unparsable": sum(a.verdict == "unparsable" for a in attempts),
    }


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
