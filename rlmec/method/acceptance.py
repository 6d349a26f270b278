"""From a wrong attempt to an accepted correction, or the reason why not.

In: a problem, an attempt and a proposed solution; out: a `Correction`. A proposal counts only if
its final answer is right and its token edit distance from the attempt, over the longer of the
two, is within a limit. Of several proposals the accepted one with the fewest edits stays. Token ids
are carried: where a proposal begins with whole lines of the attempt, those keep the attempt's ids
and only the rest is tokenised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile

from rlmec.method.alignment import edit_ratio
from rlmec.records import Attempt, Correction, Problem

REASONS: tuple[str, ...] = (
    "accepted",
    "no_proposal",
    "clipped",
    "unchanged",
    "not_right",
    "too_many_edits",
)
"""In the order in which they are asked: a correction has the first reason that holds."""

REFUSALS = ("over_budget", "refused", "failed")
"""Why a teacher may have no proposal, apart from "no_proposal": its budget is spent; the model
declined; it could not be asked (a server failed after all retries, or a prompt is too long)."""

Encode = Callable[[str], list[int]]
Decode = Callable[[list[int]], str]


def proposal_ids(
    attempt: Attempt, text: str, encode: Encode, decode: Decode, eos_id: int | None
) -> list[int]:
    """The ids of a proposed `text`, with the end token where there is one.

    `encode` adds no special tokens and `decode` shows none. Leading lines that the text shares with
    the attempt keep the attempt's ids, where one of its token boundaries lies behind them and the
    whole still decodes to the text.
    """
    ids = _carried(attempt, text, encode, decode) or encode(text)
    return [*ids, *([] if eos_id is None else [eos_id])]


def _carried(attempt: Attempt, text: str, encode: Encode, decode: Decode) -> list[int] | None:
    """Ids of `text` that begin with the attempt's own, None where no shared line allows it."""
    old, new = attempt.text.splitlines(keepends=True), text.splitlines(keepends=True)
    same = takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False))
    lines = [line for line, _ in same]
    while lines:
        head = "".join(lines)
        count = _boundary(attempt.completion_ids, head, decode)
        if count is not None:
            rest = text[len(head) :]
            ids = [*attempt.completion_ids[:count], *(encode(rest) if rest else [])]
            if decode(ids) == text:
                return ids
        lines.pop()
    return None


def _boundary(ids: list[int], head: str, decode: Decode) -> int | None:
    """The number of leading ids that decode to `head` exactly, found by halving."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        if len(decode(ids[:middle])) < len(head):
            low = middle + 1
        else:
            high = middle
    return low if decode(ids[:low]) == head else None


def judge_proposal(
    problem: Problem,
    attempt: Attempt,
    proposal_ids: Sequence[int] | None,
    proposal_text: str | None,
    *,
    judge: Callable[[str, Problem], str],
    max_edit_ratio: float,
    source: str,
    tokenizer: str,
    clipped: bool = False,
    without: str = "no_proposal",
) -> Correction:
    """The verdict on a proposal, with the first of `REASONS` that holds.

    `judge(text, problem)` gives the verdict; `clipped` says that the proposal was cut at a length
    limit, `without` is the reason where there is none. Ids of both sides count their end token.
    Raises ValueError where the attempt belongs to another problem, was tokenised otherwise or is
    right already, naming the ids.
    """
    if attempt.problem_id != problem.id:
        raise ValueError(
            f"attempt {attempt.id!r} answers problem {attempt.problem_id!r}, not {problem.id!r}"
        )
    if attempt.tokenizer != tokenizer:
        raise ValueError(
            f"attempt {attempt.id!r} was made with tokenizer {attempt.tokenizer[:12]}, "
            f"its proposal with {tokenizer[:12]}"
        )
    if attempt.is_right:
        raise ValueError(f"attempt {attempt.id!r} is right: only wrong attempts are corrected")
    if proposal_ids is None or proposal_text is None:
        ids, ratio, verdict, reason = [], 1.0, "no_answer", without
    else:
        ids = list(proposal_ids)
        ratio = edit_ratio(attempt.completion_ids, ids)
        verdict = judge(proposal_text, problem)
        reason = _reason(ids == attempt.completion_ids, verdict, ratio, max_edit_ratio, clipped)
    return Correction(
        attempt_id=attempt.id,
        problem_id=problem.id,
        completion_ids=ids,
        text=proposal_text or "",
        verdict=verdict,
        edit_ratio=ratio,
        reason=reason,
        source=source,
        tokenizer=tokenizer,
    )


def _reason(unchanged: bool, verdict: str, ratio: float, limit: float, clipped: bool) -> str:
    if clipped:
        return "clipped"
    if unchanged:
        return "unchanged"
    if verdict != "right":
        return "not_right"
    return "accepted" if ratio <= limit else "too_many_edits"


def best_of(corrections: Sequence[Correction]) -> Correction:
    """Of the verdicts on several proposals for one attempt: the accepted one with the smallest edit
    ratio, else the right one with the smallest, else the first; of equals the first."""
    right = [c for c in corrections if c.accepted] or [
        c for c in corrections if c.verdict == "right" and c.reason == "too_many_edits"
    ]
    return min(right, key=lambda c: c.edit_ratio) if right else corrections[0]


def count_reasons(corrections: Iterable[Correction]) -> dict[str, int]:
    """How many corrections have each of `REASONS`, zeros included, and each of a teacher's
    `REFUSALS` that occurs; ValueError for another."""
    counts: dict[str, int] = dict.fromkeys(REASONS, 0)
    for correction in corrections:
        if correction.reason in REFUSALS:
            counts.setdefault(correction.reason, 0)
        if correction.reason not in counts:
            raise ValueError(
                f"correction of attempt {correction.attempt_id!r}: reason {correction.reason!r} is "
                f"none of {', '.join((*REASONS, *REFUSALS))}"
            )
        counts[correction.reason] += 1
    return counts
