"""One run of the benchmarks: the chosen rows, the table as it grows, and the JSON file."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bench import BenchSettings
from benchmarks.measurement import Result
from benchmarks.table import as_json, cells, machine, render
from benchmarks.work import ROWS, check_names


@dataclass(frozen=True)
class Settings(BenchSettings):
    """The root of `conf/benchmark.yaml`.

    `work` names rows of the table, None for all rows of the preset. `rows` has the keyword
    arguments of each row, None for a row that the preset leaves out. `strict` makes a missed
    promise an error.
    """

    rows: dict[str, dict[str, Any] | None]
    work: list[str] | str | None
    strict: bool

    def names(self) -> list[str]:
        """Return the chosen rows in the order asked for; ValueError for an unknown row."""
        present = {name: row for name, row in self.rows.items() if row is not None}
        names = [self.work] if isinstance(self.work, str) else self.work
        chosen = list(present if names is None else names)
        check_names(chosen, present)
        return chosen


def run(settings: Settings) -> int:
    """Return 0, or 1 if a result is wrong or, with `strict`, a promise is missed."""
    names = settings.names()
    bench = settings.bench()
    samples = bench.samples
    about = machine(bench.device)
    print(f"{settings.preset} on {_shown(about)}; pairs: {samples.source}", flush=True)

    results: list[Result] = []
    took: dict[str, float] = {}
    for name in names:
        start = time.perf_counter()
        made = ROWS[name](bench, **(settings.rows[name] or {}))
        took[name] = round(time.perf_counter() - start, 1)
        results += made
        for result in made:
            print("  " + "  ".join(c for c in cells(result)[:6] if c), flush=True)
        gc.collect()

    print("\n" + render(results))
    if "synthetic" in samples.source:
        print(f"pairs: {samples.source}")

    about |= {
        "preset": settings.preset,
        "precision": settings.precision,
        "seed": settings.seed,
        "repeats": settings.repeats,
        "shape": settings.shape | {"vocabulary_size": settings.vocabulary_size},
        "rows": {name: settings.rows[name] for name in names},
        "pairs": {"source": samples.source, "count": len(samples.all), **samples.lengths()},
        "seconds": took,
    }
    path = written(Path(settings.output), settings.preset, as_json(results, about))
    print(f"written: {path}")
    return _verdict(results, settings.strict)


def written(folder: Path, name: str, text: str) -> Path:
    """Return the new JSON file of `text` in `folder`, which has the name and the time."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.write_text(text, encoding="utf-8")
    return path


def _verdict(results: Sequence[Result], strict: bool) -> int:
    """The exit code, after printing what is wrong and what was missed."""
    wrong = [r for r in results if not r.is_equal]
    missed = [r for r in results if not r.keeps_promises]
    for result in wrong:
        print(f"WRONG: {result.work} {result.case}: error {result.error} > {result.error_limit}")
    for result in missed:
        texts = ", ".join(p.text for p in result.promises if not p.kept)
        print(f"missed: {result.work} {result.case}: {texts}")
    return int(bool(wrong or (strict and missed)))


def _shown(about: dict[str, Any]) -> str:
    kind = about["gpu"] or about["processor"]
    load = "" if about["load"] is None else f", load {about['load']}"
    return (
        f"{kind} ({about['cores']} cores, {about['threads']} threads{load}), "
        f"torch {about['torch']}, transformers {about['transformers']}"
    )
