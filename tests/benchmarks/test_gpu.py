"""`make gpu`: parts with limits, what is kept of each, and commands that the programs accept."""

import json
import sys

import pytest
from hydra import compose, initialize_config_dir

from benchmarks import fresh_shapes
from benchmarks.__main__ import CONF
from benchmarks.gpu import PARTS, Part, planned_gib, run_parts, stage_table
from benchmarks.process_usage import ROOT
from rlmec.settings.check import check
from rlmec.settings.command_line import check_command_line

TRAIN = ROOT / "conf"
PLAN = """sampling on one device
GiB per device  weights  copies  gradients  optimizer  total  tokens per step     steps
warmup             0.50    0.25       0.50       1.00   4.00             2048  6 epochs
sample             0.50    0.00       0.00       0.00   2.00
(an estimate; total with 1 GiB in reserve)
warmup: begins
"""


def part(name, seconds, program, missing=""):
    def command(work, cpu):
        return [sys.executable, "-c", program.format(work=work)]

    return Part(name, "a test", seconds, command, lambda: missing)


def test_a_part_that_fails_hangs_or_lacks_something_costs_no_other_part(tmp_path):
    write = "open('{work}/x.json', 'w').write('{{\"a\": 1}}')"
    parts = [
        part("fails", 30, "raise SystemExit(3)"),
        part("hangs", 2, write + "; import time; print('begun', flush=True); time.sleep(60)"),
        part("lacks", 30, "", "no package there"),
        part("works", 30, write),
    ]
    outcomes = run_parts(parts, tmp_path, 60)
    assert [o.state for o in outcomes] == [
        *("failed with 3", "stopped after 2 s", "skipped: no package there", "done"),
    ]
    written = json.loads((tmp_path / "report.json").read_text())
    assert [each["figures"].get("benchmarks") for each in written] == [
        [],
        [{"a": 1}],
        None,
        [{"a": 1}],
    ]
    assert (tmp_path / "hangs.log").read_text() == "begun\n"
    report = (tmp_path / "report.md").read_text()
    assert all(o.state in report for o in outcomes)


def test_no_part_is_begun_when_little_time_is_left(tmp_path):
    (outcome,) = run_parts([part("late", 30, "raise SystemExit(3)")], tmp_path, 5)
    assert outcome.state == "skipped: no time was left"


def test_a_plan_is_read_from_the_log_and_stands_beside_the_peak():
    assert planned_gib(PLAN) == {"warmup": 4.0, "sample": 2.0}
    assert planned_gib("warmup: begins") == {}
    stages = [
        {"stage": "warmup", "variant": "", "seconds": 10.0, "peak_memory_gib": 5.0},
        {"stage": "evaluate", "variant": "start", "seconds": 1.5, "peak_memory_gib": None},
    ]
    lines = stage_table(stages, planned_gib(PLAN)).splitlines()
    assert lines[2] == "| warmup | 10.00 | 4.00 | 5.00 | 0.80 |"
    assert lines[3] == "| evaluate start | 1.50 |  |  |  |"


@pytest.mark.parametrize("number", range(len(PARTS)))
def test_the_command_of_every_part_composes(number, tmp_path, monkeypatch):
    monkeypatch.setenv("RLMEC_DATA", str(tmp_path))
    _, *words = PARTS[number].command(tmp_path, False)
    if words[0] == "-m":
        with initialize_config_dir(str(CONF), version_base="1.3"):
            tree = compose("benchmark", words[2:])
        assert tree.device == "cuda"
        return
    overrides = check_command_line(words[1:], TRAIN, "train")
    with initialize_config_dir(str(TRAIN), version_base="1.3"):
        found = check(compose("train", ["logger=none", *overrides]), TRAIN)
    assert found.trainer.accelerator == "gpu"


def test_steps_at_fresh_shapes_are_timed_and_written(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("RLMEC_DATA", raising=False)
    monkeypatch.setattr(fresh_shapes, "BATCHES", (2,))
    monkeypatch.setattr(fresh_shapes, "PAIRS", (2, 3))
    monkeypatch.setattr(fresh_shapes, "TOKENS", 3)
    small = ("hidden_size=16", "intermediate_size=32", "num_hidden_layers=1")
    small += ("num_attention_heads=2", "num_key_value_heads=2")
    words = ["vocabulary_size=8192", *(f"shape.{each}" for each in small), f"output={tmp_path}"]
    assert fresh_shapes.main(words) == 0
    (path,) = tmp_path.glob("fresh_shapes-cpu_13m-*.json")
    lines = json.loads(path.read_text())["lines"]
    assert [line["work"].split(",")[0] for line in lines] == [
        *("decode 2 rows", "train 2 pairs", "train 3 pairs"),
    ]
    assert all(line["first"] > 0 and line["again"] > 0 for line in lines)
    assert "| train 2 pairs" in capsys.readouterr().out
