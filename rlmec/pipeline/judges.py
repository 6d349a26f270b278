"""Judges of generated text, for validation callbacks and predict passes.

In: completions as token ids, with the problems they answer. Out: judged attempts, corrections, or
the sums of figures that a validation averages over all ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from rlmec.evaluation.accuracy import AccuracyMetric
from rlmec.lm.generation import Completion
from rlmec.method.acceptance import count_reasons, judge_proposal
from rlmec.prompts import Codec
from rlmec.records import GRM, Attempt, Correction, Problem
from rlmec.runtime import signals
from rlmec.tasks.base import Judge, Task, judge_of


class Answer(NamedTuple):
    """The `number`-th completion of a problem's prompt, counted from 0."""

    problem: Problem
    number: int
    prompt_ids: list[int]
    completion: Completion


def attempts_of(task: Task, codec: Codec, answers: Sequence[Answer]) -> list[Attempt]:
    """Completions as judged attempts, in their order."""
    texts = [codec.text(a.completion.ids) for a in answers]
    judge = judge_of(task, texts, [a.problem for a in answers])
    return [
        Attempt(
            id=f"{problem.id}/{number}",
            problem_id=problem.id,
            prompt_ids=prompt_ids,
            completion_ids=completion.ids,
            logprobs=completion.logprobs,
            text=text,
            verdict=judge(text, problem),
            clipped=completion.clipped,
            tokenizer=codec.digest,
        )
        for (problem, number, prompt_ids, completion), text in zip(answers, texts, strict=True)
    ]


def accuracy_judge(task: Task, codec: Codec, problems: Sequence[Problem]):
    """A judge for `training.validation`: sums of right, clipped and unanswered completions."""

    def judge(numbers: list[int], completions: list[Completion]) -> dict[str, float]:
        metric = AccuracyMetric()
        texts = [codec.text(c.ids) for c in completions]
        about = [problems[i] for i in numbers]
        verdicts = list(map(judge_of(task, texts, about), texts, about))
        metric.update(verdicts, [c.clipped for c in completions])
        return {name: float(total) for name, total in metric.compute().items()}

    return judge


def correction_of(
    judge: Judge,
    codec: Codec,
    problem: Problem,
    attempt: Attempt,
    completion: Completion,
    max_edit_ratio: float,
) -> Correction:
    """The GRM's rewrite of a wrong attempt as a correction, accepted or rejected."""
    signals.check()
    return judge_proposal(
        problem,
        attempt,
        codec.with_end_of(completion.ids, attempt.completion_ids),
        codec.text(completion.ids),
        judge=judge,
        max_edit_ratio=max_edit_ratio,
        source=GRM,
        tokenizer=codec.digest,
        clipped=completion.clipped,
    )


def rewriting_judge(
    task: Task,
    codec: Codec,
    problems: dict[str, Problem],
    attempts: Sequence[Attempt],
    max_edit_ratio: float,
):
    """A judge for `training.validation`: sums of right and of accepted rewrites."""

    def judge(numbers: list[int], completions: list[Completion]) -> dict[str, float]:
        texts = [codec.text(c.ids) for c in completions]
        about = [problems[attempts[i].problem_id] for i in numbers]
        verdict = judge_of(task, texts, about)
        done = [
            correction_of(
                verdict,
                codec,
                problems[attempts[i].problem_id],
                attempts[i],
                completion,
                max_edit_ratio,
            )
            for i, completion in zip(numbers, completions, strict=True)
        ]
        return {
            "rewrite_right": float(sum(c.verdict == "right" for c in done)),
            "rewrite_success": float(sum(c.accepted for c in done)),
            "edit_ratio": float(sum(c.edit_ratio for c in done)),
            "count": float(len(done)),
        }

    return judge


def correction_metrics(corrections: Iterable[Correction], prefix: str) -> dict[str, Any]:
    """Counts of accepted and rejected corrections by reason, and the median edit ratio of the
    accepted ones. `corrections` is read once, so it may be a stream."""
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
