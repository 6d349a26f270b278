"""The cases: which command is stopped where, drawn from a seed and the case's own name, so that one
of them can be repeated alone."""

from __future__ import annotations

import random
from dataclasses import dataclass

from .injection import FIT_POINTS, PART_POINTS, Stop
from .settings import FITS, SETTINGS, STAGES

ACTIONS = {"kill": 8, "term": 4, "int": 2, "usr1": 1, "error": 2, "group-term": 2, "int2": 1}
ACCUMULATED = {"full3w2": 3, "full5": 5, "lora3": 3, "lora5w2": 5}
PLACES = {
    "full1": STAGES,
    "full3w2": FITS,
    "full5": ("warmup", "policy"),
    "lora1w2": ("grm", "policy"),
    "lora3": ("sample", "grm", "score", "policy"),
    "lora5w2": ("grm", "policy"),
}
ROUNDS, EACH = 3, 4
"""Cases of a setting and stage, and stops of a case."""


@dataclass(frozen=True)
class Case:
    """A stage under a setting that is stopped some times in a row; `damage` names what is torn
    between two runs, or which disk is full or read-only. Each run starts `days` after the one
    before it."""

    name: str
    setting: str
    stage: str
    stops: tuple[Stop, ...]
    damage: str = ""
    days: int = 0


def drawn(seed: int, setting: str, stage: str, number: int, stops: int = EACH) -> Case:
    """A case of `stops` random stops."""
    name = f"{setting}-{stage}-{number}"
    draw = random.Random(f"{seed}/{name}")
    accumulate = ACCUMULATED.get(setting, 1)
    return Case(name, setting, stage, tuple(_stop(draw, stage, accumulate) for _ in range(stops)))


def _stop(draw: random.Random, stage: str, accumulate: int) -> Stop:
    action = draw.choices(list(ACTIONS), list(ACTIONS.values()))[0]
    if draw.random() < 0.1 and action != "error":
        return Stop(action, "time", draw.randint(40, 100))
    points = ["micro", *FIT_POINTS] if stage in FITS else PART_POINTS
    point = draw.choice([*points, "commit", "committed"] if draw.random() < 0.2 else points)
    most = {"micro": 3 * accumulate, "decode": 12, "judge": 12, "table": 3, "part": 2, "parted": 2}
    return Stop(action, point, draw.randint(1, most.get(point, 1 if point == "begin" else 2)))


def chosen() -> list[Case]:
    """Moments that are easily got wrong."""

    def case(
        name: str, setting: str, stage: str, *stops: str, damage: str = "", days: int = 0
    ) -> Case:
        return Case(name, setting, stage, tuple(map(_read, stops)), damage, days)

    return [
        case("in-a-save-twice", "full1", "policy", "kill@save:3", "kill@save:2"),
        case("in-accumulation-twice", "full3w2", "policy", "kill@micro:8", "kill@micro:2"),
        case("last-step", "lora3", "policy", "kill@micro:21", "term@micro:2", "kill@commit:1"),
        case("in-validation", "full5", "warmup", "term@validate:2", "kill@validate:1"),
        case("in-last-validation", "lora1w2", "grm", "term@validate:4", "int@validate:1"),
        case("first-validation", "full1", "warmup", "term@validate:1", "int@decode:3"),
        case("all-processes", "lora5w2", "policy", "group-term@micro:7", "group-term@micro:2"),
        case("ctrl-c", "full3w2", "policy", "group-int@micro:8", "group-int@validate:1"),
        case("requeued-by-slurm", "full1", "policy", *["usr1@micro:2"] * 3),
        case("another-day", "dated1", "grm", "term@micro:3", "kill@micro:2", days=40),
        case("torn-checkpoint", "full3w2", "grm", "kill@micro:17", damage="checkpoint"),
        case("torn-checkpoints", "lora3", "policy", "kill@micro:17", damage="checkpoints"),
        case("torn-part", "full1", "score", "kill@parted:2", damage="part"),
        case("torn-part-manifest", "full1", "sample", "kill@parted:3", damage="part.json"),
        case("torn-manifest", "full1", "teach", "kill@committed:1", damage="manifest.json"),
        case("torn-table", "full1", "evaluate", "kill@committed:1", damage="attempts.parquet"),
        case("torn-model", "lora3", "policy", "kill@committed:1", damage="model/*.safetensors"),
        case("full-disk-fit", "full1", "policy", "full@disk:1", damage="disk"),
        case("full-disk-parts", "full1", "sample", "full@disk:1", damage="disk"),
        case("read-only", "full1", "grm", "full@disk:1", damage="read-only"),
    ]


def ranked() -> list[Case]:
    """Two ranks: stops of the fit and of generation, by a signal to rank 0 or to both; and stops of
    a rank that waits for one that never comes."""
    alone = (Stop("term", "rendezvous", 1), Stop("int", "rendezvous", 1))
    plans = {
        "warmup": (Stop("term", "micro", 2), Stop("kill", "micro", 3)),
        "grm": (Stop("group-term", "micro", 3), Stop("int", "validate", 2)),
        "sample": (Stop("term", "decode", 5), Stop("kill", "part", 1)),
    }
    cases = [Case(f"ranks2-{stage}", "ranks2", stage, stops) for stage, stops in plans.items()]
    return [*cases, Case("ranks2-rendezvous", "ranks2", "warmup", alone)]


def swept() -> list[Case]:
    """A sweep of two jobs of the policy's stage, stopped in either; with joblib by a signal to the
    sweep's own process while its workers are in the fits."""
    plans = [
        (Stop("term", "micro", 3), Stop("kill", "micro", 8)),
        (Stop("int", "micro", 9), Stop("kill", "commit", 1)),
    ]
    both = (Stop("term", "checkpoint", 2), Stop("kill", "checkpoint", 6))
    return [
        *(Case(f"sweep-{i}", "full1", "policy", s, "sweep") for i, s in enumerate(plans)),
        Case("sweep-joblib", "full1", "policy", both, "sweep"),
    ]


def worn(seed: int) -> Case:
    """Sampling that is killed forty times, four of them right behind a part."""
    draw = random.Random(seed)
    stops = [Stop("kill", "decode", draw.randint(1, 12)) for _ in range(36)]
    for _ in range(4):
        stops.insert(draw.randint(0, len(stops)), Stop("kill", "parted", 1))
    return Case("sample-40-times", "full1", "sample", tuple(stops))


def quick() -> list[Case]:
    """The six stops of `make test`."""
    ctrl_c, term = Stop("group-int", "micro", 8), Stop("term", "validate", 1)
    return [
        Case("quick-warmup", "full3w2", "warmup", (ctrl_c, term, Stop("kill", "save", 2))),
        Case(
            "quick-sample", "full1", "sample", (Stop("int", "decode", 14), Stop("kill", "part", 2))
        ),
        Case("quick-torn", "full1", "sample", (Stop("kill", "committed", 1),), "attempts.parquet"),
    ]


def all_cases(seed: int) -> list[Case]:
    """Every case of the long form, the chosen ones first."""
    assert set(PLACES) < set(SETTINGS)
    random_ones = [
        drawn(seed, setting, stage, number)
        for number in range(ROUNDS)
        for setting, stages in PLACES.items()
        for stage in stages
    ]
    first = len(random_ones) // ROUNDS
    return [*chosen(), worn(seed), *swept(), *random_ones[:first], *ranked(), *random_ones[first:]]


def _read(text: str) -> Stop:
    action, _, rest = text.partition("@")
    point, _, nth = rest.partition(":")
    return Stop(action, point, int(nth))
