"""Options to choose from: how a question shows them, which one an answer names, the verdict.

In: a text, the options and the gold answer. Out: a verdict. An answer names an option by its text
(looks, case and closing full stop aside), by its letter (`B`, `(B)`, `B.`, `option B`), by both in
either order. A text beats a letter: where "B" itself is an option, the answer "B" means that text.
Options may carry labels of their own (`A. stone` or `1) stone`), and are then named with or without
them. A leading article is set aside, so that "a bloody mess" is neither choice A nor another
answer, and so are adverbs before the answer ("clearly B").

A sentence may follow that names no other option. After an answer in emphasis, quotes or the
delimiters of a formula any sentence may follow, and after any answer a reason ("because ...") or
what it is not ("not B"). What names two options names none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from rlmec.answers.final_answer import MARKERS, final_answer, second_thought
from rlmec.answers.mathematics import latex_text
from rlmec.answers.normal_form import (
    LONGEST_ANSWER,
    clean,
    heads,
    plain_text,
    trimmed,
    without_fonts,
)
from rlmec.answers.numbers import parse_number
from rlmec.records import Verdict

HEADING = "\nOptions:\n"
"""Stands between a question and its options, one a line."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_LETTER = re.compile(
    r"(?:(?:option|choice|answer|letter) )?"
    r"(?:\((?P<round>[a-z])\)|[\[{<](?P<square>[a-z])[\]}>]|(?P<bare>[a-z]))"
    r"(?:[).:,!]| [-\u2013\u2014])?(?: (?P<text>.+))?",
    re.IGNORECASE | re.ASCII,  # else the Turkish dotted I and the Kelvin sign were letters
)
_NUMBERED = re.compile(
    r"(?:(?:option|choice|answer|number) )?"
    r"(?:\((?P<round>\d\d?)\)|\[(?P<square>\d\d?)\]|(?P<bare>\d\d?))"
    r"(?:[).:,!]| [-\u2013\u2014])?(?: (?P<text>.+))?",
    re.IGNORECASE | re.ASCII,
)
_ADVERB = re.compile(
    r"(?:therefore|thus|hence|then|so|clearly|obviously|definitely|certainly|indeed|actually"
    r"|simply|probably|likely|most likely|most probably)[,:]? ",
    re.IGNORECASE,
)
_TEXT_FIRST = re.compile(
    r"(?P<text>.+?),? (?:(?:option |choice )?[(\[](?:option |choice )?(?P<name>[A-Za-z]|\d\d?)[)\]]"
    r"|(?:option|choice) (?P<word>[A-Za-z]|\d\d?))",
    re.ASCII,
)
_LABEL = re.compile(r"\s*(?:\((?P<round>[A-Za-z]|\d\d?)\)|(?P<bare>[A-Za-z]|\d\d?)[.)])\s+(?=\S)")
_LETTER_LABEL = re.compile(r"\s*(?P<bare>[A-Za-z]):\s+(?=\S)")
_ARTICLE = re.compile(r"(?:an?|the) ", re.IGNORECASE)
_LATEX_BLANK = re.compile(r"\\[ ,;:]|~")
_FORMULA_SIGN = re.compile(r"[\\^_=+*/<>(){}\[\]|]|\d[a-zA-Z]")
_DELIMITERS = re.compile(r"\\[()\[\]]|\*\*|`|\$")
_DELIMITED = re.compile(
    r"(?:\*\*(?P<a>[^*]+)\*\*|\*(?P<b>[^*]+)\*|`(?P<c>[^`]+)`|\$(?P<d>[^$]+)\$"
    r"|\\\((?P<e>.+?)\\\)|\"(?P<f>[^\"]+)\"|\u201c(?P<g>[^\u201d]+)\u201d)"
    r"(?=[.!]\s|,?\s\(?(?:because|since|as)\s)",
    re.IGNORECASE,
)
_COURTESY = re.compile(
    r"\b(?:I (?:hope|think|believe)|(?:please )?let me know|this was found)\b[^.!?\n]*",
    re.IGNORECASE,
)
_REASON = re.compile(
    r"(?:because|since|as(?! well))\b",
    re.IGNORECASE,
)
_EXCLUDED = re.compile(
    r"[\s,;(]*(?:rather than|instead of|(?:and |but )?not(?! (?:sure|certain|only|necessarily)))\b"
    r"(?:(?! or )[^.,;)!?])*",
    re.IGNORECASE,
)
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
    texts, numbered = _texts(tuple(options))
    answer = trimmed(clean(answer)[:LONGEST_ANSWER])
    match = _DELIMITED.match(answer)
    if match is not None:
        answer = next(filter(None, match.groups()))

    for said in _readings(answer):
        for head, rest in heads(said):
            index = _named(option_text(head), texts, numbered)
            if index is not None:
                return None if _names_another(rest, index, texts) else index
    return None


def _readings(answer: str) -> Iterator[str]:
    """The answer, then without its adverbs one by one, then what it names after "not ... but"."""
    said = answer
    yield said
    while (adverb := _ADVERB.match(said)) is not None:
        said = said[adverb.end() :]
        yield said
    if (instead := second_thought(answer)) != answer:
        yield instead


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
    texts, _ = _texts(tuple(options))
    return "right" if texts[index] == texts[expected] else "wrong"


def unlabelled(options: Sequence[str]) -> list[str]:
    """The options without the labels that they carry: A, B, C or 1, 2, 3, all of them in order."""
    for pattern in (_LABEL, _LETTER_LABEL):
        matches = [pattern.match(option) for option in options]
        labels = [next(filter(None, m.groups()), "").upper() for m in matches if m is not None]
        wanted = LETTERS if labels and labels[0].isalpha() else [str(i + 1) for i in range(99)]
        if len(options) > 1 and labels == list(wanted[: len(options)]):
            return [option[m.end() :] for option, m in zip(options, matches, strict=True) if m]
    return list(options)


@lru_cache(1024)
def _texts(options: tuple[str, ...]) -> tuple[tuple[str, ...], bool]:
    """The texts of the options for comparison, and whether they are numbered."""
    bare = unlabelled(options)
    numbered = bare != list(options) and options[0].lstrip(" (").startswith("1")
    return tuple(option_text(option) for option in bare), numbered


def option_text(text: str) -> str:
    """An option, or what names one, without its looks."""
    text = without_fonts(trimmed(clean(text)))
    if "\\" in text:
        text = _LATEX_BLANK.sub(" ", text)
    return plain_text(_DELIMITERS.sub("", text))


def _named(answer: str, texts: Sequence[str], numbered: bool) -> int | None:
    """The option that is all that `answer` says."""
    if (index := _by_text(answer, texts)) is not None:
        return index

    match = _LETTER.fullmatch(answer) or (_NUMBERED.fullmatch(answer) if numbered else None)
    if match is not None:
        name, text = match["round"] or match["square"] or match["bare"], match["text"]
    else:
        match = _TEXT_FIRST.fullmatch(answer)
        if match is None:
            return None
        name, text = match["name"] or match["word"], match["text"]

    index = int(name) - 1 if name.isdigit() else LETTERS.index(name.upper())
    if not 0 <= index < len(texts) or (name.isdigit() and not numbered):
        return None
    if text is None:
        return index
    inside = text[1:-1] if text.startswith("(") and text.endswith(")") else text
    named = [_by_text(plain_text(said), texts) for said in {text, inside}]
    same = any(i is not None and texts[i] == texts[index] for i in named)
    return index if same else None


def _by_text(answer: str, texts: Sequence[str]) -> int | None:
    if (index := _equal(answer, texts)) is not None:
        return index
    bare = [_ARTICLE.sub("", text, count=1) if _ARTICLE.match(text) else text for text in texts]
    without = answer[match.end() :] if (match := _ARTICLE.match(answer)) else answer
    if (index := _equal(without, bare)) is not None:
        return index
    if (index := _only(i for i, t in enumerate(texts) if _same_latex(t, answer))) is not None:
        return index
    number = parse_number(answer, bare=True)
    if number is None:
        return None
    same = [i for i, text in enumerate(texts) if parse_number(text, bare=True) == number]
    return same[0] if len({texts[i] for i in same}) == 1 else None


def _same_latex(option: str, answer: str) -> bool:
    """Whether two formulas are written alike; words alone are none."""
    formula = _FORMULA_SIGN.search(option) is not None
    return formula and latex_text(option) == latex_text(answer) != ""


def _only(indices: Iterable[int]) -> int | None:
    found = list(indices)
    return found[0] if len(found) == 1 else None


def _equal(answer: str, texts: Sequence[str]) -> int | None:
    """The first text equal to the answer, case aside; where only case tells texts apart, the one
    written like the answer."""
    folded = [i for i, text in enumerate(texts) if text.casefold() == answer.casefold()]
    exact = [i for i in folded if texts[i] == answer]
    if exact:
        return exact[0]
    return folded[0] if len({texts[i] for i in folded}) == 1 else None


def _names_another(rest: str, index: int, texts: Sequence[str]) -> bool:
    rest = _COURTESY.sub("", rest)
    while (excluded := _EXCLUDED.match(rest)) is not None:
        rest = rest[excluded.end() :]
    if not rest or _REASON.match(rest):
        return False
    letters = set(LETTERS[: len(texts)]) - set(LETTERS[index : index + 1])
    if any("".join(m.groups("")).upper() in letters for m in _OTHER.finditer(rest)):
        return True
    words = _words(rest)
    others = {_words(text) for text in texts} - {_words(texts[index])}
    return any(other.strip() and other in words for other in others)


def _words(text: str) -> str:
    return " ".join(("", *_WORD.findall(text.casefold()), ""))
