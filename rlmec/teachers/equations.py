"""What a solution line states: its numbers, its last equation, its result; and the line with
another.

In: lines of free text such as "She sells 9 * 2 = $<<9*2=18>>18 worth"; out: exact numbers and
mended lines. Only what is written as `number operator number ... = number` is read as an
equation; nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Set
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

LONGEST_LINE = 600
"""Characters of a line that are read for equations."""
_CENT = Fraction(1, 100)
_KEPT = (
    4096  # lines and numbers whose reading is kept: one splice asks for the same ones many times
)
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
"""A number: an int where it is whole, which is quicker to compare and to hash; they are equal."""
_CALCULATE: dict[str, Callable[[Exact, Exact], Exact]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: Fraction(a) / b,
}


@dataclass(frozen=True)
class Equation:
    """The last equation of a line: operands and result as written, operators as + - * /."""

    operands: tuple[str, ...]
    operators: tuple[str, ...]
    result: str
    match: re.Match[str]


@lru_cache(_KEPT)
def value(number: str) -> Exact:
    """The number as written, thousands separators read."""
    exact = Fraction(number.replace(",", ""))
    return exact.numerator if exact.denominator == 1 else exact


def numbers_in(line: str) -> list[Exact]:
    """The numbers of a line in order, without signs."""
    return list(_numbers(line))


@lru_cache(_KEPT)
def _numbers(line: str) -> tuple[Exact, ...]:
    return tuple(value(number) for number in NUMBER.findall(line[:LONGEST_LINE]))


def last_equation(line: str) -> Equation | None:
    """The last equation of a line, None without one."""
    found = _equations(line)
    return found[-1] if found else None


@lru_cache(_KEPT)
def _equations(line: str) -> tuple[Equation, ...]:
    return tuple(_equation(match) for match in _EQUATION.finditer(line[:LONGEST_LINE]))


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
    """What a line arrives at: the result of its last equation, else its last number, else None."""
    equation = last_equation(line)
    if equation is not None:
        return value(equation.result)
    numbers = numbers_in(line)
    return numbers[-1] if numbers else None


@lru_cache(_KEPT)
def states_falsehood(line: str) -> bool:
    """Whether an equation of two operands in the line is off by more than a rounding to cents.

    Longer ones are not judged: nobody says whether they run from the left or by precedence.
    """
    for equation in _equations(line):
        if len(equation.operands) != 2 or "%" in equation.match.group():
            continue
        left, right = (value(operand) for operand in equation.operands)
        operator = equation.operators[0]
        if operator == "/" and right == 0:
            return True
        stated = value(equation.result)
        off = _CALCULATE[operator](left, right) - stated
        if off and abs(off) > _CENT:
            return True
    return False


def mended_line(line: str, reference: str, given: Set[Exact] = frozenset()) -> str | None:
    """`line` with the last equation of `reference` in place of its own, its words kept.

    None unless both have an equation and share at least half the operands of the longer one, in any
    order. Where the words repeat a changed number they follow it, unless it is one of the `given`.
    """
    own, right = last_equation(line), last_equation(reference)
    if own is None or right is None:
        return None
    if 2 * _shared(own, right) < max(len(own.operands), len(right.operands)):
        return None
    operands = _in_order_of(own, right)
    spoken = _spoken(own, operands, right.result, given)
    start, end = own.match.span()
    mended = _written(own, right, operands)
    return _replaced(line[:start], spoken) + mended + _replaced(line[end:], spoken)


def _shared(one: Equation, other: Equation) -> int:
    """How many operands two equations have in common, each counted as often as both have it."""
    left = [value(operand) for operand in other.operands]
    for operand in map(value, one.operands):
        if operand in left:
            left.remove(operand)
    return len(other.operands) - len(left)


def _in_order_of(own: Equation, right: Equation) -> tuple[str, ...]:
    """The operands of `right`, in the places they have in `own` where order does not matter."""
    if len(own.operands) != len(right.operands) or set(right.operators) not in ({"+"}, {"*"}):
        return right.operands
    left = list(right.operands)
    placed: list[str | None] = []
    for operand in own.operands:
        same = next((other for other in left if value(other) == value(operand)), None)
        if same is not None:
            left.remove(same)
        placed.append(same)
    return tuple(left.pop(0) if operand is None else operand for operand in placed)


def _spoken(
    own: Equation, operands: tuple[str, ...], result: str, given: Set[Exact]
) -> dict[Exact, str]:
    """What becomes of the equation's numbers where the words repeat them, by their place in it."""
    pairs = [(own.result, result)]
    if len(own.operands) == len(operands):
        pairs += zip(own.operands, operands, strict=True)
    kept = given | {value(operand) for operand in operands}
    return {value(old): new for old, new in pairs if value(old) not in kept}


def _written(own: Equation, right: Equation, operands: tuple[str, ...]) -> str:
    """The equation of `right` in the spacing, signs and number style of `own`."""
    if len(own.operands) == len(operands):
        numbers, operators = iter(operands), iter(right.operators)

        def term(match: re.Match[str]) -> str:
            if match["number"]:
                return _as_written(match["number"], next(numbers))
            operator = next(operators)
            return match.group() if _plain(match.group()) == operator else operator

        terms = _TERM.sub(term, own.match["terms"])
    else:
        terms = right.match["terms"]
    result = _as_written(own.result, right.result)
    mark = ""
    if own.match["mark"]:
        plain = re.sub(r"[ $,]", "", terms).replace("x", "*").replace("\u00d7", "*")
        mark = f"<<{plain}={result.replace(',', '')}>>"
    return f"{terms}{own.match['gap']}{mark}{own.match['sign']}{result}"


def _as_written(before: str, after: str) -> str:
    return before if value(before) == value(after) else after


def _replaced(text: str, changed: dict[Exact, str]) -> str:
    return NUMBER.sub(lambda match: changed.get(value(match.group()), match.group()), text)
