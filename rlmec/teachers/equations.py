"""The arithmetic that a line of a solution states, and the line with another equation.

In: lines of free text such as "She sells 9 * 2 = $<<9*2=18>>18 worth". Out: exact numbers, whether
an equation is false, and corrected lines. Only text of the form `number operator number ... =
number` is read as an equation; nothing is guessed. The paper has no such rules: they serve the
reference teacher, which needs no language model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Set
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

MAX_LINE_CHARACTERS = 600
"""The characters of a line that are read; the rest is ignored."""
_CENT = Fraction(1, 100)

# One alignment reads the same lines and numbers many times.
_CACHE_SIZE = 4096

_NUM = r"(?:(?:\d{1,3}(?:,\d{3}){1,6}(?!\d)|\d{1,30})(?:\.\d{1,30})?|\.\d{1,30})"
_OPERATOR = r"[-+*/x\u00d7]"
_MARK = r"<<[^<>\n]{0,120}>>"
NUMBER = re.compile(_NUM)
_EQUATION = re.compile(
    rf"(?<![\d.,])(?P<terms>{_NUM}(?:%?[ ]{{0,2}}{_OPERATOR}[ ]?\$?[ ]?{_NUM}){{1,6}})"
    rf"(?P<gap>%?[ ]{{0,2}}=[ ]?\$?[ ]?)(?P<mark>{_MARK})?(?P<sign>\$?)(?P<result>-?{_NUM})"
)
_TERM = re.compile(rf"(?P<number>{_NUM})|(?P<operator>{_OPERATOR})")
Exact = Fraction | int
"""A number, an int if it is whole: an int compares and hashes faster than the equal Fraction."""
_CALCULATE: dict[str, Callable[[Exact, Exact], Exact]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: Fraction(a) / b,
}


@dataclass(frozen=True)
class Equation:
    """An equation in a line: operands and result as written, operators as + - * /."""

    operands: tuple[str, ...]
    operators: tuple[str, ...]
    result: str
    match: re.Match[str]


@lru_cache(_CACHE_SIZE)
def value(number: str) -> Exact:
    """Return the exact value of a written number, which may have thousands separators."""
    exact = Fraction(number.replace(",", ""))
    return exact.numerator if exact.denominator == 1 else exact


def numbers_in(line: str) -> list[Exact]:
    """Return the numbers of a line in order, without signs."""
    return list(_numbers(line))


@lru_cache(_CACHE_SIZE)
def _numbers(line: str) -> tuple[Exact, ...]:
    return tuple(value(number) for number in NUMBER.findall(line[:MAX_LINE_CHARACTERS]))


def last_equation(line: str) -> Equation | None:
    """Return the last equation of a line, None without one."""
    found = _equations(line)
    return found[-1] if found else None


@lru_cache(_CACHE_SIZE)
def _equations(line: str) -> tuple[Equation, ...]:
    return tuple(_equation(match) for match in _EQUATION.finditer(line[:MAX_LINE_CHARACTERS]))


def _equation(match: re.Match[str]) -> Equation:
    terms = list(_TERM.finditer(match["terms"]))
    return Equation(
        operands=tuple(m["number"] for m in terms if m["number"]),
        operators=tuple(_plain(m["operator"]) for m in terms if m["operator"]),
        result=match["result"],
        match=match,
    )


def _plain(operator: str) -> str:
    return "*" if operator in "x\u00d7" else operator


def result_of(line: str) -> Exact | None:
    """Return the result of a line's last equation, otherwise its last number, otherwise None."""
    equation = last_equation(line)
    if equation is not None:
        return value(equation.result)
    numbers = numbers_in(line)
    return numbers[-1] if numbers else None


@lru_cache(_CACHE_SIZE)
def states_falsehood(line: str) -> bool:
    """Whether an equation of two operands in the line is wrong by more than a cent.

    A smaller difference is taken for rounding. Longer equations are not judged, because the line
    does not say whether they are read from left to right or by precedence. Equations with a
    percentage are not judged either.
    """
    for equation in _equations(line):
        if len(equation.operands) != 2 or "%" in equation.match.group():
            continue
        left, right = (value(operand) for operand in equation.operands)
        operator = equation.operators[0]
        if operator == "/" and right == 0:
            return True
        difference = _CALCULATE[operator](left, right) - value(equation.result)
        if abs(difference) > _CENT:
            return True
    return False


def corrected_line(line: str, reference: str, given: Set[Exact] = frozenset()) -> str | None:
    """Return `line` with the last equation of `reference` in place of its own, and its own words.

    If the words repeat a number of the replaced equation, the number changes with it, unless it is
    one of the `given` numbers. Returns None unless both lines have an equation and share at least
    half the operands of the longer equation, in any order.
    """
    own = last_equation(line)
    right = last_equation(reference)
    if own is None or right is None:
        return None
    if 2 * _shared_operands(own, right) < max(len(own.operands), len(right.operands)):
        return None

    operands = _in_order_of(own, right)
    changed = _changed_numbers(own, operands, right.result, given)
    start, end = own.match.span()
    equation = _in_style_of(own, right, operands)
    return _replaced(line[:start], changed) + equation + _replaced(line[end:], changed)


def _shared_operands(one: Equation, other: Equation) -> int:
    """The number of common operands, each counted as often as both equations have it."""
    left = [value(operand) for operand in other.operands]
    for operand in map(value, one.operands):
        if operand in left:
            left.remove(operand)
    return len(other.operands) - len(left)


def _in_order_of(own: Equation, right: Equation) -> tuple[str, ...]:
    """The operands of `right`, in the order of `own` if both equations allow any order."""
    if len(own.operands) != len(right.operands) or set(right.operators) not in ({"+"}, {"*"}):
        return right.operands

    # Operands of both equations keep their place in `own`; the others fill the gaps in order.
    left = list(right.operands)
    placed: list[str | None] = []
    for operand in own.operands:
        same = next((other for other in left if value(other) == value(operand)), None)
        if same is not None:
            left.remove(same)
        placed.append(same)
    return tuple(left.pop(0) if operand is None else operand for operand in placed)


def _changed_numbers(
    own: Equation, operands: tuple[str, ...], result: str, given: Set[Exact]
) -> dict[Exact, str]:
    """The numbers of `own` that the new equation replaces, each with its replacement."""
    pairs = [(own.result, result)]
    if len(own.operands) == len(operands):
        pairs += zip(own.operands, operands, strict=True)
    unchanged = given | {value(operand) for operand in operands}
    return {value(old): new for old, new in pairs if value(old) not in unchanged}


def _in_style_of(own: Equation, right: Equation, operands: tuple[str, ...]) -> str:
    """The equation `right` with the spacing, the operator signs, and the number style of `own`."""
    if len(own.operands) == len(operands):
        new_numbers = iter(operands)
        new_operators = iter(right.operators)

        def term(match: re.Match[str]) -> str:
            if match["number"]:
                return _as_written(match["number"], next(new_numbers))
            operator = next(new_operators)
            return match.group() if _plain(match.group()) == operator else operator

        terms = _TERM.sub(term, own.match["terms"])
    else:
        terms = right.match["terms"]

    # A calculator mark of GSM8K repeats the equation without spaces, commas, or dollar signs.
    result = _as_written(own.result, right.result)
    mark = ""
    if own.match["mark"]:
        plain = re.sub(r"[ $,]", "", terms).replace("x", "*").replace("\u00d7", "*")
        mark = f"<<{plain}={result.replace(',', '')}>>"
    return f"{terms}{own.match['gap']}{mark}{own.match['sign']}{result}"


def _as_written(before: str, after: str) -> str:
    """The new number, in the old one's writing if they are equal."""
    return before if value(before) == value(after) else after


def _replaced(text: str, changed: dict[Exact, str]) -> str:
    return NUMBER.sub(lambda match: changed.get(value(match.group()), match.group()), text)
