"""Two processes on the CPU: the chain runs to its end, and tables do not depend on their number."""

import json
import shutil

import numpy as np
import pytest
from walking import STAGES, TINY, done_well, finals, run

from rlmec.records import Correction, Score
from rlmec.tables import read_table

pytestmark = pytest.mark.slow
TWO = ("trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp")
LIMIT = 1e-6


def test_two_ranks_make_the_chain_and_the_same_tables_as_one(tmp_path):
    two, one = tmp_path / "two", tmp_path / "one"
    chain = done_well(run(two, *TINY, *TWO))
    assert {s["name"] for s in chain.stages} == set(STAGES)
    assert len(chain.summaries) == 1, "one rank writes"
    assert list(finals(two)) == list(STAGES)
    assert chain.output.count("report: made in") == 1
    manifest = json.loads((chain.artifact("policy") / "manifest.json").read_text())
    assert manifest["environment"]["world_size"] == 2

    for parent in ("warmup", "teach", "grm"):  # the same parents for both
        shutil.copytree(two / "artifacts" / parent, one / "artifacts" / parent)
    alone = done_well(run(one, *TINY, "stage=score"))
    assert alone.made() == ["sample", "score"]
    for stage in ("sample", "score"):
        assert alone.artifact(stage).name == chain.artifact(stage).name

    attempts = [done.artifact("sample") / "attempts.parquet" for done in (alone, chain)]
    assert attempts[0].read_bytes() == attempts[1].read_bytes()
    _same_scores(alone.artifact("score"), chain.artifact("score"))


def _same_scores(one, two):
    pairs = zip(*(read_table(f / "scores.parquet", Score) for f in (one, two)), strict=True)
    for a, b in pairs:
        assert a.attempt_id == b.attempt_id
        assert np.abs(np.subtract(a.grm_logprobs, b.grm_logprobs)).max(initial=0) <= LIMIT
        assert np.abs(np.subtract(a.old_logprobs, b.old_logprobs)).max(initial=0) <= LIMIT
    rewrites = [read_table(f / "corrections.parquet", Correction) for f in (one, two)]
    assert rewrites[0] == rewrites[1]
