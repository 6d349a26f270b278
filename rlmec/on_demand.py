"""Sequences whose items are made, or read, when they are asked for.

An item is not kept, so asking for it twice makes it twice.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar, overload

T = TypeVar("T")


class OnDemand(Sequence[T]):
    """A sequence that has a length, and an item for each number below it."""

    @abstractmethod
    def item(self, number: int) -> T:
        """The item of a number from 0 to below the length."""

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> list[T]: ...
    def __getitem__(self, at: int | slice) -> T | list[T]:
        """An item by its number, or a list of those in a range."""
        if isinstance(at, slice):
            return [self.item(number) for number in range(*at.indices(len(self)))]
        return self.item(range(len(self))[at])  # raises IndexError


class Made(OnDemand[T]):
    """`count` items, each of which `make` makes from its number."""

    def __init__(self, count: int, make: Callable[[int], T]) -> None:
        self._count = count
        self._make = make

    def __len__(self) -> int:
        return self._count

    def item(self, number: int) -> T:
        return self._make(number)
