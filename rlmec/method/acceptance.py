"""Whether a proposed solution becomes the accepted correction of a wrong attempt.

In: a problem, a wrong attempt and a proposed solution. Out: a `Correction`, accepted or with the
reason why not. A proposal is accepted if its final answer is right and its edit ratio (the token
edit distance from the attempt, divided by the longer of the two) is within a limit. Of several
accepted proposals, the one with the smallest edit ratio is taken.

Token ids are carried over: where a proposal begins with whole lines of the attempt, these lines
keep the attempt's ids, and only the rest is tokenised.

Departs from the paper, which accepts every proposal with the right answer: the limit on the edit
ratio is this project's (docs/method.md, step 3).
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
"""The reasons of a correction; after "accepted", in the order in which they are checked."""

REFUSALS = ("over_budget", "refused", "failed")
"""Reasons for which a teacher has no proposal, besides "no_proposal".

Its budget is spent; the model declined; or the model could not be asked (a server failed after all
retries, or a prompt is too long).
"""

Encode = Callable[[str], list[int]]
Decode = Callable[[list[int]], str]


def proposal_ids(
    attempt: Attempt, text: str, encode: Encode, decode: Decode, end_id: int | None
) -> list[int]:
    """Token ids of a proposed `text`, followed by `end_id` unless it is None.

    `encode` adds no special tokens and `decode` shows none. Leading lines that the text shares with
    the attempt keep the attempt's ids, provided that a token boundary of the attempt lies behind
    them and that all ids together still decode to the text.
    """
    ids = _carried_ids(attempt, text, encode, decode)
    if ids is None:
        ids = encode(text)
    return ids if end_id is None else [*ids, end_id]


def _carried_ids(attempt: Attempt, text: str, encode: Encode, decode: Decode) -> list[int] | None:
    """Ids of `text` that begin with the attempt's own ids, None where no shared line allows it."""
    old = attempt.text.splitlines(keepends=True)
    new = text.splitlines(keepends=True)
    same = takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False))
    lines = [line for line, _ in same]

    # A token may reach across a line break, so the longest shared head does not always end at a
    # token boundary; a shorter one may.
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
    """The number of leading ids that decode to exactly `head`, None where there is none.

    The length of the decoded text grows with the number of ids, so a binary search finds it.
    """
    low = 0
    high = len(ids)
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
    """The correction that a proposal becomes, accepted or with the reason why not.

    `judge(text, problem)` returns the verdict on the proposal's final answer. `clipped` means that
    the proposal was cut at a length limit. Without a proposal (ids or text None) the reason is
    `without`. The edit ratio counts the end tokens of both sides. Raises ValueError if the attempt
    belongs to another problem, was made with another tokenizer or is right.
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
        ids = []
        ratio = 1.0
        verdict = "no_answer"
        reason = without
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
    """The first of `REASONS` that applies to a proposal."""
    if clipped:
        return "clipped"
    if unchanged:
        return "unchanged"
    if verdict != "right":
        return "not_right"
    return "accepted" if ratio <= limit else "too_many_edits"


def best_of(corrections: Sequence[Correction]) -> Correction:
    """The best correction of one attempt: the accepted one with the smallest edit ratio.

    If none is accepted, the best is the one with the smallest edit ratio among those that only have
    too many edits; if there is none of these either, the first. Of equals, the first is taken.
    """
    candidates = [c for c in corrections if c.accepted]
    if not candidates:
        candidates = [c for c in corrections if c.reason == "too_many_edits"]
    return min(candidates, key=lambda c: c.edit_ratio) if candidates else corrections[0]


def count_reasons(corrections: Iterable[Correction]) -> dict[str, int]:
    """The number of corrections per reason.

    All of `REASONS` are counted, also those that do not occur, and those of a teacher's `REFUSALS`
    that do. Raises ValueError for any other reason.
    """
    counts: dict[str, int] = dict.fromkeys(REASONS, 0)
    for correction in corrections:
        if correction.reason in REFUSALS:
            counts.setdefault(correction.reason, 0)
        if correction.reason not in counts:
            raise ValueError(
                f"correction of attempt {correction.attempt_id!r}: reason {correction.reason!r} is "
                f"not one of {', '.join((*REASONS, *REFUSALS))}"
            )
        counts[correction.reason] += 1
    return counts
