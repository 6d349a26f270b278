"""The final answer in a text and its exact comparison with the gold answer; shared by the tasks.

In: the text of a solution and a gold answer; out: a verdict. The answer is what follows the last
marker (`####`, a line that begins with `A:` or `Answer:`, `The answer is`, `\\boxed{...}`) up to
the end of its line, without emphasis and full stop. Numbers are compared as exact fractions: `3.0`
is 3, `1/2` is 0.5, `1,000` is 1000. Currency and percent signs and unit words are set aside, so
`50%` is 50 and not 0.5. An answer with two numbers is no number.

There is no tolerance: on the released GSM8K model solutions exact comparison meets every label, and
all that is needed beyond equal text are thousands separators read on both sides (`5,600` and
`5600`). Nothing is evaluated; no more than 1,000 characters of an answer are read, and 200 of a
number. Options are compared in `options`, mathematics beyond numbers in `verifier`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

from rlmec.records import Verdict

MARKERS = {
    "####": re.compile(r"####"),
    "A:": re.compile(r"^[ \t]{0,8}A:", re.MULTILINE),
    "The answer is": re.compile(r"the (?:final |correct )?answer is:?", re.IGNORECASE),
    "Answer:": re.compile(
        r"^[ \t>*_-]{0,8}(?:the )?(?:final |correct )?answer[*_ \t]{0,4}:", re.I | re.M
    ),
    "\\boxed{": re.compile(r"\\(?:boxed|fbox)(?: {0,4}\{|(?= {0,4}\d))"),
}
LONGEST_ANSWER = 1000
"""Characters of an answer that are read."""
LONGEST_NUMBER = 200
"""Characters of an answer that are read where it has to be a number."""
LONGEST_TEXT = 200_000
"""Characters of a text that are searched, counted from its end."""

_AMOUNT = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+"
_WORD = re.compile(
    rf"(?P<sign>[-+]?)[$€£]?(?P<inner_sign>-?)(?P<amount>{_AMOUNT})"
    r"(?:[eE](?P<exponent>[-+]?\d{1,2}))?(?:/(?P<below>\d+))?"
    r"[%°]?(?P<unit>(?:-?[^\W\d_]{1,30}(?:/[^\W\d_]{1,30})?(?:\^?[23])?)?)"
)
_POWER_OF_UNIT = re.compile(r"[^\W\d_]{1,10}\^?[23]")
_FRACTION = re.compile(r"\\[dt]?frac\{(-?\d{1,60})\}\{(\d{1,60})\}")
_SPACED_SLASH = re.compile(r"(?<=\d) ?/ ?(?=\d)")
_INLINE = re.compile(r"^\\[(\[]((?:(?!\\[()\[\]]).)*)\\[)\]]$", re.DOTALL)
_LATEX = (("\u2212", "-"), ("\\$", "$"), ("\\%", "%"), ("{,}", ","), ("\\!", ""))
_QUOTES = "\"'\u201c\u201d\u2018\u2019"


def final_answer(text: str, markers: Sequence[str] = tuple(MARKERS)) -> str | None:
    """What follows the last of `markers` in `text`, without emphasis and full stop; None without a
    marker.

    A marker with nothing behind it is None as well. `markers` are keys of `MARKERS`. What stands in
    the braces of a box may run over several lines.
    """
    text = text[-LONGEST_TEXT:]
    found = [(m.end(), name) for name in markers for m in MARKERS[name].finditer(text)]
    if not found:
        return None
    start, name = max(found)
    line = text[start : start + LONGEST_ANSWER]
    if name != "\\boxed{":
        line = line.split("\n", 1)[0]
    elif text[start - 1] == "{":
        line = _until_brace(line)
    else:  # TeX boxes a single sign without braces, and so do a few authors with a number
        line = re.split(r"[\s$]", line.lstrip(" "), maxsplit=1)[0]
    return trimmed(line) or None


def trimmed(answer: str) -> str:
    """An answer without blanks, asterisks and TeX's brackets for mathematics around it and without
    its closing full stop."""
    while (shorter := _INLINE.sub(r"\1", answer.strip().strip("*").rstrip("."))) != answer:
        answer = shorter
    return answer


def _until_brace(text: str) -> str:
    depth = 1
    for index, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return text[:index]
    return text


def marker_of(line: str) -> tuple[str, str] | None:
    """The marker as written and the answer of a line that begins with a marker; None otherwise."""
    for name in ("####", "A:", "The answer is"):
        match = MARKERS[name].match(line)
        if match:
            return match.group(), line[match.end() :].strip().rstrip(".")
    return None


@lru_cache(4096)  # gold answers are compared with many times
def parse_number(text: str, bare: bool = False) -> Fraction | None:
    """The one number that `text` states, exactly; None where there is none, or several.

    Reads to the end of the first sentence that has a number. With `bare`, letters beside the number
    (units, words) make it None.
    """
    text = text[:LONGEST_NUMBER]
    for written, meant in _LATEX:
        text = text.replace(written, meant)
    text = _SPACED_SLASH.sub("/", _FRACTION.sub(r"\1/\2", text))
    total: Fraction | None = None
    whole = negative = False
    for word in text.split():
        core = word.lstrip("([{*\"'").rstrip(")]}*\"'.,;:!?$\\")
        if any(c.isdigit() for c in core) and not _POWER_OF_UNIT.fullmatch(core):
            match = _WORD.fullmatch(core)
            value = None if match is None else _value(match)
            if match is None or value is None or (bare and match["unit"]):
                return None
            if total is None:
                total = -value if negative else value
            elif whole and match["below"] and 0 <= value < 1:
                total += value if total >= 0 else -value
            else:
                return None
            whole = match["below"] is None and total.denominator == 1 and not match["unit"]
        else:
            if bare and any(c.isalpha() for c in core):
                return None
            negative, whole = core == "-", False
        if total is not None and word.endswith("."):
            break
    return total


def _value(match: re.Match[str]) -> Fraction | None:
    amount = Fraction(match["amount"].replace(",", ""))
    if match["exponent"]:
        amount *= Fraction(10) ** int(match["exponent"])
    if match["below"]:
        if int(match["below"]) == 0:
            return None
        amount /= int(match["below"])
    return -amount if "-" in (match["sign"], match["inner_sign"]) else amount


def normal_text(text: str) -> str:
    """Text for comparison: case folded, blanks collapsed, quotes and closing full stop off."""
    return plain_text(text).casefold()


def plain_text(text: str) -> str:
    """Text with blanks collapsed, quotes around it and the closing full stop off."""
    text = " ".join(text.split())
    while (shorter := text.strip(_QUOTES).rstrip(".").rstrip()) != text:
        text = shorter
    return text


def judge_number(text: str, gold: str, markers: Sequence[str] = tuple(MARKERS)) -> Verdict:
    """Verdict on the final answer of `text` where the gold answer has to be a number."""
    expected = parse_number(gold)
    if expected is None:
        return "unparsable"
    found = final_answer(text, markers)
    if found is None:
        return "no_answer"
    return "right" if parse_number(found) == expected else "wrong"


def judge_answer(text: str, gold: str, markers: Sequence[str] = tuple(MARKERS)) -> Verdict:
    """Verdict where the gold answer is a number or a text.

    A gold answer that is a number alone is compared as a number, any other as normalised text, so
    that "2 hours" is not "2 days".
    """
    if not normal_text(gold):
        return "unparsable"
    found = final_answer(text, markers)
    if found is None:
        return "no_answer"
    expected = parse_number(gold, bare=True)
    if expected is not None:
        return "right" if parse_number(found) == expected else "wrong"
    return "right" if normal_text(found) == normal_text(gold) else "wrong"
