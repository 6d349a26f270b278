"""The trained policy asked again, for the stage `report`.

In: the attempts of the token-reward page and the trained policy. Out: for the most telling wrong
ones, the policy's greedy solution of the same problem and its log-prob of each of their tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from rlmec.lm.generation import Decoding
from rlmec.pipeline.attempts import attempt_parts
from rlmec.pipeline.chain import Stage
from rlmec.pipeline.models import LanguageModel
from rlmec.pipeline.score_sequences import attempt_row, score_sequences
from rlmec.records import Attempt
from rlmec.report.token_page import AskedAgain, Case, telling
from rlmec.store.tables import TableRecords


def to_ask(cases: Sequence[Case], most: int) -> list[Case]:
    """At most `most` wrong attempts, the most telling ones first, as the page sorts them."""
    wrong = [case for case in cases if not case.pair.attempt.is_right]
    return sorted(wrong, key=lambda case: -telling(case))[:most]


def asked_again(
    stage: Stage, work: Path, model: LanguageModel, cases: Sequence[Case]
) -> list[Case]:
    """The cases, `report.asked_again` of them with what the trained `model` makes of them.

    Its solutions are judged by the run's task. Both passes work by parts on all ranks, so that a
    report that was killed continues.
    """
    asked = to_ask(cases, stage.run.settings.report.asked_again)
    if not asked:
        return list(cases)
    run, s = stage.run, stage.run.settings.evaluate
    problems = {case.problem.id: case.problem for case in asked}
    folder = attempt_parts(
        stage,
        work,
        model,
        list(problems.values()),
        Decoding(s.completion_length),
        s,
        lambda attempts: {},
    )
    # Behind the parts, whose folder is cleared of all else when it is looked through.
    table = work / "parts" / "solutions.parquet"
    run.ranks.share(lambda: folder.merge("attempts", Attempt, table))
    solutions = {attempt.problem_id: attempt for attempt in TableRecords([table], Attempt)}

    scored = score_sequences(
        run,
        f"{stage.title} (log-probs)",
        model,
        [attempt_row(case.pair.attempt) for case in asked],
        work / "parts" / "new",
        part_size=s.part_size,
        precision=s.precision,
        seed=s.seed,
    )
    found = {
        case.pair.attempt.id: AskedAgain(list(own.logprobs), solutions[case.problem.id])
        for case, own in zip(asked, scored, strict=True)
    }
    return [dataclasses.replace(case, again=found.get(case.pair.attempt.id)) for case in cases]
