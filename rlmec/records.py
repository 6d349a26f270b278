"""What crosses from stage to stage: problems, attempts, corrections, scores; pairs built of them.

Every record is a frozen dataclass whose constructor checks that the per-token fields have equal
lengths, so that a row that does not fit is refused where it is made, with its id and both numbers.
Completions include their end-of-sequence token unless they were cut at the length limit. `schema`
gives the Arrow types a table of a record is written with; nothing here touches a disk, a model or a
configuration.
"""

from __future__ import annotations

import hashlib
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np

Verdict = Literal["right", "wrong", "no_answer", "unparsable", "timeout", "memory", "crash"]
"""What came of comparing an attempt's final answer with the gold answer. "no_answer": there is
none; "unparsable": the gold answer cannot be read; "timeout", "memory", "crash": the comparison was
given up at a limit or broke off, so that the answer counts as not right but is not known to be
wrong."""
VERDICTS: tuple[str, ...] = typing.get_args(Verdict)
UNDECIDED = ("timeout", "memory", "crash")

Ids = list[int]
Floats = list[float]


def is_wrong(verdict: str, clipped: bool) -> bool:
    """`Attempt.is_wrong` from the two fields that it hangs on."""
    right = verdict == "right" and not clipped
    return not right and verdict not in ("unparsable", *UNDECIDED)


def _same_length(record: str, id_: str, **lengths: int) -> None:
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} has {n}" for name, n in lengths.items())
        raise ValueError(f"{record} {id_!r}: fields of one completion differ in length: {shown}")


@dataclass(frozen=True)
class Problem:
    """A question with its gold answer and, where the data has one, a reference solution.

    `options` are the texts to choose from, in the order of their letters; none where the
    question is open.
    """

    id: str
    question: str
    answer: str
    solution: str | None = None
    kind: str = ""
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.id or not self.question.strip():
            raise ValueError(f"problem {self.id!r}: an id and a question are needed")
        object.__setattr__(self, "options", tuple(self.options))  # a table gives a list


@dataclass(frozen=True)
class Attempt:
    """A solution, sampled or imported: ids of the completion, judged by its final answer.

    `logprobs` are the sampler's own log-probabilities (nats), empty for imported solutions.
    `clipped` is True where the completion was cut at the length limit; such an attempt is never
    right. `label` is a verdict that came with imported data (None without one).
    """

    id: str
    problem_id: str
    prompt_ids: Ids
    completion_ids: Ids
    logprobs: Floats
    text: str
    verdict: str
    clipped: bool
    tokenizer: str
    source: str = "policy"
    label: bool | None = None

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(
                f"attempt {self.id!r}: verdict {self.verdict!r} is none of {', '.join(VERDICTS)}"
            )
        if not self.completion_ids:
            raise ValueError(f"attempt {self.id!r}: the completion has no token")
        if self.logprobs:
            _same_length(
                "attempt",
                self.id,
                completion_ids=len(self.completion_ids),
                logprobs=len(self.logprobs),
            )

    @property
    def is_right(self) -> bool:
        return self.verdict == "right" and not self.clipped

    @property
    def is_wrong(self) -> bool:
        """Whether it is known to be not right: neither with a gold answer that cannot be read nor
        with an answer that could not be compared."""
        return is_wrong(self.verdict, self.clipped)


@dataclass(frozen=True)
class Correction:
    """A rewrite of a wrong attempt, accepted or rejected with its reason.

    `edit_ratio` is the token edit distance divided by the longer of the two completions. `reason`
    is "accepted" or why not: "no_proposal", "not_right", "clipped", "too_many_edits", "unchanged",
    or why a teacher had no proposal: "over_budget", "refused", "failed".
    """

    attempt_id: str
    problem_id: str
    completion_ids: Ids
    text: str
    verdict: str
    edit_ratio: float
    reason: str
    source: str
    tokenizer: str

    @property
    def accepted(self) -> bool:
        return self.reason == "accepted"


@dataclass(frozen=True)
class Score:
    """Raw log-probs (nats) of an attempt's tokens: under the GRM's view and the old policy."""

    attempt_id: str
    grm_logprobs: Floats
    old_logprobs: Floats
    tokenizer: str

    def __post_init__(self) -> None:
        _same_length(
            "score of attempt",
            self.attempt_id,
            grm_logprobs=len(self.grm_logprobs),
            old_logprobs=len(self.old_logprobs),
        )


@dataclass(frozen=True)
class SequenceLogprobs:
    """Log-probs (nats) of the scored tokens of one sequence under one model."""

    id: str
    logprobs: Floats
    tokenizer: str


@dataclass(frozen=True)
class Pair:
    """An attempt and what it should have been, with the credit of every token.

    For a wrong attempt the target is its accepted correction; a right attempt is its own target.
    Arrays: `old_logprobs`, `token_rewards` run over the attempt's tokens, `edit_weights` over the
    target's.
    """

    attempt: Attempt
    target_ids: Ids
    old_logprobs: np.ndarray = field(repr=False)
    token_rewards: np.ndarray = field(repr=False)
    edit_weights: np.ndarray = field(repr=False)
    corrected_by: str = ""

    def __post_init__(self) -> None:
        _same_length(
            "pair of attempt",
            self.attempt.id,
            completion_ids=len(self.attempt.completion_ids),
            old_logprobs=len(self.old_logprobs),
            token_rewards=len(self.token_rewards),
        )
        _same_length(
            "pair of attempt",
            self.attempt.id,
            target_ids=len(self.target_ids),
            edit_weights=len(self.edit_weights),
        )


def require_same_tokenizer(expected: str, found: str, what: str) -> None:
    """Refuses records made with another tokenizer than the one in use (digests are compared)."""
    if expected != found:
        raise ValueError(
            f"{what} was made with tokenizer {found[:12]}, but {expected[:12]} is in use"
        )


def columns(record: type) -> dict[str, str]:
    """Field name to Arrow type name of a table of `record`, for records of plain fields only."""
    hints = typing.get_type_hints(record)
    return {f.name: _arrow_name(hints[f.name], f.name) for f in fields(record)}


def _arrow_name(hint: Any, name: str) -> str:
    if isinstance(hint, types.UnionType):
        hint = next(a for a in typing.get_args(hint) if a is not type(None))
    if typing.get_origin(hint) in (list, tuple):
        of = {int: "list<int32>", float: "list<float32>", str: "list<string>"}
        return of[typing.get_args(hint)[0]]
    plain = {str: "string", bool: "bool", int: "int64", float: "float64"}
    if hint not in plain:
        raise TypeError(f"field {name!r} of type {hint} has no column type")
    return plain[hint]


def by_id(records: Sequence[Any], key: str = "id") -> dict[str, Any]:
    """Records by their id; two records with one id are an error that names it."""
    out: dict[str, Any] = {}
    for record in records:
        if (k := getattr(record, key)) in out:
            raise ValueError(f"two {type(record).__name__} records with {key} {k!r}")
        out[k] = record
    return out


def hash_share(seed: int, what: str, id_: str) -> float:
    """A number in [0, 1) for an id: a fixed, evenly spread function of (seed, what, id).

    Numbers of different seeds or purposes are independent (those of a CRC differ by a constant
    only).
    """
    found = hashlib.sha256(f"{seed}/{what}/{id_}".encode()).digest()
    return int.from_bytes(found[:6], "big") / 2**48
