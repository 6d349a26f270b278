"""The stage `sample` with either engine: the same table's shape, and its log-probs checked."""

from pathlib import Path

import pytest
from small_runs import run, settings_of, start_model
from small_vllm import on_platform, stand_in

from rlmec.engines.base import EngineError
from rlmec.records import Attempt
from rlmec.store.tables import read_table

MEAN, MAX = "sample/logprob_difference/mean", "sample/logprob_difference/max"
GREEDY = ("sample.temperature=0", "sample.num_generations=1")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return start_model(tmp_path_factory.mktemp("start") / "model")


def attempts(stage):
    return read_table(Path(stage["artifact"]) / "attempts.parquet", Attempt)


def test_vllm_samples_what_the_network_would(model, tmp_path, monkeypatch):
    mine = run(tmp_path, model, "stage=sample", *GREEDY)["sample"]
    seen = stand_in(monkeypatch)
    theirs = run(tmp_path, model, "stage=sample", "engine=vllm", *GREEDY)["sample"]
    assert theirs["artifact"] != mine["artifact"], "the engine counts"
    assert theirs["made"]
    assert len(seen.built) == 1, "one engine for all parts"
    one, other = attempts(mine), attempts(theirs)
    assert len(one) == 24
    assert [a.completion_ids for a in one] == [a.completion_ids for a in other]
    assert [a.clipped for a in one] == [a.clipped for a in other]
    for stage in (mine, theirs):
        assert 0 < stage["metrics"][MEAN] <= stage["metrics"][MAX] < 1e-4

    # how the GPUs are used does not count
    again = run(
        tmp_path, model, "stage=sample", "engine=vllm", *GREEDY, "engine.gpu_memory_utilization=0.5"
    )
    assert not again["sample"]["made"]


def test_an_engine_with_other_weights_is_found_out(model, tmp_path, monkeypatch):
    stand_in(monkeypatch).shift = -0.5
    stage = run(tmp_path, model, "stage=sample", "engine=vllm", "sample.logprob_checks=5")
    assert stage["sample"]["metrics"][MEAN] == pytest.approx(0.5, abs=1e-4)
    assert stage["sample"]["metrics"][MAX] == pytest.approx(0.5, abs=1e-4)
    assert not list((tmp_path / "artifacts").glob("*/*/agreement"))


def test_without_its_hardware_nothing_is_begun(model, tmp_path, monkeypatch):
    stand_in(monkeypatch)
    on_platform(monkeypatch, "cuda", 0)
    with pytest.raises(EngineError, match=r"1 cuda device\(s\) wanted .* 0 found"):
        run(tmp_path, model, "stage=teach", "engine=vllm")
    assert not list((tmp_path / "artifacts").glob("*/[0-9a-f]*"))


def test_a_misspelt_key_of_an_engine_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match=r"the nearest is 'engine\.dtype'"):
        settings_of(tmp_path, model, "engine=vllm", "+engine.dtyp=float32")
