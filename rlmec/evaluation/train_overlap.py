"""Questions that are judged and stood among those trained on, word for word or nearly.

In: the problems of a training and those to be judged. Out: which of the judged stand on both sides
(case, white space and sentence punctuation aside), and which share a long run of words with one
that was trained on. What is done about the first is the caller's choice, by `settle`; the second
are counted and named, never taken away: a shared sentence need not give the answer away.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rlmec.records import Problem

NEAR_WORDS = 13
"""Words in a row that make two questions near-duplicates, as in arXiv 2005.14165, appendix C."""
CHOICES = ("refuse", "drop", "allow")

# Punctuation that changes what is asked stays a word of its own: a minus sign before an amount,
# operators, brackets, the marks of LaTeX. Full stops, commas and quotes between words do not.
_WORD = re.compile(
    r"\d+(?:[.,]\d+)*|[^\W\d_]+|(?<![^\W\d_])-|[+*/^=<>%\\(){}\[\]|_\u2212\u00d7\u00f7]"
)
_APOSTROPHE = re.compile(r"(?<=[^\W\d_])['\u2019](?=[^\W\d_])")


def words(question: str) -> list[str]:
    """The words of a question as they are compared: case folded, numbers whole, apostrophes and
    sentence punctuation left out, operators and brackets kept."""
    return _WORD.findall(_APOSTROPHE.sub("", question.casefold()))


@dataclass(frozen=True)
class Overlap:
    """What stands on both sides, as (id judged, id trained on), in the order judged; each judged
    problem is named once, and a `same` one is not among the `near`."""

    same: list[tuple[str, str]]
    near: list[tuple[str, str]]

    @property
    def says(self) -> str:
        """One line for a person: how many, and the first of each."""
        parts = []
        for pairs, what in ((self.same, "were trained on"), (self.near, "share a long passage")):
            if pairs:
                parts.append(
                    f"{len(pairs)} {what} (first {pairs[0][0]!r}, {pairs[0][1]!r} in train)"
                )
        return "; ".join(parts) or "none"


def find_overlap(
    trained: Iterable[Problem], judged: Sequence[Problem], near_words: int = NEAR_WORDS
) -> Overlap:
    """Which of `judged` stand among `trained`, and which share `near_words` words in a row.

    Time and memory grow with the number of words on each side. A question of fewer words than
    `near_words` can only be the same, not near. `near_words` below 1 raises ValueError.
    """
    if near_words < 1:
        raise ValueError(f"near_words is {near_words}; at least 1 word makes a passage")
    whole: dict[tuple[str, ...], str] = {}
    asked = {problem.id: words(problem.question) for problem in judged}
    passages: dict[tuple[str, ...], str] = dict.fromkeys(
        (gram for text in asked.values() for gram in _grams(text, near_words)), ""
    )
    for problem in trained:
        text = words(problem.question)
        whole.setdefault(tuple(text), problem.id)
        for gram in _grams(text, near_words):
            if passages.get(gram) == "":
                passages[gram] = problem.id
    same = [(id_, whole[key]) for id_, text in asked.items() if (key := tuple(text)) in whole]
    named = {id_ for id_, _ in same}
    near = [
        (id_, found)
        for id_, text in asked.items()
        if id_ not in named
        and (found := next((f for g in _grams(text, near_words) if (f := passages[g])), ""))
    ]
    return Overlap(same, near)


def _grams(text: list[str], size: int) -> Iterable[tuple[str, ...]]:
    return zip(*(text[start:] for start in range(size)), strict=False)


def settle(choice: str, overlap: Overlap, judged: Sequence[Problem]) -> list[Problem]:
    """The problems to judge, by `choice`: "drop" leaves out those that were trained on, "allow"
    keeps them.

    "refuse" raises ValueError where there is one; it counts them and names the first one's ids on
    both sides. Where "drop" leaves nothing, and for another choice, ValueError as well.
    """
    if choice not in CHOICES:
        raise ValueError(f"overlap: {choice!r} is none of {', '.join(CHOICES)}")
    if choice == "allow" or not overlap.same:
        return list(judged)
    if choice == "refuse":
        first, trained = overlap.same[0]
        raise ValueError(
            f"{len(overlap.same)} problems to be judged were trained on, the first is {first!r} "
            f"({trained!r} in train): judge another split, take them out of the train file, or "
            "leave them out with evaluate.overlap=drop"
        )
    named = {id_ for id_, _ in overlap.same}
    if not (kept := [problem for problem in judged if problem.id not in named]):
        raise ValueError(f"all {len(judged)} problems to be judged were trained on: none is left")
    return kept
