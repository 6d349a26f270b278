"""The words of the arithmetic task: names, items, sentences of questions and solution lines.

In: a story (whose items, which steps). Out: text. A solution line is the day of one step and a
statement of it. Every operation has the same number of phrasings, and every phrasing contains the
whole equation, so a line can be checked alone. Tokens are single digits, words and punctuation
marks, each with the blank before it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TOKEN = re.compile(r" ?\d| ?[A-Za-z]+| ?[^\sA-Za-z\d]|\s")
"""Matches the task's tokens; joining them gives the text back."""

EQUATION = re.compile(r"(\d{1,9}) ([-+*/]) (\d{1,9}) = (\d{1,9})(?!\d)")

NAMES = (
    *("Mia", "Leo", "Anna", "Omar", "Ruth", "Ivan", "Nina", "Paul"),
    *("Sara", "Hugo", "Lena", "Emil", "Aisha", "Tom", "Yuki", "Carl"),
)
ITEMS = (
    *("apples", "books", "coins", "pens", "cards", "shells"),
    *("stamps", "eggs", "marbles", "roses", "plums", "nuts"),
)
SYMBOLS = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}
OPERATIONS = {symbol: name for name, symbol in SYMBOLS.items()}

STARTS = (
    "{name} has {a} {item}.",
    "{name} starts with {a} {item}.",
    "At first {name} has {a} {item}.",
    "{name} owns {a} {item}.",
    "{name} keeps {a} {item}.",
    "There are {a} {item} that {name} owns.",
)
EVENTS = {
    "add": (
        "{name} gets {b} more.",
        "{name} finds {b} more {item}.",
        "A friend brings {b} {item}.",
        "Then {name} buys {b}.",
        "Another {b} come in.",
        "{name} adds {b}.",
    ),
    "subtract": (
        "{name} gives {b} away.",
        "{name} loses {b} {item}.",
        "A friend takes {b} {item}.",
        "Then {name} sells {b}.",
        "Another {b} get lost.",
        "{name} drops {b}.",
    ),
    "multiply": (
        "{name} {verb} them.",
        "{name} {verb} the {item}.",
        "A friend {verb} that.",
        "Then their number {verb}.",
        "Now there are {b} times as many.",
        "{name} makes it {b} times that.",
    ),
    "divide": (
        "{name} halves them.",
        "{name} halves the {item}.",
        "A friend takes half.",
        "Then {name} sells half.",
        "Half of them get lost.",
        "{name} drops half.",
    ),
}
ENDINGS = (
    "How many {item} does {name} have?",
    "How many {item} are there now?",
)
LINES = {
    "add": (
        "{name} gets {b} more, so {equation}.",
        "Now {name} has {equation} {item}.",
        "That makes {equation} {item}.",
        "Adding {b} gives {equation}.",
        "The sum is {equation}.",
        "With {b} more there are {equation}.",
    ),
    "subtract": (
        "{name} gives up {b}, so {equation}.",
        "Now {name} has {equation} {item}.",
        "That leaves {equation} {item}.",
        "Taking {b} gives {equation}.",
        "The rest is {equation}.",
        "Without {b} there are {equation}.",
    ),
    "multiply": (
        "{name} gets {b} times that, so {equation}.",
        "Now {name} has {equation} {item}.",
        "That makes {equation} {item}.",
        "Times {b} gives {equation}.",
        "The product is {equation}.",
        "With {b} times as many there are {equation}.",
    ),
    "divide": (
        "{name} keeps half, so {equation}.",
        "Now {name} has {equation} {item}.",
        "That leaves {equation} {item}.",
        "Halving gives {equation}.",
        "The half is {equation}.",
        "With half left there are {equation}.",
    ),
}
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
VERBS = {2: "doubles", 3: "triples"}
MOST_PHRASINGS = len(LINES["add"])


@dataclass(frozen=True)
class Step:
    """One step of a story: on a `day`, `before operation operand = after`."""

    before: int
    operation: str
    operand: int
    after: int
    day: str = DAYS[0]

    def equations(self) -> list[str]:
        """The ways to write the step; the operands may be exchanged where that changes nothing."""
        symbol = SYMBOLS[self.operation]
        orders = [(self.before, self.operand)]
        if self.operation in ("add", "multiply") and self.before != self.operand:
            orders.append((self.operand, self.before))
        return [f"{left} {symbol} {right} = {self.after}" for left, right in orders]


@dataclass(frozen=True)
class Story:
    """What a question tells: whose items they are, and what happens to their number."""

    name: str
    item: str
    steps: tuple[Step, ...]

    @property
    def answer(self) -> int:
        return self.steps[-1].after

    def lines(self, step: Step, phrasings: int) -> list[str]:
        """Every right solution line of `step`, equations in their usual order first."""
        return [
            self.line(step, p, equation) for equation in step.equations() for p in range(phrasings)
        ]

    def line(self, step: Step, phrasing: int, equation: str) -> str:
        """The solution line of `step` in one phrasing: its day, then the step with its equation."""
        said = LINES[step.operation][phrasing].format(
            name=self.name, item=self.item, b=step.operand, equation=equation
        )
        return f"{step.day}: {said}"


def answer_line(answer: int | str) -> str:
    """The last line of every solution."""
    return f"The answer is {answer}."


def tokens(text: str) -> list[str]:
    """The task's tokens of any text. Joined, they give the text back."""
    return TOKEN.findall(text)
