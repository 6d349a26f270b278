"""Problems to be judged next to the train problems: which overlap, and which serve as examples.

In: the problems of a training and the problems to be judged. Out: which judged problems are also
train problems (`find_overlap`), the problems to judge after the caller's choice of what to do about
them (`apply_choice`), and the train problems shown as few-shot examples (`choose_examples`).

Two questions are the same if they differ only in case, white space, or sentence punctuation. Two
questions are near if they share a long run of words. Near questions are counted and named but never
left out, because a shared sentence need not give the answer away. The paper does not check for
overlap and uses no few-shot examples.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rlmec.records import Problem, hash_share

NEAR_WORDS = 13
"""Consecutive shared words that make two questions near, as in arXiv 2005.14165, appendix C."""
CHOICES = ("refuse", "drop", "allow")

# Punctuation that changes the question stays a word of its own: a minus sign before an amount,
# operators, brackets, and LaTeX marks. Full stops, commas, and quotation marks are dropped.
_WORD = re.compile(
    r"\d+(?:[.,]\d+)*|[^\W\d_]+|(?<![^\W\d_])-|[+*/^=<>%\\(){}\[\]|_\u2212\u00d7\u00f7]"
)
_APOSTROPHE = re.compile(r"(?<=[^\W\d_])['\u2019](?=[^\W\d_])")


def words(question: str) -> list[str]:
    """Return the words by which questions are compared.

    Case is folded, numbers are kept whole, apostrophes and sentence punctuation are dropped,
    operators and brackets are kept.
    """
    return _WORD.findall(_APOSTROPHE.sub("", question.casefold()))


@dataclass(frozen=True)
class Overlap:
    """Judged problems that overlap with train problems, as pairs (id judged, id in train).

    Both lists are in the order of the judged problems. Each judged problem is named once; one that
    is in `same` is not in `near`.
    """

    same: list[tuple[str, str]]
    near: list[tuple[str, str]]

    @property
    def summary(self) -> str:
        """The number of overlapping problems and the first of each kind, on one line."""
        parts = []
        for pairs, what in ((self.same, "were trained on"), (self.near, "share a long passage")):
            if pairs:
                judged, trained = pairs[0]
                parts.append(f"{len(pairs)} {what} (first {judged!r}, {trained!r} in train)")
        return "; ".join(parts) or "none"


def find_overlap(trained: Iterable[Problem], judged: Sequence[Problem]) -> Overlap:
    """Return which of `judged` are the same as or near to a problem of `trained`.

    Time and memory grow with the number of words on each side. A question of fewer than
    `NEAR_WORDS` words can be the same but not near.
    """
    judged_words = {problem.id: words(problem.question) for problem in judged}

    # Only passages of judged questions are kept, because the train side may be much larger.
    passages: dict[tuple[str, ...], str | None] = {
        passage: None for text in judged_words.values() for passage in _passages(text)
    }
    questions: dict[tuple[str, ...], str] = {}
    for problem in trained:
        text = words(problem.question)
        questions.setdefault(tuple(text), problem.id)
        for passage in _passages(text):
            if passage in passages and passages[passage] is None:
                passages[passage] = problem.id

    same: list[tuple[str, str]] = []
    near: list[tuple[str, str]] = []
    for id_, text in judged_words.items():
        equal = questions.get(tuple(text))
        if equal is not None:
            same.append((id_, equal))
            continue

        sharing = (passages[passage] for passage in _passages(text))
        first = next((trained_id for trained_id in sharing if trained_id), None)
        if first is not None:
            near.append((id_, first))
    return Overlap(same, near)


def _passages(text: list[str]) -> Iterable[tuple[str, ...]]:
    """Every run of `NEAR_WORDS` consecutive words."""
    return zip(*(text[start:] for start in range(NEAR_WORDS)), strict=False)


def apply_choice(choice: str, overlap: Overlap, judged: Sequence[Problem]) -> list[Problem]:
    """Return the problems to judge: "drop" leaves out those trained on, "allow" keeps them.

    Raises ValueError if "refuse" meets a problem that was trained on, with their number and the ids
    of the first one; if "drop" leaves no problem; and for any other choice.
    """
    if choice not in CHOICES:
        raise ValueError(f"evaluate.overlap is {choice!r}; it must be one of {', '.join(CHOICES)}")
    if choice == "allow" or not overlap.same:
        return list(judged)

    if choice == "refuse":
        first, trained = overlap.same[0]
        raise ValueError(
            f"{len(overlap.same)} problems to be judged were trained on, the first is {first!r} "
            f"({trained!r} in train): judge another split, take them out of the train file, or "
            "leave them out with evaluate.overlap=drop"
        )

    trained_on = {id_ for id_, _ in overlap.same}
    kept = [problem for problem in judged if problem.id not in trained_on]
    if not kept:
        raise ValueError(
            f"all {len(judged)} problems to be judged were trained on, so none is left: judge "
            "another split"
        )
    return kept


def choose_examples(
    trained: Sequence[Problem], judged: Sequence[Problem], count: int, seed: int
) -> list[Problem]:
    """Return `count` train problems to show, with their solutions, before every judged problem.

    The candidates have a reference solution, and their question is the question of no judged
    problem. The order is that of a hash of seed and id. Raises ValueError if there are fewer than
    `count` candidates.
    """
    asked = {tuple(words(problem.question)) for problem in judged}
    candidates = [
        p for p in trained if p.solution is not None and tuple(words(p.question)) not in asked
    ]
    if len(candidates) < count:
        raise ValueError(
            f"evaluate.num_fewshot={count}: only {len(candidates)} of {len(trained)} train "
            "problems have a reference solution and are not among those judged; lower "
            "evaluate.num_fewshot"
        )
    return sorted(candidates, key=lambda p: (hash_share(seed, "fewshot", p.id), p.id))[:count]
