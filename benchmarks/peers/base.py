"""What a peer is: a name, a line that says what it computes, and how its work is prepared."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

OURS = "ours"


@dataclass(frozen=True)
class Work:
    """A peer's work, ready to be timed.

    `run` does the work once and returns its result: the loss of a training step, whose gradients
    it adds to the job's network, or the generated texts as token ids. `head` is the number of
    positions whose logits over the vocabulary are computed; None if the peer does not say.
    """

    run: Callable[[], Any]
    head: int | None = None
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Peer:
    """One row of a table.

    `about` says in one line what is computed. `prepare` gets the job and returns the work.
    `needs` names the packages that must be importable. `equals` names the peer that must give the
    same result, "" if there is none. `loss` is the loss of a training step: "rlmec" and "dpo" train
    on both texts of a pair, "sft" on the correction alone.
    """

    name: str
    about: str
    prepare: Callable[[Any], Work]
    needs: tuple[str, ...] = ()
    equals: str = ""
    loss: str = ""

    def missing(self) -> list[str]:
        """Return the packages that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


def peers_of(kind: str) -> list[Peer]:
    """Return all peers of a kind of work: ours first, then the modules in alphabetical order."""
    package = importlib.import_module(f"{__package__}.{kind}")
    found: list[Peer] = []
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda m: m.name):
        found += importlib.import_module(f"{package.__name__}.{module.name}").PEERS
    return sorted(found, key=lambda peer: not peer.name.startswith(OURS))


def chosen_peers(kind: str, names: list[str] | None) -> list[Peer]:
    """Return the peers of a kind whose names contain one of `names`, and ours; None for all.

    Names are compared without regard to case.
    """
    found = peers_of(kind)
    if names is None:
        return found
    wanted = [name.lower() for name in names]
    return [p for p in found if p.name == OURS or any(n in p.name.lower() for n in wanted)]
