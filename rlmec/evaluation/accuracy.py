"""Figures of judged attempts: accuracy with its interval, pass@k, maj@k, two models compared.

In: attempts that carry their verdict (`records.Attempt` or stored outputs). The majority vote also
needs the task's `final_answer` and `judge`, which decide which answers of one problem are equal.
Out: plain numbers by name. Nothing here reads a disk or runs a model.

An attempt is right if its verdict is "right" and it was not cut at the length limit. An answer that
could not be compared within the limits of time and memory is not right, and is counted separately.
Attempts of a problem whose gold answer cannot be parsed enter no figure; `report` says how many
such problems there are.

Departure from the paper: the paper reports greedy accuracy alone. Intervals, pass@k, maj@k, and the
paired test are additions of this project.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from statistics import NormalDist, fmean
from typing import Protocol

import torch
from torch import Tensor
from torchmetrics import Metric

from rlmec.records import UNDECIDED, Problem, by_id

FinalAnswer = Callable[[str], str | None]
Judge = Callable[[str, Problem], str]


class Judged(Protocol):
    """The fields of an attempt that are read here.

    `records.Attempt` has them, and so has a stored output, whose `completion_ids` are empty.
    """

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
    """Return the Wilson score interval of the share `right / total`, both ends in [0, 1].

    With p the share, n = `total`, and z the normal quantile of `confidence`, the ends are
    (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n). `right` need not be a whole number:
    with several attempts per problem it is a sum of shares. Raises ValueError if `total` is not
    positive, if `right` is outside [0, total], or if `confidence` is outside (0, 1). Source:
    Wilson (1927).
    """
    if total <= 0 or not 0 <= right <= total:
        raise ValueError(f"{right} right of {total}: there is no share to give an interval of")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence is {confidence}; it must be between 0 and 1")

    # scipy.stats.binomtest has this interval for whole counts only; a test compares the two.
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = right / total
    square = z * z / total
    middle = share + square / 2
    spread = math.sqrt(square * (share * (1 - share) + square / 4))
    low = (middle - spread) / (1 + square)
    high = (middle + spread) / (1 + square)

    # Rounding may miss an upper end of 1; it never misses a lower end of 0.
    return low, 1.0 if right == total else high


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return the unbiased estimate, from c right attempts of n, that one of k attempts is right.

    It is 1 - C(n-c, k) / C(n, k), computed as the product 1 - prod_{i=n-c+1..n} (1 - k/i), which
    does not overflow. A factor is 0 if fewer than k attempts are wrong. Raises ValueError unless
    1 <= k <= n and 0 <= c <= n. Source: arXiv 2107.03374, eq. 1.
    """
    if not 1 <= k <= n or not 0 <= c <= n:
        raise ValueError(f"pass@{k} of {c} right attempts out of {n} is not defined")
    return 1.0 - math.prod(1.0 - k / i for i in range(n - c + 1, n + 1))


def maj_at_k(answers: Sequence[str | None], right: Sequence[bool], k: int) -> float:
    """Return the share of blocks of k attempts of one problem whose majority answer is right.

    `answers` are comparable final answers in the order of sampling, None for an attempt without a
    vote, and `right` are their verdicts. The result is the mean over the n // k blocks of k
    attempts; the remaining attempts, fewer than k, are left out. A tie counts as the share of tied
    answers that are right. A block without a vote is wrong. Raises ValueError if the lengths
    differ, if k is outside [1, n], if a right attempt has no answer, or if one answer is both right
    and wrong.
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
    """Return one name per attempt, equal for equal answers ("5,600", "5600"), None without one.

    All attempts are of `problem`. All right attempts share one name. A wrong attempt gets the first
    earlier wrong answer that `judge` calls equal to its own, otherwise its own answer. A clipped
    attempt has no answer.
    """
    out: list[str | None] = []
    names: dict[str, str] = {}  # wrong answer as written -> the first answer equal to it
    for attempt in attempts:
        if attempt.is_right:
            out.append("right")
            continue

        silent = attempt.clipped or attempt.verdict == "no_answer"
        answer = None if silent else final_answer(attempt.text)

        # The judge can be slow, so each way of writing a wrong answer is compared only once.
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
) -> dict[str, float]:
    """Return the figures of one evaluation; docs/metrics.md has their formulas.

    `accuracy` is the mean over problems of the share of right attempts; `accuracy_low` and
    `accuracy_high` are its 95 % Wilson interval. The sample size of the interval is the number of
    problems, because several attempts at one problem are not independent. If every problem has
    several attempts, the figures include pass@1 (the accuracy), and pass@k and maj@k for the powers
    of two up to the smallest number of attempts. Raises ValueError if there is no attempt to judge.
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

    # Stored outputs carry no token ids, so their length in tokens is not known.
    if any(a.completion_ids for a in judged):
        out["completion_tokens/mean"] = fmean(len(a.completion_ids) for a in judged)

    if min(map(len, groups)) > 1:
        known = by_id(problems)
        answers = [
            comparable_answers(known[group[0].problem_id], group, final_answer, judge)
            for group in groups
        ]
        out |= _sampling_figures(groups, answers)
    return out


def _sampling_figures(
    groups: Sequence[Sequence[Judged]], answers: Sequence[list[str | None]]
) -> dict[str, float]:
    """pass@k and maj@k for the powers of two up to the smallest number of attempts."""
    right = [[a.is_right for a in group] for group in groups]
    fewest = min(map(len, groups))
    out = {"pass@1": fmean(fmean(r) for r in right)}
    for k in (2**e for e in range(1, fewest.bit_length())):
        out[f"pass@{k}"] = fmean(pass_at_k(len(r), sum(r), k) for r in right)
        out[f"maj@{k}"] = fmean(maj_at_k(a, r, k) for a, r in zip(answers, right, strict=True))
    return out


def _by_problem(attempts: Iterable[Judged]) -> list[list[Judged]]:
    """The attempts grouped by problem, without problems whose gold answer cannot be parsed."""
    groups: dict[str, list[Judged]] = {}
    for attempt in attempts:
        if attempt.verdict != "unparsable":
            groups.setdefault(attempt.problem_id, []).append(attempt)
    if not groups:
        raise ValueError(
            "no attempt to judge: there are none, or none of their gold answers can be parsed"
        )
    return list(groups.values())


def mode_figures(attempts: Sequence[Judged], right: Sequence[bool], mode: str) -> dict[str, float]:
    """Return `accuracy_<mode>` with its interval: the same attempts under another reading.

    `right` has the verdict of that reading per attempt. The mean, the problems, and the interval
    are those of `report`. Raises ValueError if the lengths differ.
    """
    verdicts = {id(a): r for a, r in zip(attempts, right, strict=True)}
    groups = _by_problem(attempts)
    accuracy = fmean(fmean(verdicts[id(a)] for a in group) for group in groups)
    low, high = wilson(accuracy * len(groups), len(groups))
    name = f"accuracy_{mode}"
    return {name: accuracy, f"{name}_low": low, f"{name}_high": high}


def by_kind(attempts: Sequence[Judged], problems: Sequence[Problem]) -> dict[str, tuple[int, int]]:
    """Return (right, total) attempts per kind of problem, the kinds in alphabetical order.

    Raises ValueError if an attempt is at a problem that is not in `problems`.
    """
    known = by_id(problems)
    counts: dict[str, tuple[int, int]] = {}
    for attempt in (a for group in _by_problem(attempts) for a in group):
        if attempt.problem_id not in known:
            raise ValueError(
                f"attempt {attempt.id!r}: no problem {attempt.problem_id!r} among {len(known)}"
            )
        kind = known[attempt.problem_id].kind
        right, total = counts.get(kind, (0, 0))
        counts[kind] = (right + attempt.is_right, total + 1)
    return dict(sorted(counts.items()))


def paired_difference(first: Sequence[Judged], second: Sequence[Judged]) -> dict[str, float]:
    """Compare two models on the same problems, one attempt each.

    `problems`, `both`, `only_first`, `only_second`, and `neither` count problems. `difference` is
    the accuracy of the second model minus that of the first. `p_value` is McNemar's exact two-sided
    test: a binomial test of the two `only` counts at 1/2, which is 1 if both counts are 0. Problems
    that either side calls "unparsable" are left out. Raises ValueError if the two sides have
    different problems, if a problem has two attempts on one side, or if no problem is left.
    """
    left = by_id(first, "problem_id")
    right = by_id(second, "problem_id")
    missing = sorted(left.keys() ^ right.keys())
    if missing:
        raise ValueError(
            f"{len(left)} and {len(right)} problems are not the same: {missing[0]!r} is in one "
            f"only ({len(left.keys() - right.keys())} are in the first alone, "
            f"{len(right.keys() - left.keys())} in the second alone)"
        )

    pairs = [
        (left[p].is_right, right[p].is_right)
        for p in left
        if "unparsable" not in (left[p].verdict, right[p].verdict)
    ]
    if not pairs:
        raise ValueError("no problem to compare two models on: no gold answer can be parsed")

    counts = Counter(pairs)
    only_first = counts[True, False]
    only_second = counts[False, True]
    return {
        "problems": float(len(pairs)),
        "both": float(counts[True, True]),
        "only_first": float(only_first),
        "only_second": float(only_second),
        "neither": float(counts[False, False]),
        "difference": (only_second - only_first) / len(pairs),
        "p_value": _mcnemar_p_value(only_first, only_second),
    }


def _mcnemar_p_value(only_first: int, only_second: int) -> float:
    # scipy.stats takes more than a second to import, which a run that compares nothing saves.
    from scipy.stats import binomtest

    differing = only_first + only_second
    return float(binomtest(only_first, differing, 0.5).pvalue) if differing else 1.0


class AccuracyMetric(Metric):
    """Counts of right, clipped, and unanswered completions, exact over batches.

    Validation divides these counts by `count` after it has added them over the ranks.
    """

    full_state_update = False
    right: Tensor
    clipped: Tensor
    no_answer: Tensor
    count: Tensor

    def __init__(self) -> None:
        # The caller adds the counts of all ranks itself, next to its other sums.
        super().__init__(sync_on_compute=False)
        for name in ("right", "clipped", "no_answer", "count"):
            self.add_state(name, torch.tensor(0, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, verdicts: Sequence[str], clipped: Sequence[bool]) -> None:
        """Count completions by their verdicts; a clipped completion is not right.

        Raises ValueError if the lengths differ.
        """
        self.right += sum(v == "right" and not c for v, c in zip(verdicts, clipped, strict=True))
        self.clipped += sum(map(bool, clipped))
        self.no_answer += sum(v == "no_answer" for v in verdicts)
        self.count += len(verdicts)

    def compute(self) -> dict[str, Tensor]:
        """Return the counts as 0-d int64 tensors, under the names of the shares made of them."""
        return {
            "accuracy": self.right,
            "clipped_rate": self.clipped,
            "no_answer_rate": self.no_answer,
            "count": self.count,
        }
