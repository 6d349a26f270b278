"""How long idle threads stay awake between two parallel regions, set before torch is loaded.

GNU's OpenMP, which torch brings on Linux, lets a thread that waits for work spin for some
milliseconds. On a machine that others use, threads then spin on processors that the working ones
need. A bounded count costs a little on a quiet machine and saves most of that on a shared one
(docs/speed.md has the figures). Results do not depend on it.
"""

from __future__ import annotations

from collections.abc import MutableMapping

SPIN_COUNT = "3000"
CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
"""Variables by which a user decides it."""


def bound_spinning(environ: MutableMapping[str, str]) -> None:
    """Bound the spinning of this process and its children, unless the user has decided it."""
    if not any(name in environ for name in CHOICES):
        environ["GOMP_SPINCOUNT"] = SPIN_COUNT
