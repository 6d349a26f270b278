"""Two processes on the CPU: the chain runs to its end, and neither tables nor losses depend on
their number, nor on who started them."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from walk import STAGES, TINY, command, done_well, environment, finals, run, summaries

from rlmec.records import Correction, Score
from rlmec.store.tables import read_table

pytestmark = pytest.mark.slow
TWO = ("trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp")
EVERY_STEP = "trainer.log_every_n_steps=1"
LIMIT, LOSS_LIMIT = 1e-6, 1e-5


def test_two_ranks_make_the_chain_and_the_same_tables_as_one(tmp_path):
    two, one = tmp_path / "two", tmp_path / "one"
    chain = done_well(run(two, *TINY, *TWO, EVERY_STEP))
    assert {s["name"] for s in chain.stages} == set(STAGES)
    assert len(chain.summaries) == 1, "one rank writes"
    assert list(finals(two)) == list(STAGES)
    assert chain.output.count("] report: made in") == 1
    manifest = json.loads((chain.artifact("policy") / "manifest.json").read_text())
    assert manifest["environment"]["world_size"] == 2

    for parent in ("warmup", "teach", "grm"):  # the same parents for both
        shutil.copytree(two / "artifacts" / parent, one / "artifacts" / parent)
    alone = done_well(run(one, *TINY, EVERY_STEP, "stage=policy"))
    assert alone.made() == ["sample", "score", "policy"]
    for stage in ("sample", "score", "policy"):
        assert alone.artifact(stage).name == chain.artifact(stage).name

    attempts = [done.artifact("sample") / "attempts.parquet" for done in (alone, chain)]
    assert attempts[0].read_bytes() == attempts[1].read_bytes()
    _same_scores(alone.artifact("score"), chain.artifact("score"))
    losses = [_losses(store) for store in (one, two)]
    assert list(losses[0]) == list(losses[1]) == [1, 2, 3, 4]
    assert list(losses[0].values()) == pytest.approx(list(losses[1].values()), abs=LOSS_LIMIT)


def _losses(store):
    """The policy's training loss by optimizer step."""
    (path,) = [p for p in store.rglob("metrics.csv") if "policy" in p.parts]
    lines = csv.DictReader(path.read_text().splitlines())
    return {int(line["step"]): float(line["train/loss"]) for line in lines if line["train/loss"]}


def test_torchrun_starts_the_ranks(tmp_path):
    """As on several nodes; the processes find one another by its environment."""
    line = command(tmp_path, *TINY, "trainer=ddp", "trainer.accelerator=cpu", "stage=warmup")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", *line[1:]],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert list(finals(tmp_path)) == ["warmup"]
    (summary,) = summaries(tmp_path)
    warmup = json.loads(summary.read_text())["stages"][0]
    manifest = json.loads((Path(warmup["artifact"]) / "manifest.json").read_text())
    assert manifest["environment"]["world_size"] == 2


def _same_scores(one, two):
    pairs = zip(*(read_table(f / "scores.parquet", Score) for f in (one, two)), strict=True)
    for a, b in pairs:
        assert a.attempt_id == b.attempt_id
        assert np.abs(np.subtract(a.grm_logprobs, b.grm_logprobs)).max(initial=0) <= LIMIT
        assert np.abs(np.subtract(a.old_logprobs, b.old_logprobs)).max(initial=0) <= LIMIT
    rewrites = [read_table(f / "corrections.parquet", Correction) for f in (one, two)]
    assert rewrites[0] == rewrites[1]
