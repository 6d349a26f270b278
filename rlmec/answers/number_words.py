"""English number words: "twenty-one", "two and a half million", "three quarters".

In: the words of a text in lower case, without hyphens. Out: the value at their beginning, exactly,
and how many of them say it.

    number   = (integer | decimal) ["and" fraction [scale]] | fraction
    fraction = ("a" | "one" | "two" | ...) part | "half"
    part     = "half" | "third" | "quarter" | ... | "tenth", and their plurals
    integer  = "a hundred" | "fifteen hundred" | "two thousand three hundred and five" | ...
    decimal  = integer "point" digit {digit}

What goes on like a number and is none ("twenty eleven", "twenty fifth", "one twelfth") has no
value.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

SCALES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "quadrillion": 10**15,
    "quintillion": 10**18,
    "lakh": 10**5,
    "crore": 10**7,
    "dozen": 12,
}
SCALES |= {f"{word}s": factor for word, factor in SCALES.items()}
"""Words that scale the number before them."""


def _numbered(words: str, first: int, step: int = 1) -> dict[str, int]:
    return {word: first + step * i for i, word in enumerate(words.split())}


_UNITS = _numbered("one two three four five six seven eight nine", 1)
_TEENS = _numbered(
    "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen", 10
)
_TENS = _numbered("twenty thirty forty fifty sixty seventy eighty ninety", 20, 10)
NUMBER_WORDS = frozenset(["zero", *_UNITS, *_TEENS, *_TENS])
"""Words that are a number by themselves."""

_PARTS = _numbered("half third quarter fifth sixth seventh eighth ninth tenth", 2)
_PARTS |= {"fourth": 4}
_PARTS |= {"halves": 2} | {f"{word}s": below for word, below in _PARTS.items() if below > 2}
_ARTICLES = ("a", "an")
_ORDINALS = frozenset(
    f"{word}{end}"
    for word in (
        *("eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth"),
        *("seventeenth", "eighteenth", "nineteenth", "twentieth", "thirtieth", "fortieth"),
        *("fiftieth", "sixtieth", "seventieth", "eightieth", "ninetieth", "hundredth"),
        *("thousandth", "millionth", "billionth", "first", "second", *_PARTS),
    )
    for end in ("", "s")
) - {"seconds", "quarters"}
"""What makes another number of the words before it; seconds and quarters are things, too."""


def spelled_number(words: Sequence[str]) -> tuple[Fraction | None, int]:
    """The value that begins with the first of the words, and how many words say it; None where
    they say none."""
    value, end = _fraction(words, 0)
    if value is None:
        whole, end = _integer(words, 0)
        if whole is None:
            return None, 0
        value, end = _with_decimals(words, whole, end)
        if _word(words, end) == "and":
            part, after = _fraction(words, end + 1)
            if part is not None and part < 1:
                value, end = value + part, after
                if _word(words, end) in SCALES:  # two and a half million
                    value, end = value * SCALES[words[end]], end + 1

    goes_on = _word(words, end) in NUMBER_WORDS | _ORDINALS
    return (None, 0) if goes_on else (value, end)


def _with_decimals(words: Sequence[str], whole: int, at: int) -> tuple[Fraction, int]:
    """ "three point one four"."""
    if _word(words, at) != "point":
        return Fraction(whole), at
    digits, end = "", at + 1
    while (digit := _word(words, end)) == "zero" or digit in _UNITS:
        digits += str(_UNITS.get(digit, 0))
        end += 1
    if not digits:
        return Fraction(whole), at
    return whole + Fraction(int(digits), 10 ** len(digits)), end


def _word(words: Sequence[str], at: int) -> str:
    return words[at] if at < len(words) else ""


def _fraction(words: Sequence[str], at: int) -> tuple[Fraction | None, int]:
    """ "half", "a third", "two thirds", "half a million"."""
    word, after = _word(words, at), _word(words, at + 1)
    if word == "half":
        scale = SCALES.get(_word(words, at + 2)) if after in _ARTICLES else None
        return (Fraction(scale, 2), at + 3) if scale else (Fraction(1, 2), at + 1)
    if after not in _PARTS:
        return None, at
    above = 1 if word in _ARTICLES else (_UNITS | _TEENS).get(word)
    is_plural = after.endswith("s")
    if above is None or is_plural != (above > 1) or (after == "quarters" and above > 3):
        return None, at
    return Fraction(above, _PARTS[after]), at + 2


def _integer(words: Sequence[str], at: int) -> tuple[int | None, int]:
    """A whole number, its groups in falling order: millions, thousands, the rest."""
    if _word(words, at) == "zero":
        return 0, at + 1
    total: int | None = None
    limit = 10**21
    while True:
        group, end = _below_thousand(words, at)
        if group is None:
            return total, at
        scale = 1
        while 1 < SCALES.get(_word(words, end), 0) * scale < limit:
            scale *= SCALES[words[end]]
            end += 1
        total, at, limit = (total or 0) + group * scale, end, scale
        if scale <= 100:
            return total, at

        follows = at + 1 if _word(words, at) == "and" else at
        group, end = _below_thousand(words, follows)
        if group is None or _word(words, end) in _PARTS:
            return total, at
        at = follows


def _below_thousand(words: Sequence[str], at: int) -> tuple[int | None, int]:
    """A number of hundreds with what follows them, or a number below a hundred."""
    if _word(words, at) in _ARTICLES and _word(words, at + 1) in SCALES:
        value, end = 1, at + 1
    else:
        below, end = _below_hundred(words, at)
        if below is None:
            return None, at
        value = below
    if _word(words, end) not in ("hundred", "hundreds"):
        return value, end

    value, end = 100 * value, end + 1
    rest, after = _below_hundred(words, end + (_word(words, end) == "and"))
    if rest is None or _word(words, after) in _PARTS:
        return value, end
    return value + rest, after


def _below_hundred(words: Sequence[str], at: int) -> tuple[int | None, int]:
    word = _word(words, at)
    if word in _TENS:
        unit = _UNITS.get(_word(words, at + 1))
        return (_TENS[word], at + 1) if unit is None else (_TENS[word] + unit, at + 2)
    value = (_UNITS | _TEENS).get(word)
    return (None, at) if value is None else (value, at + 1)
