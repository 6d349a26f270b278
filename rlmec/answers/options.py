"""Options to choose from: how a question shows them, which one an answer names, the verdict.

In: a text, the options and the gold answer; out: a verdict. An answer names an option by its text
(case, quotes and closing full stop aside), by its letter (`B`, `(B)`, `B.`, `option B`) or by
both; a text beats a letter, so where "B" itself is an option the answer "B" means that text. A
leading article is set aside, so that "a bloody mess" is neither choice A nor another answer. A
sentence may follow that names no other option. Whatever names two options names none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate

from rlmec.answers.numbers import (
    MARKERS,
    final_answer,
    parse_number,
    plain_text,
    trimmed,
)
from rlmec.records import Verdict

HEADING = "\nOptions:\n"
"""Stands between a question and its options, one a line."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_LETTER = re.compile(
    r"(?:(?:option|choice|answer) )?"
    r"(?:\((?P<round>[a-z])\)|\[(?P<square>[a-z])\]|(?P<bare>[a-z]))"
    r"(?:[).:,]| -)?(?: (?P<text>.+))?",
    re.IGNORECASE | re.ASCII,  # else the Turkish dotted I and the Kelvin sign were letters
)
_ARTICLE = re.compile(r"(?:an?|the) ", re.IGNORECASE)
_WRAPPED = re.compile(r"\$(?P<dollars>.+)\$|\\(?:text|textbf|mathrm|mathbf)\{(?P<braces>.*)\}")
_SENTENCE = re.compile(r"\. |,? (?=(?:because|since|as) )", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+")
_OTHER = re.compile(r"\(([A-Za-z])\)|\b(?:option|choice) ([A-Za-z])\b|\b([A-Z])\b(?! [a-z])")


def with_options(question: str, options: Sequence[str]) -> str:
    """The question as it is asked: its text as published, then the options, one a line."""
    return question + HEADING + "\n".join(" ".join(option.split()) for option in options)


def options_of(question: str) -> tuple[str, ...]:
    """The options that a question shows, in their order; none where it shows none."""
    _, heading, shown = question.rpartition(HEADING)
    return tuple(line for line in shown.split("\n") if line.strip()) if heading else ()


def read_option(answer: str, options: Sequence[str]) -> int | None:
    """The index of the one option that `answer` names; None where it names none, or several.

    Of options with the same words the first is named.
    """
    texts = [plain_text(option) for option in options]
    answer = plain_text(_unwrapped(answer))
    for head, rest in _heads(answer):
        index = _named(head, texts)
        if index is not None:
            return None if _names_another(rest, index, texts) else index
    return None


def judge_option(
    text: str, gold: str, options: Sequence[str], markers: Sequence[str] = tuple(MARKERS)
) -> Verdict:
    """Verdict on the final answer of `text`; `gold` is the text or the letter of an option."""
    expected = read_option(gold, options)
    if expected is None:
        return "unparsable"
    found = final_answer(text, markers)
    if found is None:
        return "no_answer"
    index = read_option(found, options)
    if index is None:
        return "wrong"
    return "right" if plain_text(options[index]) == plain_text(options[expected]) else "wrong"


def _unwrapped(answer: str) -> str:
    while (match := _WRAPPED.fullmatch(answer.strip())) is not None:
        inner = match["dollars"] or match["braces"] or ""
        if min(accumulate((c == "{") - (c == "}") for c in inner), default=0) < 0:
            break  # two commands, not one around the whole
        answer = trimmed(inner)
    return answer


def _heads(answer: str) -> Iterator[tuple[str, str]]:
    """The answer cut in two where a sentence or a reason may begin, the whole of it first."""
    yield answer, ""
    for cut in reversed(list(_SENTENCE.finditer(answer))):
        yield plain_text(answer[: cut.start()]), answer[cut.end() :]


def _named(answer: str, texts: Sequence[str]) -> int | None:
    """The option that is all that `answer` says."""
    if (index := _by_text(answer, texts)) is not None:
        return index
    if (match := _LETTER.fullmatch(answer)) is None:
        return None
    index = LETTERS.index((match["round"] or match["square"] or match["bare"]).upper())
    if index >= len(texts):
        return None
    if match["text"] is None:
        return index
    named = _by_text(plain_text(match["text"]), texts)
    same = named is not None and texts[named] == texts[index]
    return index if same else None


def _by_text(answer: str, texts: Sequence[str]) -> int | None:
    if (index := _equal(answer, texts)) is not None:
        return index
    bare = [_ARTICLE.sub("", text, count=1) if _ARTICLE.match(text) else text for text in texts]
    without = answer[match.end() :] if (match := _ARTICLE.match(answer)) else answer
    if (index := _equal(without, bare)) is not None:
        return index
    number = parse_number(answer, bare=True)
    same = [i for i, text in enumerate(texts) if parse_number(text, bare=True) == number]
    return same[0] if number is not None and len({texts[i] for i in same}) == 1 else None


def _equal(answer: str, texts: Sequence[str]) -> int | None:
    """The first text equal to the answer, case aside; where only case tells texts apart, the one
    written like the answer."""
    folded = [i for i, text in enumerate(texts) if text.casefold() == answer.casefold()]
    exact = [i for i in folded if texts[i] == answer]
    if exact:
        return exact[0]
    return folded[0] if len({texts[i] for i in folded}) == 1 else None


def _names_another(rest: str, index: int, texts: Sequence[str]) -> bool:
    if not rest:
        return False
    letters = set(LETTERS[: len(texts)]) - set(LETTERS[index : index + 1])
    if any("".join(m.groups("")).upper() in letters for m in _OTHER.finditer(rest)):
        return True
    words = _words(rest)
    others = {_words(text) for text in texts} - {_words(texts[index])}
    return any(other.strip() and other in words for other in others)


def _words(text: str) -> str:
    return " ".join(("", *_WORD.findall(text.casefold()), ""))
