"""A sweep of many small jobs over shared artifacts: python -m benchmarks.sweep [--jobs N]

Runs `train.py -m` with the joblib launcher up to the policy. All jobs need the same warm-up,
attempts, and corrections; half of them need one GRM and its scores, the other half another one; and
every job has its own policy.

Then checks the store: every artifact was made exactly once (over all `summary.json`), none is
unfinished, every table can be read and has as many rows as its manifest says, and what the jobs
share has the same bytes as in a job that runs alone. Ends with 1 if a check fails.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.process_usage import environment, watched
from rlmec.records import Attempt, Correction, Score
from rlmec.store.artifacts import MANIFEST
from rlmec.store.fingerprint import file_digest
from rlmec.store.tables import TableError, count_rows, read_table

ROOT = Path(__file__).resolve().parent.parent
TINY = (
    *("experiment=smoke", "stage=policy", "warmup.steps=4", "grm.steps=4", "policy.steps=2"),
    *("task.train=60", "task.test=16", "policy.val_problems=4", "grm.val_problems=4"),
    *("logger=none", "trainer.threads=1", "trainer.progress_bar=false"),
)
MAIN_TABLES = {
    "sample": ("attempts", Attempt),
    "teach": ("corrections", Correction),
    "score": ("scores", Score),
}


def command(store: Path, *overrides: str) -> list[str]:
    """Return the command line of one tiny training in `store`."""
    places = [f"paths.artifacts={store / 'artifacts'}", f"paths.outputs={store / 'outputs'}"]
    return [sys.executable, str(ROOT / "train.py"), *overrides, *TINY, *places]


def sweep(store: Path, jobs: int, at_once: int) -> list[str]:
    """Return the command line of the whole sweep."""
    seeds = ",".join(map(str, range(1, jobs // 2 + 1)))
    chosen = ["-m", "hydra/launcher=joblib", f"hydra.launcher.n_jobs={at_once}"]
    return command(store, *chosen, "grm.seed=1,2", f"policy.seed={seeds}")


def summaries(store: Path) -> list[dict[str, Any]]:
    """Return the summaries that the jobs left, by path."""
    found = sorted((store / "outputs").rglob("summary.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in found]


def artifacts(store: Path) -> set[Path]:
    """Return the folders of finished artifacts."""
    return {path.parent for path in (store / "artifacts").glob(f"*/[!.]*/{MANIFEST}")}


def made(store: Path) -> Counter[Path]:
    """Return how many jobs report that they made an artifact, by its folder."""
    stages = [stage for summary in summaries(store) for stage in summary["stages"]]
    return Counter(Path(stage["artifact"]) for stage in stages if stage["made"])


def faults(store: Path, jobs: int) -> list[str]:
    """Return everything that is wrong after a sweep of `jobs` jobs, one sentence each."""
    found = artifacts(store)
    times = made(store)
    out = [f"{path} was made {n} times" for path, n in times.items() if n != 1]
    out += [f"{path} exists, but no job reports that it made it" for path in found - set(times)]
    out += [f"{path} is gone" for path in set(times) - found]
    out += [f"{path} is left over" for path in (store / "artifacts").glob("*/.work-*")]

    ended = len(summaries(store))
    if ended != jobs:
        out.append(f"{ended} of {jobs} jobs left a summary")

    expected = {"warmup": 1, "sample": 1, "teach": 1, "grm": 2, "score": 2, "policy": jobs}
    stages = Counter(path.parent.name for path in found)
    out += [f"{stages[s]} artifacts of {s}, not {n}" for s, n in expected.items() if stages[s] != n]
    return out + [fault for fault in map(damage, sorted(found)) if fault]


def damage(artifact: Path) -> str:
    """Return how the main table of an artifact differs from its manifest; "" if it does not."""
    manifest = json.loads((artifact / MANIFEST).read_text(encoding="utf-8"))
    if (manifest["stage"], manifest["fingerprint"]) != (artifact.parent.name, artifact.name):
        return f"{artifact} has the manifest of another artifact"
    if manifest["stage"] not in MAIN_TABLES:
        return ""
    name, record = MAIN_TABLES[manifest["stage"]]
    table = artifact / f"{name}.parquet"
    try:
        rows = len(read_table(table, record))
    except (TableError, OSError) as error:
        return str(error)
    same = rows == manifest["rows"] == count_rows(table)
    return "" if same else f"{table} has {rows} rows, its manifest says {manifest['rows']}"


def contents(artifact: Path) -> dict[str, str]:
    """Return the digests of an artifact's tables and weights."""
    files = [*artifact.glob("*.parquet"), *artifact.glob("model/*.safetensors")]
    return {str(path.relative_to(artifact)): file_digest(path) for path in files}


def differing(alone: Path, store: Path) -> list[str]:
    """Return the artifacts that differ from those of a job alone, one sentence each."""
    out = []
    for path in sorted(artifacts(alone)):
        other = store / path.relative_to(alone)
        mine = contents(path)
        if not mine or not other.is_dir() or contents(other) != mine:
            out.append(f"{other} differs from the artifact of a job alone")
    return out


def run_command(line: list[str], store: Path) -> None:
    """Run a command line and print what it used; RuntimeError if it fails."""
    used = watched(line, store / "log.txt", environment=environment())
    print(
        f"{store.name}: {used.seconds:.0f} s, {used.cpu_seconds:.0f} s of processor time, at most "
        f"{used.memory / 2**20:,.0f} MiB",
        flush=True,
    )
    if used.code:
        raise RuntimeError(f"train.py ended with {used.code}; see {store / 'log.txt'}")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.sweep", description=__doc__)
    parser.add_argument("--jobs", type=int, default=50, help="an even number")
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--folder", type=Path, default=Path("outputs/sweep"))
    given = parser.parse_args(arguments)
    if given.jobs < 2 or given.jobs % 2:
        parser.error("--jobs must be an even number")

    folder: Path = given.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    store = folder / "sweep"
    alone = folder / "alone"
    for place in (store, alone):
        place.mkdir(parents=True)

    run_command(sweep(store, given.jobs, given.at_once), store)
    wrong = faults(store, given.jobs)
    run_command(command(alone, "grm.seed=1", "policy.seed=1"), alone)
    wrong += differing(alone, store)

    times = made(store)
    print(
        f"{given.jobs} jobs, {given.at_once} at once: {len(times)} artifacts, made "
        f"{sum(times.values())} times, {len(wrong)} faults"
    )
    for line in wrong:
        print(f"wrong: {line}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
