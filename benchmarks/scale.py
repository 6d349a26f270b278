"""The chain on many solutions: python -m benchmarks.scale [--count N] [--against N] [--kill]

Makes a file of N solutions and runs the real command on it: `sample` (import, tokenize, judge),
`teach` (the reference teacher corrects every wrong solution), and the edit scripts of the accepted
corrections. Prints solutions per second, by the clock and by processor time, the peak memory of all
processes together, and the cost per solution at two counts, without the start of the programs. Then
`benchmarks.training_plans` does what the training stages do up to their first batch. Of these it
prints what each further attempt costs: bytes and microseconds, from the two counts.

Ends with 1 if a promise is missed: at most 2 GiB, at least 1,000 solutions per second of processor
time in the first part, at the larger count at most 1.2 times the cost per solution at the smaller
count, and at most 600 bytes per attempt in a training plan. `--kill` repeats the smaller count,
kills (-9) each stage in its middle, and compares the tables.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from benchmarks.process_usage import Used, environment, watched
from benchmarks.synthetic_solutions import write_files
from rlmec.runtime.display import markdown_table
from rlmec.store.fingerprint import file_digest
from rlmec.store.tables import count_rows

ROOT = Path(__file__).resolve().parent.parent
FEW = 1000
"""Solutions of the run that shows the cost of the programs' start."""

# Solutions behind one part. About half of the solutions are wrong, and only those are taught.
PARTS = {"sample": 4096, "teach": 2 * 256}
MEMORY, RATE, GROWTH = 2 * 2**30, 1000.0, 1.2
PLAN_BYTES = 600
LEAST_MORE = 200_000
"""Further attempts below which the bytes of each are not judged: buffers outweigh them."""
PLANS = ("grm", "score", "policy")
SHAPE = {
    "model_type": "llama",
    **{"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    **{"num_key_value_heads": 2, "intermediate_size": 16, "max_position_embeddings": 2048},
}
TABLES = {"sample": "attempts.parquet", "teach": "corrections.parquet"}


@dataclass(frozen=True)
class Settings:
    """The options of the command line."""

    count: int
    against: int
    each: int
    seed: int
    folder: Path
    kill: bool


@dataclass(frozen=True)
class Work:
    """One count of solutions, with its files, its store, and its log below `folder`."""

    folder: Path
    count: int

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    def table(self, stage: str, store: str = "store") -> Path:
        """Return the stage's table in its artifact, which must be the only one."""
        (found,) = (self.folder / store / stage).glob(f"*/{TABLES[stage]}")
        return found

    def parts(self, stage: str, store: str) -> int:
        """Return the number of finished parts of an unfinished artifact."""
        return len(list((self.folder / store / stage).glob(".work-*/parts/part-*")))

    def command(self, stage: str, store: str = "store") -> list[str]:
        """Return the command line that makes a stage."""
        program = [sys.executable, str(ROOT / "train.py"), f"stage={stage}"]
        return [*program, *self.overrides(store)]

    def overrides(self, store: str = "store") -> list[str]:
        """Return the settings of the run."""
        return [
            *("task=gsm8k", f"++task.path.train={self.folder}/problems.jsonl"),
            "task.dev_share=0.01",
            *("teacher=reference", "teach.share=1.0"),
            *("model=hf", f"model.path={self.folder.parent}/model"),
            *(f"sample.path={self.folder}/solutions.jsonl", "sample.label_field=right"),
            *(f"paths.artifacts={self.folder / store}", f"paths.outputs={self.folder}/outputs"),
            *("logger=none", "trainer.threads=1", "trainer.progress_bar=false"),
        ]

    def run(self, stage: str, store: str = "store", parts: int | None = None) -> Used:
        """Run a stage of the chain, or kill it as soon as `parts` of its parts are finished."""
        enough = None if parts is None else lambda: self.parts(stage, store) >= parts
        used = watched(
            self.command(stage, store), self.log, kill_when=enough, environment=environment()
        )
        if used.code and parts is None:
            raise RuntimeError(f"stage {stage} ended with {used.code}; see {self.log}")
        return used

    def plan(self, stage: str) -> Used:
        """Do what a training stage does up to its first batch."""
        command = [sys.executable, "-m", "benchmarks.training_plans", stage, str(self.folder)]
        # No attempt is rewritten: the GRM of this run is only its model's directory.
        command += [*self.overrides(), "score.rewrite=false"]
        used = watched(command, self.log, environment=environment())
        if used.code:
            raise RuntimeError(f"the plan of {stage} ended with {used.code}; see {self.log}")
        return used

    @property
    def attempts(self) -> int:
        """The number of attempts in the table of `sample`."""
        return count_rows(self.table("sample"))

    def align(self) -> Used:
        """Write the edit scripts of the accepted corrections."""
        tables = [str(self.table(stage)) for stage in TABLES]
        command = [sys.executable, "-m", "benchmarks.edits", *tables]
        used = watched(
            [*command, str(self.folder / "edits.parquet")], self.log, environment=environment()
        )
        if used.code:
            raise RuntimeError(f"the edit scripts ended with {used.code}; see {self.log}")
        return used


def prepared(settings: Settings, count: int) -> Work:
    """Write the files of a count into an empty folder."""
    work = Work(settings.folder / str(count), count)
    shutil.rmtree(work.folder, ignore_errors=True)
    write_files(work.folder, max(1, count // settings.each), count, settings.seed)
    return work


def write_model(folder: Path, problems: Path) -> None:
    """Write a tiny random network with a tokenizer that is trained on the problems."""
    from rlmec.lm.loading import export_network, new_network
    from rlmec.lm.tokenizers import train_tokenizer

    shutil.rmtree(folder, ignore_errors=True)
    with problems.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in islice(file, 2000)]
    texts = [text for row in rows for text in (row["question"], row["answer"])]
    tokenizer = train_tokenizer(texts, 2048)
    export_network(new_network(SHAPE, tokenizer, "sdpa", 1), tokenizer, folder)


def measured(work: Work) -> dict[str, Used]:
    """Return what each piece of the work used, by its name."""
    found = {stage: work.run(stage) for stage in TABLES}
    return found | {"edit scripts": work.align()}


@dataclass(frozen=True)
class Growth:
    """What one more attempt costs in a training plan."""

    bytes: float
    microseconds: float


def growth_of(few: Work, many: Work) -> dict[str, Growth]:
    """Return what one more attempt costs in the plan of each training stage."""
    found = dict[str, Growth]()
    for stage in PLANS:
        small = few.plan(stage)
        large = many.plan(stage)
        more = many.attempts - few.attempts
        found[stage] = Growth(
            (large.memory - small.memory) / more,
            (large.cpu_seconds - small.cpu_seconds) / more * 1e6,
        )
    return found


def plans_table(found: dict[str, Growth]) -> str:
    """Return a Markdown table with one line per training stage."""
    rows = [
        [name, f"{each.bytes:,.0f}", f"{each.microseconds:,.0f}"] for name, each in found.items()
    ]
    return markdown_table(["plan of", "bytes per attempt", "microseconds per attempt"], rows)


def table(count: int, found: dict[str, Used]) -> str:
    """Return a Markdown table with one line per piece of work and one for all of them."""
    whole = Used(
        0,
        sum(u.seconds for u in found.values()),
        sum(u.cpu_seconds for u in found.values()),
        max(u.memory for u in found.values()),
    )
    head = [f"{count:,} solutions", "seconds", "processor seconds", "per processor second"]
    rows = [
        [
            name,
            f"{used.seconds:,.0f}",
            f"{used.cpu_seconds:,.0f}",
            f"{count / used.cpu_seconds:,.0f}",
            f"{used.memory / 2**20:,.0f}",
        ]
        for name, used in (found | {"all": whole}).items()
    ]
    return markdown_table([*head, "peak MiB"], rows)


def killed(work: Work) -> list[str]:
    """Makes both tables in another store, killed in either stage; the stages whose table differs
    from that of the run before."""
    other = "killed"
    for stage, size in PARTS.items():
        used = work.run(stage, other, max(1, work.count // size // 2))
        there = work.parts(stage, other)
        print(f"{stage}: ended with {used.code}, {there} parts were there; once more", flush=True)
        work.run(stage, other)
    return [s for s in TABLES if file_digest(work.table(s)) != file_digest(work.table(s, other))]


def per_solution(found: dict[str, Used], start: dict[str, Used], count: int) -> float:
    """Processor seconds of a solution, without those of the programs' start."""
    used, idle = (sum(u.cpu_seconds for u in each.values()) for each in (found, start))
    return (used - idle) / (count - FEW)


def missed(count: int, found: dict[str, Used], growth: float) -> list[str]:
    """Return the promises that do not hold, one sentence each."""
    memory = max(u.memory for u in found.values())
    rate = count / sum(u.cpu_seconds for u in found.values())
    out = []
    if memory > MEMORY:
        out.append(f"{memory / 2**20:,.0f} MiB are more than {MEMORY / 2**20:,.0f}")
    if rate < RATE:
        out.append(f"{rate:,.0f} per second of processor time are fewer than {RATE:,.0f}")
    if growth > GROWTH:
        out.append(f"a solution costs {growth:.2f} times as much, more than {GROWTH:.1f}")
    return out


def run(settings: Settings) -> int:
    """Return 0, or 1 if a promise is missed or a killed run made other tables."""
    few = prepared(settings, FEW)
    write_model(settings.folder / "model", few.folder / "problems.jsonl")
    start = measured(few)
    print(table(FEW, start), flush=True)

    wrong = list[str]()
    costs = dict[int, float]()
    works = list[Work]()
    for count in dict.fromkeys((settings.against, settings.count)):
        work = prepared(settings, count)
        works.append(work)
        found = measured(work)
        costs[count] = per_solution(found, start, count)
        print(f"\n{table(count, found)}{costs[count] * 1e6:.0f} us per solution", flush=True)

        growth = costs[count] / costs[settings.against]
        wrong += missed(count, found, growth)
        if settings.kill and count == settings.against:
            differing = killed(work)
            print(f"tables that differ after the kills: {differing or 'none'}", flush=True)
            wrong += [f"{stage} differs" for stage in differing]

    print(f"cost of a solution at the larger count: {growth:.2f} times that at the smaller one")
    if len(works) > 1:
        plans = growth_of(*works)
        print(f"\n{plans_table(plans)}", flush=True)
        is_large = settings.count - settings.against >= LEAST_MORE
        wrong += [
            f"the plan of {name} holds {each.bytes:,.0f} bytes per attempt, more than {PLAN_BYTES}"
            for name, each in plans.items()
            if is_large and each.bytes > PLAN_BYTES
        ]
    for line in wrong:
        print(f"missed: {line}")
    return int(bool(wrong))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.scale", description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--against", type=int, default=100_000)
    parser.add_argument("--each", type=int, default=20, help="solutions per problem")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("outputs/scale"))
    parser.add_argument("--kill", action="store_true")
    given = Settings(**vars(parser.parse_args(arguments)))
    if min(given.count, given.against) <= FEW:
        parser.error(f"--count and --against must be above {FEW}")
    return run(dataclasses.replace(given, folder=given.folder.resolve()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
