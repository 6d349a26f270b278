"""The number grammar: the one number that an answer states, as an exact fraction.

In: an answer, as words or as LaTeX. Out: a `Fraction`, or None where the answer states no number,
several, or something that is not just a number.

    answer    = words [sign] quantity [units] [remark]
    sign      = "-" | "+" | "minus" | "negative" | "plus" | "positive"
    quantity  = value [power] {scale}
    value     = decimal | decimal "/" decimal | fraction | whole fraction
    power     = "x" "10" "^" integer
    scale     = "hundred" | "thousand" | "million" | ... | "dozen" | "k"

A fraction is written `1/2`, `\\frac{1}{2}` or with one sign. Currency signs, percent signs and
units are set aside, so 50 % is 50 and not 0.5. Anything else next to a number that could change its
value makes it unreadable: a negation, a factorial, an operator, an exponent, a second number, a
scale word that is not in the table. With `words`, a number in words that begins its sentence
("about five", "she has five") counts as one in digits. Nothing is evaluated; 200 characters of an
answer are read.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from rlmec.answers.normal_form import clean, without_fonts
from rlmec.answers.number_words import NUMBER_WORDS, SCALES, spelled_number

LONGEST_NUMBER = 200
"""Characters of an answer that are read where it has to be a number."""

SUFFIXES = {"k": 10**3, "K": 10**3, "M": 10**6}
"""Letters that scale the number they touch."""
MONEY_SUFFIXES = {"m": 10**6, "mn": 10**6, "b": 10**9, "B": 10**9, "bn": 10**9, "T": 10**12}
"""Letters and abbreviations that scale an amount of money only; elsewhere they are units."""


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_CURRENCY = "$€£¥₹₽₩¢"
_OPENING = (*_CURRENCY, "(", "[", "~")
_NEGATIONS = _set("not never neither nor cannot wrong incorrect false except without")
# Before a number: what it is the argument of.
_BEFORE = _NEGATIONS | _set(
    "no point twice thrice double triple quadruple half third quarter square squared root cube "
    "sqrt log ln sin cos tan less fewer greater more larger smaller under below above beyond "
    "exceeds times divided multiplied factorial minus negative plus reciprocal inverse"
)
# After a number: what is done with it.
_AFTER = _NEGATIONS | _set(
    "squared cubed factorial choose mod modulo below plus minus negative divided tens halves "
    "thirds fourths fifths sixths sevenths eighths ninths tenths hundredths thousandths "
    "millionths half myriad grand power pi x y z n i e"
)
_SEVERAL = NUMBER_WORDS - {"zero", "one"}
_VERBS = _set("is are was were be equals equal")
# What may stand between the beginning of an answer and a number in words.
_BEFORE_WORDS = _VERBS | _set(
    "about approximately around roughly exactly just only simply indeed therefore thus hence now "
    "then minus negative plus positive that there has have had i you he she it we they yes a "
    "total of at least most over almost nearly"
)
_BEFORE_ONE = _BEFORE_WORDS - {"that"}
_AFTER_ONE = _set("of by at can could must should may might would will needs has cannot way")
_JOINTS = _set("or and to times by less minus plus")
_REASONS = _set("because since as")
_REMARKS = _REASONS | _set(
    "so for which who where that given when if after with not assuming considering hence thus "
    "therefore meaning making leaving rounded i.e"
)
_UNKNOWN_SCALE = re.compile(r"illions?$")
_RATES = _set("per each every a an")

_SIMPLE = re.compile(r"[-+]?\d{1,60}(?:\.\d{1,60})?", re.ASCII)
_SIGNS = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe63\uff0d", "-"),
        **dict.fromkeys("\u00a0\u2002\u2003\u2005\u2007\u2008\u2009\u200a\u202f\u3000", " "),
        **dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb", '"'),
        **dict.fromkeys("\u2018\u2019\u02bc", "'"),
        **dict.fromkeys("\u00d7\u00b7\u22c5\u2217", "*"),
        **{"\u2044": "/", "\u2215": "/", "\uff05": "%", "\ufe6a": "%", "\uff0b": "+"},
        **{"\uff0c": ",", "\u2248": "~", "\u2243": "~", "\u2245": "~"},
        **{"\u00ba": "°"},
    }
)
_SUPERSCRIPT = re.compile("[\u207a\u207b]?[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+")
_SIGN_FRACTION = re.compile("[\u00bc-\u00be\u2150-\u215e\u2189]")

_CALCULATION = re.compile(r"<<[^<>]*>>(?=\s*\d)")
_PARAPHRASE = re.compile(r"(?<=\S),?\s+\(?i\.e\..*", re.DOTALL)
_THOUSANDS = re.compile(r"\s*\{\s*,\s*\}\s*(?=\d)|,\\!\s*(?=\d)")
_FRACTION = re.compile(
    r"\\[dtc]?frac\s*(?:\{\s*([-+]?[\d.,]{1,60})\s*\}|(\d))\s*(?:\{\s*([-+]?[\d.,]{1,60})\s*\}|(\d))"
)
_DEGREES = re.compile(r"\^\s*\{?\s*(?:\\circ|\\degree|\\text\{o\})\s*\}?|\\degree")
_LATEX = (
    (re.compile(r"\\(?:left|right|big|Big|displaystyle|textstyle)(?![a-zA-Z])"), ""),
    (re.compile(r"\\!"), ""),
    (re.compile(r"\\[,;:> ]|\\q?quad(?![a-z])|~"), " "),
    (re.compile(r"\\([$%#&_{}])"), r"\1"),
    (re.compile(r"\\[()\[\]]"), " "),
    (re.compile(r"\\(?:times|cdot)(?![a-zA-Z])"), "*"),
    (re.compile(r"\\(?:approx|simeq)(?![a-zA-Z])"), "~"),
    (re.compile(r"\\(?:euro|pounds)(?![a-zA-Z])"), "€"),
)
_EMPHASIS = (
    (re.compile(r"(?<![\w*])\*\*(?=\S)|(?<=\S)\*\*(?![\w*(])"), ""),
    (re.compile(r"(?<![\w*)])\*(\S|\S[^*\n]{0,100}\S)\*(?![\w*(])"), r"\1"),
    (re.compile(r"(?<!\w)(_{1,2})(\S|\S[^_\n]{0,100}\S)\1(?!\w)"), r"\2"),
    (re.compile(r"`"), ""),
)
_DECIMAL = (
    r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?:[ ']\d{3})+(?!\d|\ ?/)|\d+)(?:\.\d+)?|\.\d+)"
    r"(?:[eE][-+]?\d{1,2}(?![\w.]))?"
)
_SEPARATORS = str.maketrans("", "", ", '")
_TOKEN = re.compile(
    rf"(?P<fraction>\x02[^\x03]*\x03)|(?P<decimal>{_DECIMAL})"
    r"|(?P<word>[^\W\d_]+(?:[-'][^\W\d_]+)*)|(?P<command>\\[a-zA-Z]+)|(?P<sign>[^\s])"
)


class _Token(NamedTuple):
    kind: str
    text: str
    spaced: bool
    """Whether a blank precedes it."""

    @property
    def is_value(self) -> bool:
        return self.kind in ("decimal", "fraction")


_START = _Token("sign", "", False)


@lru_cache(4096)  # gold answers are compared with many times
def parse_number(text: str, bare: bool = False, words: bool = False) -> Fraction | None:
    """The one number that `text` states, exactly; None where there is none, or several.

    The first sentence that has a number is read. With `bare`, words next to the number (units,
    remarks) make it None; scale words and signs do not. With `words` a number may be in words.
    """
    text = _start(clean(text).strip())
    if _SIMPLE.fullmatch(text):
        return Fraction(text)
    if "\x02" in text or "\x03" in text:
        return None
    sentences = _sentences(_tokens(_plain(text)))
    if bare and len(sentences) > 1:
        return None
    stated = _first_stated(sentences, words)
    return None if stated is None else _read(stated, bare)


def _start(text: str) -> str:
    """The part of a text that is read: whole words, since the start of a number is another one."""
    if len(text) <= LONGEST_NUMBER:
        return text
    return text[: LONGEST_NUMBER + 1].rpartition(" ")[0]


def _plain(text: str) -> str:
    """Words, signs and decimals without LaTeX; a fraction is put between two control characters."""
    if not text.isascii():
        text = _SIGN_FRACTION.sub(_sign_fraction, text.translate(_SIGNS))
        text = _SUPERSCRIPT.sub(lambda m: "^" + unicodedata.normalize("NFKC", m.group()), text)
        text = text.replace("\u2212", "-")

    text = _THOUSANDS.sub(",", text)
    if "<<" in text:
        text = _CALCULATION.sub("", text)
    if "i.e." in text:
        text = _PARAPHRASE.sub("", text)
    if "\\" in text:
        text = _DEGREES.sub("°", text)
        text = without_fonts(text)
        text = _FRACTION.sub(lambda m: _between(m[1] or m[2], m[3] or m[4]), text)
        for pattern, plain in _LATEX:
            text = pattern.sub(plain, text)
    if "*" in text or "_" in text or "`" in text:
        for pattern, plain in _EMPHASIS:
            text = pattern.sub(plain, text)

    return text.replace("{", " ").replace("}", " ").replace('"', " ")


def _sign_fraction(match: re.Match[str]) -> str:
    above, _, below = unicodedata.normalize("NFKC", match.group()).partition("\u2044")
    return _between(above, below)


def _between(above: str, below: str) -> str:
    return f"\x02{above}/{below}\x03"


def _tokens(text: str) -> list[_Token]:
    out, end = [], 0
    for match in _TOKEN.finditer(text):
        out.append(_Token(str(match.lastgroup), match.group(), match.start() > end))
        end = match.end()
    return out


def _sentences(tokens: Sequence[_Token]) -> list[list[_Token]]:
    """The tokens cut at full stops, question marks, semicolons, and exclamation marks after words.

    An exclamation mark after a number stays: it may be a factorial.
    """
    out: list[list[_Token]] = [[]]
    for token in tokens:
        exclaims = token.text == "!" and bool(out[-1]) and out[-1][-1].kind == "word"
        if token.text in (".", "?", ";", "…") or exclaims:
            out.append([])
        else:
            out[-1].append(token)
    return [sentence for sentence in out if sentence]


def _first_stated(sentences: Sequence[Sequence[_Token]], words: bool) -> Sequence[_Token] | None:
    """The first sentence with a number; with `words` one in words counts where it begins the
    sentence, and "twelve (12)" and "12 (a dozen)" are one number."""
    for sentence in sentences:
        if words:
            spelled = _without_repeats(_with_values(sentence))
            before = list(itertools.takewhile(lambda token: not token.is_value, spelled))
            leads = all(t.kind == "sign" or t.text.lower() in _BEFORE_WORDS for t in before)
            if leads and len(before) < len(spelled):
                return spelled
        if any(token.is_value for token in sentence):
            return sentence
    return None


def _without_repeats(tokens: Sequence[_Token]) -> list[_Token]:
    """The tokens without a value in brackets that only repeats the value before it."""
    out: list[_Token] = []
    at = 0
    while at < len(tokens):
        out.append(tokens[at])
        first, *others = tokens[at : at + 4]
        brackets = [token.text for token in others[::2]] == ["(", ")"]
        if first.is_value and brackets and others[1].is_value:
            values = [_value([token], 0)[0] for token in (first, others[1])]
            at += 3 if values[0] == values[1] else 0
        at += 1
    return out


def _with_values(tokens: Sequence[_Token]) -> list[_Token]:
    """The tokens with a value in place of every number in words.

    "one" is a number after what may precede one, or after another number and a word that joins
    them, but not in "one of", "one must" and the like.
    """
    words: list[str] = []
    starts: dict[int, int] = {}  # the word at which a token begins
    for index, token in enumerate(tokens):
        starts[len(words)] = index
        if token.text == "," and words and SCALES.get(words[-1], 0) >= 1000:
            continue  # one thousand, two hundred
        words += token.text.lower().split("-") if token.kind == "word" else [token.text]
    starts[len(words)] = len(tokens)

    out: list[_Token] = []
    at = 0
    while at < len(words):
        value, length = spelled_number(words[at:])
        begins, ends = starts[at], starts.get(at + length)
        if value is not None and words[at : at + length] == ["one"]:
            before = out[-1] if out else _START
            counts = before.kind == "sign" or before.text.lower() in _BEFORE_ONE
            joined = before.text.lower() in _JOINTS and any(token.is_value for token in out)
            after = words[at + 1] if at + 1 < len(words) else ""
            value = value if joined or (counts and after not in _AFTER_ONE) else None
        if value is None or ends is None:
            out.append(tokens[begins])
            at = next(start for start in range(at + 1, len(words) + 1) if start in starts)
            continue
        text = f"\x02{value.numerator}/{value.denominator}\x03"
        out.append(_Token("fraction", text, tokens[begins].spaced))
        at += length
    return out


def _read(tokens: Sequence[_Token], bare: bool) -> Fraction | None:
    """The number of one sentence."""
    stated = tokens if bare else _without_remarks(tokens)
    stated = None if stated is None else _right_side(stated)
    if stated is None:
        return None

    start = next((i for i, token in enumerate(stated) if token.is_value), None)
    if start is None:
        return None
    verbs = [i for i, token in enumerate(stated) if token.text.lower() in _VERBS]
    if verbs and any(token.is_value for token in stated[verbs[-1] :]):
        # "the sum of 2 and 3 is 5" states what follows its verb
        if bare or _words(stated[: verbs[-1]]) & _NEGATIONS:
            return None
        stated = stated[verbs[-1] + 1 :]
        start = next(i for i, token in enumerate(stated) if token.is_value)

    sign = _sign(stated[:start], stated[start].spaced, bare)
    money = any(token.text in _CURRENCY for token in stated)
    value, end = _quantity(stated, start, money)
    if sign is None or value is None or not _is_harmless(stated[end:], bare):
        return None
    return sign * value


def _without_remarks(tokens: Sequence[_Token]) -> list[_Token] | None:
    """The tokens up to a reason or remark after the number, and without what is in brackets there;
    None where the brackets hold what may change the number."""
    out: list[_Token] = []
    index, seen = 0, False
    while index < len(tokens):
        token = tokens[index]
        follower = tokens[index + 1] if index + 1 < len(tokens) else None
        if seen and token.kind == "word" and token.text.lower() in _REASONS:
            break
        if seen and token.text == "," and follower and follower.text.lower() in _REMARKS:
            break
        dash = token.text == "-" and token.spaced and follower is not None
        if seen and dash and follower and follower.spaced and follower.kind == "word":
            break
        if seen and token.text == "(":
            end = next((i for i in range(index, len(tokens)) if tokens[i].text == ")"), None)
            inside = tokens[index + 1 : len(tokens) if end is None else end]
            if end is None or not _is_remark(inside):
                return None
            index = end + 1
            continue
        seen = seen or token.is_value
        out.append(token)
        index += 1
    return out


def _is_remark(inside: Sequence[_Token]) -> bool:
    """Whether what is in brackets after a number leaves the number alone."""
    if not inside or inside[0].text.lower() in ("or", "not", *_NEGATIONS):
        return False
    has_value = any(token.is_value for token in inside)
    scaled = any(token.text.lower() in SCALES for token in inside)
    worded = any(token.kind == "word" or token.text in "=+*/" for token in inside)
    return worded and (has_value or not scaled) and not _words(inside) & _NEGATIONS


def _words(tokens: Sequence[_Token]) -> set[str]:
    return {token.text.lower() for token in tokens if token.kind == "word"}


def _right_side(tokens: Sequence[_Token]) -> Sequence[_Token] | None:
    """What an equation states: its last right side, or its left side where the right one is a
    variable; before a rounded value, the exact one."""
    at = [i for i, token in enumerate(tokens) if token.text == "="]
    if at:
        left, right = tokens[: at[-1]], tokens[at[-1] + 1 :]
        if (left and left[-1].text in "!<>:~") or _words(left) & (_NEGATIONS | {"and", "or"}):
            return None
        if "," in [t.text for t in left] and any(t.is_value for t in left):
            return None
        tokens = right
        if not any(token.is_value for token in right):
            if len(at) > 1 or len(right) != 1 or right[0].kind != "word":
                return None
            tokens = left

    about = next((i for i, token in enumerate(tokens) if token.text == "~"), None)
    if about is not None and any(token.is_value for token in tokens[:about]):
        tokens = tokens[:about]
    return tokens


def _sign(lead: Sequence[_Token], spaced: bool, bare: bool) -> int | None:
    """1 or -1; None where what precedes the number may change it. `spaced`: whether a blank
    precedes the number."""
    sign = 1
    signed = False
    rest = list(lead)
    while rest and (_sign_of(rest[-1]) or rest[-1].text in _OPENING):
        token = rest.pop()
        if _sign_of(token):
            subtracts = token.kind == "sign" and bool(rest) and rest[-1].kind == "word"
            if signed or (subtracts and (spaced or not token.spaced)):
                return None  # "--5", "x - 5", "x-5"
            sign, signed = _sign_of(token), True
        spaced = token.spaced

    repeated = len(rest) < len(lead) and lead[len(rest)].text == "("  # "five (5)"
    if rest and rest[-1].text.lower() in _SEVERAL and not repeated:
        return None
    return sign if all(_may_precede(token, bare) for token in rest) else None


def _sign_of(token: _Token) -> int:
    """1 or -1 for a sign or a word for one, 0 for anything else."""
    word = token.text.lower()
    if word in ("-", "minus", "negative"):
        return -1
    return int(word in ("+", "plus", "positive"))


def _may_precede(token: _Token, bare: bool) -> bool:
    """Whether a token before a number and its sign leaves the number alone."""
    if token.kind == "sign":
        return token.text in "([,:)]'~#|" or token.text in _CURRENCY
    word = token.text.lower()
    changes = word in _BEFORE or word.endswith("n't") or _has_scale(word)
    return token.kind == "word" and not bare and not changes


def _has_scale(word: str) -> bool:
    """Whether a word, or a part of a word with hyphens, scales numbers."""
    return any(part in SCALES or _UNKNOWN_SCALE.search(part) for part in word.split("-"))


def _quantity(tokens: Sequence[_Token], at: int, money: bool) -> tuple[Fraction | None, int]:
    """The value that begins at a token, with its power of ten and scale, and where it ends."""
    value, end = _value(tokens, at)
    if value is None:
        return None, end

    power, after = _power_of_ten(tokens, end)
    if power is not None:
        value *= power
        end = after
    elif _text(tokens, end) == "^" and tokens[end - 1].text == "10" and end == at + 1:
        exponent, after = _integer(tokens, end + 1)
        if exponent is None:
            return None, end
        value = Fraction(10) ** exponent
        end = after

    suffixes = SUFFIXES | MONEY_SUFFIXES if money else SUFFIXES
    if end < len(tokens) and (not tokens[end].spaced or money) and tokens[end].text in suffixes:
        value *= suffixes[tokens[end].text]
        end += 1
    elif _text(tokens, end) == "k":
        value *= 1000
        end += 1
    while _text(tokens, end).lower() in SCALES:
        value *= SCALES[_text(tokens, end).lower()]
        end += 1
    return value, end


def _text(tokens: Sequence[_Token], at: int) -> str:
    return tokens[at].text if at < len(tokens) else ""


def _value(tokens: Sequence[_Token], at: int) -> tuple[Fraction | None, int]:
    """A decimal, a fraction, or a whole number with a proper fraction."""
    if tokens[at].kind == "fraction":
        return _fraction(tokens[at].text), at + 1
    whole = _decimal(tokens[at].text)
    if _text(tokens, at + 1) == "/" and at + 2 < len(tokens) and tokens[at + 2].is_value:
        if tokens[at + 2].kind == "fraction":
            return None, at
        below = _decimal(tokens[at + 2].text)
        return (whole / below if below else None), at + 3

    # a mixed number: 3 1/2, 3\frac{1}{2}, 3 and 1/2, 3 and a half
    next_ = at + 1
    words = [_text(tokens, i).lower() for i in range(next_, next_ + 3)]
    if words == ["and", "a", "half"] and whole.denominator == 1:
        return whole + Fraction(1, 2), at + 4
    if words[0] == "and":
        next_ += 1
    part, end = None, next_
    if next_ < len(tokens) and tokens[next_].kind == "fraction":
        part, end = _fraction(tokens[next_].text), next_ + 1
    elif (
        next_ + 2 < len(tokens)
        and tokens[next_].kind == tokens[next_ + 2].kind == "decimal"
        and tokens[next_ + 1].text == "/"
    ):
        below = _decimal(tokens[next_ + 2].text)
        part = _decimal(tokens[next_].text) / below if below else None
        end = next_ + 3
    if end == next_:
        return whole, at + 1
    written = tokens[at].text
    proper = part is not None and 0 < part < 1 and not set(".eE") & set(written)
    return (whole + part if proper and part is not None else None), end


def _decimal(text: str) -> Fraction:
    return Fraction(text.translate(_SEPARATORS))


def _fraction(text: str) -> Fraction | None:
    """The value of a fraction between its control characters."""
    above, _, below = text[1:-1].partition("/")
    parts = [re.fullmatch(rf"[-+]?{_DECIMAL}", part) for part in (above, below)]
    if None in parts or not _decimal(below):
        return None
    return _decimal(above) / _decimal(below)


def _power_of_ten(tokens: Sequence[_Token], at: int) -> tuple[Fraction | None, int]:
    """The factor of `x 10^3` where the tokens go on like this."""
    if _text(tokens, at) in ("*", "x") and [_text(tokens, at + i) for i in (1, 2)] == ["10", "^"]:
        exponent, end = _integer(tokens, at + 3)
        if exponent is not None:
            return Fraction(10) ** exponent, end
    return None, at


def _integer(tokens: Sequence[_Token], at: int) -> tuple[int | None, int]:
    sign = -1 if _text(tokens, at) == "-" else 1
    at += _text(tokens, at) in ("-", "+") and at < len(tokens)
    digits = _text(tokens, at)
    return (sign * int(digits), at + 1) if re.fullmatch(r"\d{1,2}", digits) else (None, at)


def _is_harmless(rest: Sequence[_Token], bare: bool) -> bool:
    """Whether what follows a number leaves it alone: units, brackets, punctuation, words."""
    for index, token in enumerate(rest):
        before = rest[index - 1] if index else _START
        after = rest[index + 1] if index + 1 < len(rest) else _START
        if token.kind == "word":
            harmless = not bare and (
                token.text == "I" or _is_unit(token.text.lower(), before.text.lower())
            )
        elif token.is_value:
            # the power of a unit: m2, m^2
            touches = before.text == "^" or (before.kind == "word" and not token.spaced)
            harmless = token.text in ("2", "3") and touches
        elif token.text == "^":
            harmless = before.kind == "word" and after.text in ("2", "3")
        elif token.text in "-/":
            harmless = not bare and after.kind == "word"
        else:
            harmless = token.text in "%°)],:'~" or token.text in _CURRENCY
        if not harmless:
            return False
    return True


def _is_unit(word: str, before: str) -> bool:
    """Whether a word after a number leaves it alone."""
    if word in _AFTER or word.endswith("n't"):
        return False
    if len(word) == 1 and not word.isascii():
        return False  # a factor, such as the sign of pi
    if _has_scale(word):
        return before == "/" or before in _RATES
    return not (before in ("and", "or") and word in _SEVERAL)
