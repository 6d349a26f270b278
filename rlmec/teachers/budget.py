"""A teacher's budget in tokens and money, however many questions are out at the same time.

In: an upper bound per attempt, and later what the attempt really cost. Out: whether the attempt may
be asked. Attempts are admitted in their order. An attempt is admitted if its upper bound and the
real cost of all earlier attempts fit the budget. While the cost of earlier attempts is not yet
known, admission waits instead of guessing. The budget is therefore never exceeded, and the set of
admitted attempts does not depend on how many are asked at once. The paper sets no budget.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(frozen=True)
class Tokens:
    """Numbers of tokens that a model read and wrote."""

    input: int = 0
    output: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.input + other.input, self.output + other.output)

    def __sub__(self, other: Tokens) -> Tokens:
        return Tokens(self.input - other.input, self.output - other.output)


@dataclass(frozen=True)
class Budget:
    """Limits on tokens (read and written together) and on money; None is no limit.

    Prices are per million tokens, in any currency. Raises ValueError for a limit on money without
    prices, and for a negative limit or price.
    """

    max_tokens: int | None = None
    max_cost: float | None = None
    price_per_million_input: float | None = None
    price_per_million_output: float | None = None

    def __post_init__(self) -> None:
        prices = (self.price_per_million_input, self.price_per_million_output)
        if self.max_cost is not None and None in prices:
            raise ValueError(
                f"teacher.max_cost is {self.max_cost}, but the price of a token is not known: set "
                f"teacher.price_per_million_input and teacher.price_per_million_output"
            )

        values = {
            "max_tokens_total": self.max_tokens,
            "max_cost": self.max_cost,
            "price_per_million_input": self.price_per_million_input,
            "price_per_million_output": self.price_per_million_output,
        }
        for name, value in values.items():
            if value is not None and value < 0:
                raise ValueError(f"teacher.{name} is {value}; it must be at least 0")

    def cost(self, tokens: Tokens) -> float | None:
        """Return the price of these tokens, None if a price is not known."""
        if self.price_per_million_input is None or self.price_per_million_output is None:
            return None
        read = tokens.input * self.price_per_million_input
        written = tokens.output * self.price_per_million_output
        return (read + written) / 1e6

    def allows(self, tokens: Tokens) -> bool:
        """Whether this total is within both limits."""
        if self.max_tokens is not None and tokens.input + tokens.output > self.max_tokens:
            return False
        cost = self.cost(tokens)
        return self.max_cost is None or cost is None or cost <= self.max_cost


class OverBudget(Exception):
    """The next question does not fit the budget."""


class Ledger:
    """The tokens spent so far, and the tokens promised to attempts that are still out."""

    def __init__(self, budget: Budget, spent: Tokens) -> None:
        self.budget = budget
        self.spent = spent
        self._promised = Tokens()
        self._changed = threading.Condition()

    def admit(self, bound: Tokens) -> Hold | None:
        """Return a hold on `bound` for the next attempt, or None if the budget is too small.

        Only one thread may call it, in the order of the attempts. The call waits until either
        `bound` fits or no earlier attempt is out.
        """
        with self._changed:
            while not self.budget.allows(self.spent + self._promised + bound):
                # With nothing out, no later settlement can make room.
                if self._promised == Tokens():
                    return None
                self._changed.wait()
            self._promised += bound
            return Hold(self, bound)

    def extend(self, bound: Tokens) -> None:
        """Promise `bound` more to an attempt that is out; OverBudget if it does not fit."""
        with self._changed:
            if not self.budget.allows(self.spent + self._promised + bound):
                raise OverBudget
            self._promised += bound

    def settle(self, promised: Tokens, spent: Tokens) -> None:
        """Replace the promise to an attempt by what it really cost."""
        with self._changed:
            self._promised -= promised
            self.spent += spent
            self._changed.notify_all()


class Hold:
    """One attempt's share of the budget, from its admission until it is settled."""

    def __init__(self, ledger: Ledger, bound: Tokens) -> None:
        self.spent = Tokens()
        self._ledger = ledger
        self._promised = bound

    def pay(self, tokens: Tokens) -> None:
        """Count the tokens of one answer."""
        self.spent += tokens

    def lose(self, bound: Tokens) -> None:
        """Count a question whose answer was lost, and reserve the same amount to ask it again.

        The lost answer may have been billed up to `bound`. Raises OverBudget if asking again does
        not fit.
        """
        self.spent += bound
        self._ledger.extend(bound)
        self._promised += bound

    def settle(self) -> None:
        """Give back what was promised and not spent."""
        self._ledger.settle(self._promised, self.spent)
