"""python -m tests.faults [--seed N] [--case NAME] [--quick] [--root FOLDER]: stops the real
command, starts it again, compares, and prints a table; ends with 1 where anything differs."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from .cases import Case, all_cases, quick
from .damage import unmount_all
from .forks import import_everything
from .runner import Bench, Result


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", action="append", help="a case's name; may be given again")
    parser.add_argument("--quick", action="store_true", help="the six stops of make test")
    parser.add_argument("--root", type=Path, help="a folder to work in, which is kept")
    args = parser.parse_args(argv)
    cases = quick() if args.quick else all_cases(args.seed)
    if args.case:
        cases = [case for case in (*quick(), *all_cases(args.seed)) if case.name in args.case]
    root = args.root or Path(tempfile.mkdtemp(prefix="faults-"))
    print(f"seed {args.seed}, {len(cases)} cases, in {root}", flush=True)
    began = time.monotonic()
    import_everything()
    try:
        bench = Bench(root)
        results = [_run(bench, case) for case in cases]
    finally:
        unmount_all(root)
    print(_table(results))
    seconds = time.monotonic() - began
    failed = [result for result in results if result.wrong]
    print(_closing(results, seconds))
    for result in failed:
        print(f"FAILED: python -m tests.faults --seed {args.seed} --case {result.case.name}")
    if args.root is None and not failed:
        shutil.rmtree(root)
    return 1 if failed else 0


def _run(bench: Bench, case: Case) -> Result:
    result = bench.run(case)
    state = "; ".join(result.wrong) or "the same as uninterrupted"
    stops, on = ", ".join(result.stops), ", ".join(result.went_on) or "the start"
    print(f"{case.name}: {stops}; went on from {on}: {state} ({result.seconds:.0f} s)", flush=True)
    return result


def _struck(results: Sequence[Result]) -> list[str]:
    """The stops that came before the work was done."""
    return [stop for result in results for stop in result.stops if not stop.startswith("(")]


def _table(results: Sequence[Result]) -> str:
    lines = ["", "| setting | stage | cases | stops | differ | rows lost or doubled |"]
    lines.append("|---|---|---|---|---|---|")
    groups = dict.fromkeys((r.case.setting, r.case.stage) for r in results)
    for setting, stage in groups:
        own = [r for r in results if (r.case.setting, r.case.stage) == (setting, stage)]
        differ, rows = sum(bool(r.wrong) for r in own), sum(r.rows_wrong for r in own)
        count = len(_struck(own))
        lines.append(f"| {setting} | {stage} | {len(own)} | {count} | {differ} | {rows} |")
    kinds = Counter(stop.partition("@")[0] for stop in _struck(results))
    lines.append("")
    lines.append("stops by kind: " + ", ".join(f"{kind} {n}" for kind, n in kinds.most_common()))
    return "\n".join(lines)


def _closing(results: Sequence[Result], seconds: float) -> str:
    wrong = sum(bool(r.wrong) for r in results)
    rows, torn = sum(r.rows_wrong for r in results), sum(r.torn for r in results)
    accepted = sum(r.torn_accepted for r in results)
    slowest = max((r.slowest for r in results), default=0.0)
    return (
        f"{len(_struck(results))} stops in {len(results)} cases: {wrong} cases differ, {rows} "
        f"rows lost or doubled, {accepted} of {torn} torn artifacts accepted; slowest end after a "
        f"signal from outside {slowest:.1f} s; {seconds:.0f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
