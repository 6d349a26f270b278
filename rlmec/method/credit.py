"""Credit quality: how well the punished tokens of wrong attempts match the removed ones.

In: for every wrong attempt its token rewards, the old policy's log-probabilities and the edit
script to a trusted correction (the oracle's, or the accepted one where there is no oracle). Out:
precision and recall over the tokens of all attempts (micro-averaged), with the base rate and two
rivals that need no reward model. The paper has no such measurement.

A pure insertion removes no token of the attempt. In an attempt whose script only inserts, every
punished token therefore lowers precision, and recall is not affected. Such attempts are also
counted on their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from rlmec.method.alignment import EditScript
from rlmec.records import Attempt, Score


@dataclass(frozen=True, eq=False)
class CreditItem:
    """One wrong attempt of n tokens.

    `removed` is bool [n], True where the correction removes the token. `first_edit` is the position
    of the first edit in the attempt (n where tokens are only appended, None where nothing is
    edited). Only `precision_recall_curve` needs `grm_logprobs` (nats). Raises ValueError for an
    array of another length or with NaN.
    """

    id: str
    token_rewards: np.ndarray = field(repr=False)
    old_logprobs: np.ndarray = field(repr=False)
    removed: np.ndarray = field(repr=False)
    first_edit: int | None
    grm_logprobs: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        count = len(self.removed)
        for name in ("token_rewards", "old_logprobs", "grm_logprobs"):
            values = getattr(self, name)
            if values is None:
                continue
            if len(values) != count:
                raise ValueError(
                    f"attempt {self.id!r}: {name} has {len(values)} values, removed has {count}"
                )
            if np.isnan(values).any():
                raise ValueError(f"attempt {self.id!r}: {name} holds NaN")

    @classmethod
    def from_script(
        cls,
        id: str,
        script: EditScript,
        token_rewards: np.ndarray,
        old_logprobs: np.ndarray,
        grm_logprobs: np.ndarray | None = None,
    ) -> CreditItem:
        """An item from the edit script that turns the attempt into its correction."""
        return cls(id, token_rewards, old_logprobs, script.removed, script.first_edit, grm_logprobs)

    @property
    def insertion_only(self) -> bool:
        """Whether the correction adds tokens and removes none."""
        return self.first_edit is not None and not self.removed.any()


@dataclass(frozen=True)
class Agreement:
    """How well marked tokens match the removed ones; a share without a denominator is NaN."""

    precision: float
    recall: float
    marked: int


@dataclass(frozen=True)
class CreditQuality:
    """How well the punished tokens (reward < 0) match the removed ones, and what to compare with.

    `base_rate` is the share of removed tokens, which is the precision of punishing at random. The
    rival `unlikely` marks as many tokens as are punished, those with the lowest probability under
    the old policy over all attempts (of equal ones, that of the earlier attempt and position). The
    rival `after_edit` marks every token from the first edit of its attempt on.
    """

    punished: Agreement
    unlikely: Agreement
    after_edit: Agreement
    base_rate: float
    attempts: int
    tokens: int
    removed: int
    insertion_only: int
    insertion_only_punished: int

    def metrics(self) -> dict[str, float]:
        """The figures under flat names `credit_*` for logs and tables.

        Counts are int. A share without a denominator is left out.
        """
        out = {
            "credit_precision": self.punished.precision,
            "credit_recall": self.punished.recall,
            "credit_base_rate": self.base_rate,
            "credit_unlikely_precision": self.unlikely.precision,
            "credit_unlikely_recall": self.unlikely.recall,
            "credit_after_edit_precision": self.after_edit.precision,
            "credit_after_edit_recall": self.after_edit.recall,
            "credit_punished": self.punished.marked,
        }
        out |= {f"credit_{k}": v for k, v in asdict(self).items() if isinstance(v, int)}
        return {name: value for name, value in out.items() if not math.isnan(value)}


@dataclass(frozen=True)
class CurvePoint:
    """Agreement when every token with p < `threshold` is punished."""

    threshold: float
    precision: float
    recall: float
    marked: int


def credit_quality(items: Sequence[CreditItem]) -> CreditQuality:
    """Precision and recall of the punished tokens of wrong attempts, with base rate and rivals.

    Every token counts alike (micro-average). A share over no token is NaN. Raises ValueError if
    there are no items.
    """
    if not items:
        raise ValueError("no wrong attempt to measure credit on")
    removed = _joined(items, "removed").astype(bool)  # [tokens]
    punished = _joined(items, "token_rewards") < 0  # [tokens]

    order = np.argsort(_joined(items, "old_logprobs"), kind="stable")  # [tokens]
    unlikely = np.zeros(len(removed), dtype=bool)  # [tokens]
    unlikely[order[: int(punished.sum())]] = True
    after = np.concatenate([_after_edit(item) for item in items])  # [tokens]

    inserting = [item for item in items if item.insertion_only]
    return CreditQuality(
        punished=_agreement(punished, removed),
        unlikely=_agreement(unlikely, removed),
        after_edit=_agreement(after, removed),
        base_rate=_share(int(removed.sum()), len(removed)),
        attempts=len(items),
        tokens=len(removed),
        removed=int(removed.sum()),
        insertion_only=len(inserting),
        insertion_only_punished=sum(int((i.token_rewards < 0).sum()) for i in inserting),
    )


def precision_recall_curve(
    items: Sequence[CreditItem], thresholds: Sequence[float]
) -> list[CurvePoint]:
    """How well the tokens with p = exp(grm_logprobs) < threshold match the removed ones.

    Returns one point per threshold. Raises ValueError if there are no items or one of them has no
    `grm_logprobs`.
    """
    if not items:
        raise ValueError("no wrong attempt to measure credit on")
    missing = [item.id for item in items if item.grm_logprobs is None]
    if missing:
        raise ValueError(f"attempt {missing[0]!r} has no grm_logprobs")
    removed = _joined(items, "removed").astype(bool)  # [tokens]
    probability = np.exp(_joined(items, "grm_logprobs").astype(np.float64))  # [tokens]
    points = []
    for threshold in thresholds:
        found = _agreement(probability < threshold, removed)
        points.append(CurvePoint(float(threshold), found.precision, found.recall, found.marked))
    return points


def copied_share(attempts: Sequence[Attempt], scores: Sequence[Score]) -> float | None:
    """Share of right attempts' tokens that the GRM would copy (probability above 1/2).

    Returns None if no attempt is right. Raises ValueError if attempts and scores are not in the
    same order.
    """
    copied = 0
    tokens = 0
    for attempt, score in zip(attempts, scores, strict=True):
        if attempt.id != score.attempt_id:
            raise ValueError(
                f"attempt {attempt.id!r} comes with the score of {score.attempt_id!r}: both "
                "lists must have the same order"
            )
        if attempt.is_right:
            likely = np.asarray(score.grm_logprobs) > math.log(0.5)  # [n]
            copied += int(np.count_nonzero(likely))
            tokens += len(likely)
    return copied / tokens if tokens else None


def _joined(items: Sequence[CreditItem], name: str) -> np.ndarray:
    return np.concatenate([np.asarray(getattr(item, name)) for item in items])


def _after_edit(item: CreditItem) -> np.ndarray:
    """True from the first edit of the attempt on, bool [n]."""
    marked = np.zeros(len(item.removed), dtype=bool)  # [n]
    if item.first_edit is not None:
        marked[item.first_edit :] = True
    return marked


def _agreement(marked: np.ndarray, removed: np.ndarray) -> Agreement:
    hits = int((marked & removed).sum())
    count = int(marked.sum())
    return Agreement(_share(hits, count), _share(hits, int(removed.sum())), count)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
