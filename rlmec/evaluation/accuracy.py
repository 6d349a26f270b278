"""Figures of judged attempts: accuracy with its interval, pass@k, maj@k, two models compared.

In: attempts that carry their verdict (`records.Attempt`); the task's `final_answer` and `judge` are
asked only which answers of one problem are the same, for the majority vote. Out: plain numbers by
name. No model, no disk.

An attempt is right where its verdict is right and it was not cut at the length limit; one whose
answer could not be compared within the limits is not right, and counted apart. Attempts of a
problem whose gold answer cannot be parsed are in no figure; `report` says how many there are. The
paper reports greedy accuracy alone; intervals, pass@k and maj@k are ours.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from statistics import NormalDist, fmean
from typing import Any, Protocol

import torch
from torch import Tensor
from torchmetrics import Metric

from rlmec.records import UNDECIDED, Problem, by_id

FinalAnswer = Callable[[str], str | None]
Judge = Callable[[str, Problem], str]


class Judged(Protocol):
    """What is read of an attempt: records.Attempt, or a stored output without token ids."""

    @property
    def id(self) -> str: ...
    @property
    def problem_id(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def verdict(self) -> str: ...
    @property
    def clipped(self) -> bool: ...
    @property
    def completion_ids(self) -> list[int]: ...
    @property
    def is_right(self) -> bool: ...


def wilson(right: float, total: float, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a share `right / total`, both ends in [0, 1].

    With p the share, n = total and z the normal quantile of `confidence`: (p + z^2/2n
    +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n). No total, a count of right ones outside
    [0, total] or a confidence outside (0, 1) raise ValueError. Source: Wilson 1927.
    """
    if total <= 0 or not 0 <= right <= total:
        raise ValueError(f"{right} right of {total}: no share to give an interval of")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, square = right / total, z * z / total
    middle = share + square / 2
    spread = math.sqrt(square * (share * (1 - share) + square / 4))
    low, high = (middle - spread) / (1 + square), (middle + spread) / (1 + square)
    return low, 1.0 if right == total else high  # rounding may miss 1, never 0


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that one of k attempts is right, estimated without bias from c right ones of n.

    1 - C(n-c, k) / C(n, k), as the product 1 - prod_{i=n-c+1..n} (1 - k/i), which does not
    overflow; a factor is 0 where fewer than k are wrong. Not 1 <= k <= n or not 0 <= c <= n raise
    ValueError. Source: arXiv 2107.03374, eq. 1.
    """
    if not 1 <= k <= n or not 0 <= c <= n:
        raise ValueError(f"pass@{k} of {c} right attempts out of {n} is not defined")
    return 1.0 - math.prod(1.0 - k / i for i in range(n - c + 1, n + 1))


def maj_at_k(answers: Sequence[str | None], right: Sequence[bool], k: int) -> float:
    """The chance that the majority answer of k attempts of one problem is right.

    `answers` are comparable final answers (None: no vote), `right` their verdicts, in the order of
    sampling. The mean over the n // k blocks of k attempts; the rest, fewer than k, is left out. A
    tie counts by the share of tied answers that are right; a block without a vote is wrong. Other
    lengths, k outside [1, n], a right attempt without an answer and an answer that is both right
    and wrong raise ValueError.
    """
    n = len(answers)
    if len(right) != n or not 1 <= k <= n:
        raise ValueError(f"maj@{k} of {n} answers with {len(right)} verdicts is not defined")
    verdicts: dict[str | None, bool] = {None: False}
    for answer, is_right in zip(answers, right, strict=True):
        if verdicts.setdefault(answer, is_right) != is_right:
            raise ValueError(f"the answer {answer!r} of one problem is both right and wrong")
    blocks = [answers[at : at + k] for at in range(0, n - k + 1, k)]
    return fmean(_vote(block, verdicts) for block in blocks)


def _vote(block: Sequence[str | None], verdicts: dict[str | None, bool]) -> float:
    votes = Counter(answer for answer in block if answer is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    return fmean(verdicts[answer] for answer, count in votes.items() if count == most)


def comparable_answers(
    problem: Problem, attempts: Sequence[Judged], final_answer: FinalAnswer, judge: Judge
) -> list[str | None]:
    """A name for every attempt's answer, equal answers ("5,600", "5600") under one; None for none.

    The attempts are of `problem`. All right ones share one name. A wrong one takes the first
    earlier wrong answer that `judge` holds equal to its own, or else its own words. A clipped
    attempt has no answer.
    """
    out: list[str | None] = []
    names: dict[str, str] = {}  # wrong answers as written -> the first one equal to each
    for attempt in attempts:
        if attempt.is_right:
            out.append("right")
            continue
        silent = attempt.clipped or attempt.verdict == "no_answer"
        answer = None if silent else final_answer(attempt.text)
        if answer is not None and answer not in names:
            equal = (
                name
                for name in names.values()
                if judge(attempt.text, replace(problem, answer=name)) == "right"
            )
            names[answer] = next(equal, answer)
        out.append(None if answer is None else f"wrong: {names[answer]}")
    return out


def report(
    attempts: Sequence[Judged],
    problems: Sequence[Problem],
    final_answer: FinalAnswer,
    judge: Judge,
    k_values: Sequence[int] | None = None,
) -> dict[str, float]:
    """The figures of one evaluation; docs/metrics.md has their formulas.

    `accuracy` is the mean over problems of the share of right attempts, `accuracy_low` and
    `accuracy_high` its 95 % Wilson interval with the number of problems as the sample size (also
    with several attempts each, which are not independent: on the safe side). With several attempts
    for every problem come pass@1 (the accuracy), pass@k and maj@k for `k_values`, by default the
    powers of two up to the smallest number of attempts. No attempt to judge, or a k beyond that
    number, raise ValueError.
    """
    groups = _by_problem(attempts)
    judged = [attempt for group in groups for attempt in group]
    accuracy = fmean(fmean(a.is_right for a in group) for group in groups)
    low, high = wilson(accuracy * len(groups), len(groups))
    out = {
        "accuracy": accuracy,
        "accuracy_low": low,
        "accuracy_high": high,
        "problems": float(len(groups)),
        "unparsable": float(len({a.problem_id for a in attempts if a.verdict == "unparsable"})),
        "no_answer_rate": fmean(a.verdict == "no_answer" for a in judged),
        **{f"{name}_rate": fmean(a.verdict == name for a in judged) for name in UNDECIDED},
        "clipped_rate": fmean(a.clipped for a in judged),
    }
    if any(a.completion_ids for a in judged):
        out["completion_tokens/mean"] = fmean(len(a.completion_ids) for a in judged)
    fewest = min(len(group) for group in groups)
    if k_values is None:
        k_values = [2**e for e in range(1, fewest.bit_length())]
    if fewest > 1 or k_values:
        out["pass@1"] = accuracy
        known = by_id(problems)
        answers = [
            comparable_answers(known[group[0].problem_id], group, final_answer, judge)
            for group in groups
        ]
        out |= _sampling_figures(groups, answers, [k for k in k_values if k != 1])
    return out


def _sampling_figures(
    groups: Sequence[Sequence[Judged]],
    answers: Sequence[list[str | None]],
    k_values: Sequence[int],
) -> dict[str, float]:
    right = [[a.is_right for a in group] for group in groups]
    out: dict[str, float] = {}
    for k in k_values:
        out[f"pass@{k}"] = fmean(pass_at_k(len(r), sum(r), k) for r in right)
        out[f"maj@{k}"] = fmean(maj_at_k(a, r, k) for a, r in zip(answers, right, strict=True))
    return out


def _by_problem(attempts: Iterable[Judged]) -> list[list[Judged]]:
    groups: dict[str, list[Judged]] = {}
    for attempt in attempts:
        if attempt.verdict != "unparsable":
            groups.setdefault(attempt.problem_id, []).append(attempt)
    if not groups:
        raise ValueError("no attempt to judge: none at all, or no gold answer can be parsed")
    return list(groups.values())


def mode_figures(attempts: Sequence[Judged], right: Sequence[bool], mode: str) -> dict[str, float]:
    """Accuracy of the same attempts under another reading: `accuracy_<mode>` with its interval.

    `right` are the verdicts of that reading, one an attempt; the mean, the problems and the
    interval are those of `report`. Other lengths raise ValueError.
    """
    verdicts = {id(a): r for a, r in zip(attempts, right, strict=True)}
    groups = _by_problem(attempts)
    accuracy = fmean(fmean(verdicts[id(a)] for a in group) for group in groups)
    low, high = wilson(accuracy * len(groups), len(groups))
    name = f"accuracy_{mode}"
    return {name: accuracy, f"{name}_low": low, f"{name}_high": high}


def by_kind(attempts: Sequence[Judged], problems: Sequence[Problem]) -> dict[str, tuple[int, int]]:
    """(right, total) attempts of every kind of problem, the kinds in alphabetical order.

    An attempt at a problem that is not in `problems` raises ValueError.
    """
    known = by_id(problems)
    counts: dict[str, tuple[int, int]] = {}
    for attempt in (a for group in _by_problem(attempts) for a in group):
        if attempt.problem_id not in known:
            raise ValueError(f"attempt {attempt.id!r}: no problem {attempt.problem_id!r}")
        kind = known[attempt.problem_id].kind
        right, total = counts.get(kind, (0, 0))
        counts[kind] = (right + attempt.is_right, total + 1)
    return dict(sorted(counts.items()))


def paired_difference(first: Sequence[Judged], second: Sequence[Judged]) -> dict[str, float]:
    """Two models on the same problems, one attempt each: what only one of them gets right.

    `problems`, `both`, `only_first`, `only_second`, `neither` count problems; `difference` is the
    accuracy of the second less that of the first. `p_value` is McNemar's exact two-sided test:
    with b, c the two `only` counts, min(1, 2 P[X <= min(b, c)]), X binomial(b + c, 1/2); 1 where
    b + c = 0. Other problems on one side, or two attempts at one, raise ValueError.
    """
    left, right = by_id(first, "problem_id"), by_id(second, "problem_id")
    if missing := sorted(left.keys() ^ right.keys()):
        sides = [len(left.keys() - right.keys()), len(right.keys() - left.keys())]
        raise ValueError(
            f"{len(left)} and {len(right)} problems are not the same: {missing[0]!r} is in one "
            f"only ({sides[0]} are in the first alone, {sides[1]} in the second alone)"
        )
    pairs = [
        (left[p].is_right, right[p].is_right)
        for p in left
        if "unparsable" not in (left[p].verdict, right[p].verdict)
    ]
    if not pairs:
        raise ValueError("no problem to compare two models on")
    counts = Counter(pairs)
    b, c = counts[True, False], counts[False, True]
    tail = sum(math.comb(b + c, i) for i in range(min(b, c) + 1))
    return {
        "problems": float(len(pairs)),
        "both": float(counts[True, True]),
        "only_first": float(b),
        "only_second": float(c),
        "neither": float(counts[False, False]),
        "difference": (c - b) / len(pairs),
        "p_value": min(1.0, 2 * tail / 2 ** (b + c)),
    }


class AccuracyMetric(Metric):
    """Accuracy, clipped and no-answer rates and mean length over batches and ranks, exact.

    Keywords are torchmetrics' own (`sync_on_compute`). A rank without an attempt updates with
    empty lists, or not at all.
    """

    full_state_update = False
    right: Tensor
    total: Tensor
    clipped: Tensor
    no_answer: Tensor
    tokens: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("right", "total", "clipped", "no_answer", "tokens"):
            self.add_state(name, torch.tensor(0, dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self,
        right: Sequence[bool],
        clipped: Sequence[bool],
        no_answer: Sequence[bool],
        tokens: Sequence[int],
    ) -> None:
        """One entry an attempt in each list, `tokens` its completion length; a clipped one is not
        right. Lists of different lengths raise ValueError."""
        lengths = [len(values) for values in (right, clipped, no_answer, tokens)]
        if len(set(lengths)) > 1:
            raise ValueError(f"flags of the same attempts differ in number: {lengths}")
        self.right += sum(bool(r) and not c for r, c in zip(right, clipped, strict=True))
        self.total += lengths[0]
        self.clipped += sum(map(bool, clipped))
        self.no_answer += sum(map(bool, no_answer))
        self.tokens += sum(tokens)

    def compute(self) -> dict[str, Tensor]:
        """`accuracy`, `clipped_rate`, `no_answer_rate`, `completion_tokens/mean` and `attempts`,
        float64 0-d. No attempt on any rank raises ValueError."""
        if not int(self.total):
            raise ValueError("no attempt to judge on any rank")
        sums = {
            "accuracy": self.right,
            "clipped_rate": self.clipped,
            "no_answer_rate": self.no_answer,
            "completion_tokens/mean": self.tokens,
        }
        total = self.total.double()
        return {name: value.double() / total for name, value in sums.items()} | {"attempts": total}
