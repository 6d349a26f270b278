"""What a row function or a reward rule reads, as a mark on it.

The chain makes what is read and nothing else: a method that learns from references alone needs no
teacher, and one whose rewards do not come from the GRM needs no GRM.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

CORRECTIONS, REWARDS = "corrections", "rewards"
OLD_LOGPROBS, GRM_LOGPROBS = "old_logprobs", "grm_logprobs"

ALL = frozenset((CORRECTIONS, REWARDS, OLD_LOGPROBS, GRM_LOGPROBS))
"""What a function without a mark may read.

Of an attempt these are its correction, its token rewards, and its log-probs under the old policy
and under the GRM.
"""

F = TypeVar("F", bound=Callable[..., Any])


def reads(*parts: str) -> Callable[[F], F]:
    """Marks a function: of `ALL` it reads these parts and no others.

    A row function reads an old log-prob only if it also does where the token's reward is 0. Raises
    ValueError for an unknown part.
    """
    if unknown := set(parts) - ALL:
        raise ValueError(f"reads: {sorted(unknown)} not in {sorted(ALL)}")

    def mark(function: F) -> F:
        setattr(function, "reads", frozenset(parts))  # noqa: B010
        return function

    return mark


def what_is_read(function: Any) -> frozenset[str]:
    """The parts that a function, or a partial of it, reads; all of them if it has no mark."""
    return getattr(getattr(function, "func", function), "reads", ALL)
