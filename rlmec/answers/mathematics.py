"""Mathematical answers before math-verify: what it compares, and what needs no comparison.

In: a gold answer and an answer, as LaTeX or as words around it. Out: the LaTeX that math-verify
compares, or a verdict where both are plain literals or are written alike.
"""

from __future__ import annotations

import re
from fractions import Fraction

from rlmec.answers.normal_form import LONGEST_ANSWER, formulas, normal_form, trimmed, without_fonts
from rlmec.answers.numbers import parse_number
from rlmec.records import Verdict

_SPACE = re.compile(r"\\[,;:! ]|\\q?quad(?![a-z])|~|\s+")
_SIZE = re.compile(r"\\(?:left|right|displaystyle|textstyle|[bB]igg?[lr]?)(?![a-zA-Z])")
_FRACTION = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_FRACTION_DIGITS = re.compile(r"\\frac\s*(\d)\s*(\d)(?!\d)")
_DEGREES = re.compile(r"\^\s*(?:\{\s*)?\\circ(?:\s*\})?|\\degree")
_THOUSANDS = re.compile(r"(?<=\d)\s*\{\s*,\s*\}\s*(?=\d{3})|(?<=\d),\\!\s*(?=\d{3})")
_TEXT = re.compile(r"\\(?:text|textbf|mbox|mathrm)\{([^{}]*)\}")
_GLUED_QUAD = re.compile(r"\\q?quad(?=[a-zA-Z])")
_DOUBLED = re.compile(r"\\\\(?=(?:left|right|frac|dfrac|sqrt|le|ge|leq|geq|pi|infty|cup|cap)\b)")
_ROOT_SIGN = re.compile("\u221a\\s*(?:\\(([^()]*)\\)|(\\d+|[a-zA-Z]))")
_SUPERSCRIPT = re.compile("[\u207b]?[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+")
_SUPERSCRIPTS = str.maketrans(
    "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079", "-0123456789"
)
_SIGNS = {
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212\uff0d", "-"),
    **dict.fromkeys("\u00a0\u2002\u2003\u2009\u202f\u3000", " "),
    "\u221e": r"\infty ",
    "\u03c0": r"\pi ",
    "\u03b8": r"\theta ",
    "\u03b1": r"\alpha ",
    "\u03b2": r"\beta ",
    "\u00d7": r"\times ",
    "\u00b7": r"\cdot ",
    "\u22c5": r"\cdot ",
    "\u00f7": r"\div ",
    "\u2264": r"\le ",
    "\u2265": r"\ge ",
    "\u2260": r"\ne ",
    "\u2248": r"\approx ",
    "\u00b1": r"\pm ",
    "\u2208": r"\in ",
    "\u222a": r"\cup ",
    "\u2229": r"\cap ",
    "\u2205": r"\emptyset ",
    "\u211d": r"\mathbb{R}",
    "\u00b0": r"^\circ",
    "\u00bd": r"\frac{1}{2}",
    "\u00bc": r"\frac{1}{4}",
    "\u00be": r"\frac{3}{4}",
    "\u2153": r"\frac{1}{3}",
    "\u2154": r"\frac{2}{3}",
}
_TABLE = str.maketrans(_SIGNS)
_COMMAND = re.compile(r"\\(?:text|mathrm|mbox|operatorname)\s*\{[^{}]*\}|\\[a-zA-Z]+")
_WORD = re.compile(r"[^\W\d_]{2,}")
_FUNCTIONS = (
    *("sin", "cos", "tan", "log", "exp", "min", "max", "gcd", "lcm", "sqrt", "and", "mod"),
)
_STATES = re.compile(r"\b(?:is|are|equals|equal to|be)\b:?\s+", re.IGNORECASE)
_CAPITALIZED = re.compile(r"[A-Za-z][a-z]{2,}")
_PERCENT = re.compile(r"(?<!\\)%")
_FUNCTION = re.compile(
    r"(?<!\\text\{)(?<!\\mathrm\{)(?<!\\operatorname\{)(?<![\\a-zA-Z])"
    r"((?:arcsin|arccos|arctan|sin|cos|tan|cot|ln|log)(?=\s*(?:[(\d\\_^]|[a-z]\b))|pi(?![a-zA-Z]))"
)
_REPEATING = re.compile(
    r"(?<![\d.])(\d{0,9})\.(\d{0,9})\\(?:overline|bar|dot)\s*(?:\{(\d{1,30})\}|(\d))(?!\\dot)"
)
_LITERAL = re.compile(
    r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|[-+]?\.\d+|[-+]?\d*\s*\\frac\{\d+\}\{\d+\}"
    r"|[-+]?(?:\d+ )?\d+/\d+"
)


def formula(answer: str) -> str:
    """The formula that an answer states, as LaTeX without delimiters; several formulas that are
    joined by "and", "or" or a comma keep their dollars."""
    if len(answer) > LONGEST_ANSWER:
        return answer
    text = ascii_latex(normal_form(answer))
    found = formulas(text)
    if not found:
        return normal_form(_tail(text) if _is_prose(text) else text)

    around = text
    for match in reversed(found):
        around = around[: match.start()] + " ; " + around[match.end() :]
    joined = re.fullmatch(r"(?:\s|[;,&.]|\band\b|\bor\b|\\text\{|\}|\"|\\)*", around) is not None
    if joined or not _is_prose(around):
        return normal_form(text)

    # prose around formulas: the one after "is", else the first
    start = _last_verb_end(text)
    stated = next((match for match in found if match.start() >= start), None)
    if stated is None:
        return normal_form(text[start:] if start and _has_value(text[start:]) else found[0].group())
    return normal_form(stated.group())


def _is_prose(text: str) -> bool:
    words = _WORD.findall(_COMMAND.sub(" ", text))
    return any(word.lower() not in _FUNCTIONS and len(word) > 2 for word in words) or (
        bool(words) and _STATES.search(text) is not None
    )


def _tail(text: str) -> str:
    start = _last_verb_end(text)
    return text[start:] if start and _has_value(text[start:]) else text


def _last_verb_end(text: str) -> int:
    return max((match.end() for match in _STATES.finditer(text)), default=0)


def _has_value(text: str) -> bool:
    return re.search(r"\d|\\[a-zA-Z]|^\s*[a-zA-Z]\s*$", text) is not None


def ascii_latex(text: str) -> str:
    """LaTeX with commands in place of mathematical signs, and of functions written as words."""
    if not text.isascii():
        text = _SUPERSCRIPT.sub(lambda m: f"^{{{m.group().translate(_SUPERSCRIPTS)}}}", text)
        text = _ROOT_SIGN.sub(lambda m: rf"\sqrt{{{m[1] or m[2]}}}", text)
        text = text.translate(_TABLE)
    if "\\\\" in text and "\\begin" not in text:
        text = _DOUBLED.sub(r"\\", text)
    text = _FUNCTION.sub(r"\\\1 ", _PERCENT.sub(r"\\%", _THOUSANDS.sub(",", text)))
    return _GLUED_QUAD.sub(r"\\quad ", text)


def at_a_glance(gold: str, answer: str) -> Verdict | None:
    """The verdict where both answers are plain literals or are written alike; None otherwise.

    A plain literal is a decimal, a fraction or a mixed number, and nothing else.
    """
    gold, answer = formula(gold), formula(answer)
    written = [latex_text(text) for text in (gold, answer)]
    if written[0] == written[1]:
        return "right" if written[0] else "unparsable"
    if all(map(_CAPITALIZED.fullmatch, written)) and written[0].lower() == written[1].lower():
        return "right"  # East and east
    values = [_literal(text.replace("\\%", "")) for text in (gold, answer)]
    if None in values:
        return None
    if values[0] == values[1]:
        return "right"
    # 20 % may be 0.2 as well as 20
    return None if "%" in gold + answer else "wrong"


def _literal(text: str) -> Fraction | None:
    """The value of a plain literal; None for anything else."""
    text = ascii_latex(trimmed(text)).replace("\\!", "").replace("\\$", "").replace("$", "").strip()
    text = _FRACTION_DIGITS.sub(r"\\frac{\1}{\2}", _FRACTION.sub(r"\\frac", text))
    return parse_number(text, bare=True) if _LITERAL.fullmatch(text) else None


def mathematics(latex: str) -> str:
    """LaTeX as math-verify reads it: without signs of currency, and without dollars unless they
    set off several formulas."""
    text = formula(latex.replace("\\$", "")).strip()
    text = _REPEATING.sub(_as_fraction, _mixed(text))
    several = text.count("$") % 2 == 0 and "$" in text.strip("$")
    return text if several else text.replace("$", "").strip()


_MIXED = re.compile(r"(?<![\d.,}\w])(\d+)\s*\\[dtc]?frac\s*\{(\d+)\}\s*\{(\d+)\}")


def _mixed(text: str) -> str:
    """LaTeX with a sum in place of a mixed number, which is no product."""

    def summed(match: re.Match[str]) -> str:
        whole, above, below = (int(part) for part in match.groups())
        if not 0 < above < below:
            return match.group()
        return rf"\frac{{{whole * below + above}}}{{{below}}}"

    return _MIXED.sub(summed, text)


def _as_fraction(match: re.Match[str]) -> str:
    """A repeating decimal as a fraction: of 0.1\\overline{6} 15/90."""
    whole, fixed = match[1], match[2]
    repeated = match[3] or match[4]
    above = int(whole + fixed + repeated) - int(whole + fixed or "0")
    below = "9" * len(repeated) + "0" * len(fixed)
    return rf"\frac{{{above}}}{{{below}}}"


def latex_text(latex: str) -> str:
    """LaTeX without what changes only its looks: blanks, sizes, text mode, dollars, full stop."""
    text = _SIZE.sub("", ascii_latex(trimmed(latex).replace("\\$", "").replace("$", "")))
    text = _FRACTION_DIGITS.sub(r"\\frac{\1}{\2}", _FRACTION.sub(r"\\frac", text))
    text = without_fonts(_DEGREES.sub(r"^\\circ", text))
    return trimmed(_SPACE.sub("", text))
