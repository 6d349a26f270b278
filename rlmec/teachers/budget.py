"""What a teacher may spend, in tokens and in money, however many questions are out at once.

In: upper bounds of what is about to be asked, and what it came to. Out: whether it may be asked.
An attempt is let in, in the attempts' order, if what the earlier ones spent and its own upper bound
fit; while earlier ones are still out it waits rather than guess. So the budget is never passed, and
which attempts are let in does not depend on how many are asked at once.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(frozen=True)
class Tokens:
    """Tokens read and written by a model."""

    input: int = 0
    output: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.input + other.input, self.output + other.output)

    def __sub__(self, other: Tokens) -> Tokens:
        return Tokens(self.input - other.input, self.output - other.output)


@dataclass(frozen=True)
class Budget:
    """Limits on tokens (both kinds together) and money, None for no limit; prices are for a
    million tokens, in any currency. Raises ValueError for a limit on money without prices."""

    max_tokens: int | None = None
    max_cost: float | None = None
    price_per_million_input: float | None = None
    price_per_million_output: float | None = None

    def __post_init__(self) -> None:
        prices = (self.price_per_million_input, self.price_per_million_output)
        if self.max_cost is not None and None in prices:
            raise ValueError(
                f"teacher.max_cost is {self.max_cost}, but what tokens cost is not known: set "
                f"teacher.price_per_million_input and teacher.price_per_million_output"
            )
        limits = {"max_tokens_total": self.max_tokens, "max_cost": self.max_cost}
        limits |= {"price_per_million_input": prices[0], "price_per_million_output": prices[1]}
        for name, value in limits.items():
            if value is not None and value < 0:
                raise ValueError(f"teacher.{name} is {value}, which is less than nothing")

    def cost(self, tokens: Tokens) -> float | None:
        """What tokens cost, None where a price is not known."""
        if self.price_per_million_input is None or self.price_per_million_output is None:
            return None
        money = tokens.input * self.price_per_million_input
        return (money + tokens.output * self.price_per_million_output) / 1e6

    def allows(self, tokens: Tokens) -> bool:
        """Whether so much in all is within the limits."""
        if self.max_tokens is not None and tokens.input + tokens.output > self.max_tokens:
            return False
        cost = self.cost(tokens)
        return self.max_cost is None or cost is None or cost <= self.max_cost


class OverBudget(Exception):
    """What was to be asked next does not fit the budget."""


class Ledger:
    """What was spent and what is promised to attempts that are out."""

    def __init__(self, budget: Budget, spent: Tokens) -> None:
        self.budget, self.spent, self._promised = budget, spent, Tokens()
        self._changed = threading.Condition()

    def admit(self, bound: Tokens) -> Hold | None:
        """A hold on `bound` for the next attempt, None where it does not fit what is left once all
        earlier attempts are settled. For one thread, in the attempts' order."""
        with self._changed:
            while not self.budget.allows(self.spent + self._promised + bound):
                if self._promised == Tokens():
                    return None
                self._changed.wait()
            self._promised += bound
            return Hold(self, bound)

    def extend(self, bound: Tokens) -> None:
        """Promises `bound` more to an attempt that is out; OverBudget where it does not fit."""
        with self._changed:
            if not self.budget.allows(self.spent + self._promised + bound):
                raise OverBudget
            self._promised += bound

    def settle(self, promised: Tokens, spent: Tokens) -> None:
        """Replaces a promise by what the attempt came to."""
        with self._changed:
            self._promised -= promised
            self.spent += spent
            self._changed.notify_all()


class Hold:
    """An attempt's share of the budget, from its admission until it is settled."""

    def __init__(self, ledger: Ledger, bound: Tokens) -> None:
        self._ledger, self._promised, self.spent = ledger, bound, Tokens()

    def pay(self, tokens: Tokens) -> None:
        """Notes what one answer came to."""
        self.spent += tokens

    def lose(self, bound: Tokens) -> None:
        """Notes a question whose answer got lost: it may have been billed up to `bound`, and to ask
        again as much again is needed. OverBudget where that does not fit."""
        self.spent += bound
        self._ledger.extend(bound)
        self._promised += bound

    def settle(self) -> None:
        self._ledger.settle(self._promised, self.spent)
