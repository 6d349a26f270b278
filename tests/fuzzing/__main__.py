"""The long form at the command line; ends with 1 where there was a failure."""

from __future__ import annotations

import argparse
import faulthandler
import random
import resource
import sys
import tempfile
from pathlib import Path

from .runner import Found, one, run, table
from .targets import TARGETS

MEMORY = 8 * 2**30


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=None, help="default: a new one, printed")
    parser.add_argument("--target", choices=[t.name for t in TARGETS], help="one target alone")
    parser.add_argument("--only", type=int, help="one input of the target alone, with its error")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    targets = [t for t in TARGETS if given.target in (None, t.name)]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))  # a huge number is no huge buffer
    faulthandler.enable()
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        if given.only is not None:
            return _again(targets[0], seed, given.only, Path(folder))
        found = run(targets, given.inputs, seed, Path(folder), _say)
    print(table(found))
    return 1 if any(f.failures for f in found.values()) else 0


def _say(name: str, found: Found) -> None:
    shown = [f"{name}: {found.accepted + found.refused + sum(found.kinds.values())} inputs"]
    print(*shown, *found.failures, sep="\n", flush=True)


def _again(target, seed: int, number: int, folder: Path) -> int:
    place = folder / target.name
    place.mkdir()
    found = Found()
    one(target, seed, number, place, found)
    print(table({target.name: found}), *found.failures, sep="\n")
    if found.failures:
        target.run(random.Random(f"{seed}/{target.name}/{number}"), place)
    return len(found.failures)


if __name__ == "__main__":
    sys.exit(main())
