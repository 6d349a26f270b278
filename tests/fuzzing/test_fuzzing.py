"""A few hundred spoiled inputs to every reader (`make fuzz` gives 100,000), and the net itself:
each kind of failure is caught where it is planted."""

import random
import time
from pathlib import Path

import pytest

from fuzzing.mutations import spoiled_bytes, spoiled_rows, spoiled_text, spoiled_value
from fuzzing.runner import Refused, Target, limited, refusing, run, table
from fuzzing.seeds import SEEDS
from fuzzing.targets import TARGETS


def test_no_spoiled_input_does_harm(tmp_path):
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    found = run(TARGETS, 400, seed, tmp_path)
    failures = [f"{name}: {text}" for name, f in found.items() for text in f.failures]
    assert failures == [], f"seed {seed}\n" + "\n".join(failures)
    assert sum(f.accepted + f.refused for f in found.values()) >= 400
    assert min(f.accepted + f.refused for f in found.values()) >= 1
    for name in ("rows", "tasks", "imports"):  # neither all thrown out nor all swallowed
        assert found[name].accepted > 0
        assert found[name].refused > 0


def test_inputs_hang_on_seed_target_and_number_alone():
    def inputs():
        rng = random.Random("7/rows/3")
        row = SEEDS["gsm8k"][0]
        spoiled = spoiled_bytes(rng, b"abc"), spoiled_text(rng, "abc"), spoiled_value(rng, row)
        return str((*spoiled, spoiled_rows(rng, SEEDS["math"])))

    assert inputs() == inputs()


def _hangs(rng, folder):
    while True:
        pass


def _waits(rng, folder):
    time.sleep(60)


def _crashes(rng, folder):
    raise KeyError("x")


def _fails_unclearly(rng, folder):
    with refusing(str(folder)):
        raise ValueError("no good")


def _fails_at_length(rng, folder):
    with refusing("a"):
        raise ValueError("a" * 5000)


def _decodes(rng, folder):
    with refusing():
        b"\xff".decode()


def _nests(rng, folder):
    with refusing():
        raise RecursionError("too deep")


@pytest.mark.parametrize(
    "bad", [_hangs, _waits, _crashes, _fails_unclearly, _fails_at_length, _decodes, _nests]
)
def test_a_planted_failure_is_caught(tmp_path, monkeypatch, bad):
    monkeypatch.setattr("fuzzing.runner.LIMIT", 0.05)
    monkeypatch.setattr("fuzzing.runner.PATIENCE", 4.0)
    found = run([Target("bad", 1, bad)], 1, 5, tmp_path)["bad"]
    assert len(found.failures) == 1
    assert "--target bad --only 0 --seed 5" in found.failures[0]
    assert table({"bad": found}).splitlines()[-1].split()[:5] == ["all", "1", "0", "0", "1"]


def test_a_clear_refusal_is_no_failure(tmp_path):
    with pytest.raises(Refused), limited(5.0), refusing("a.jsonl"):
        raise ValueError("a.jsonl, row 3: no field 'x'")
    assert Path(tmp_path).is_dir()
