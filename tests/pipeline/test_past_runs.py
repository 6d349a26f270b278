"""The time that earlier runs took for the same amount of work."""

import json
from types import SimpleNamespace

import pytest

from rlmec.pipeline.past_runs import PastRuns
from rlmec.store.artifacts import ArtifactStore

MODEL = {"model": {"size": 3}, "seed": 1}


def stage(name, settings, **parents):
    counted = {"settings": settings, "inputs": {}}
    return SimpleNamespace(name=name, key=(name, ""), parents=parents, counted=lambda: counted)


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(tmp_path)


def made(store, name, fp, settings, seconds, threads=2, **parents):
    folder = store.final(name, fp)
    folder.mkdir(parents=True)
    manifest = {"settings": settings, "inputs": {}, "parents": parents, "seconds": seconds}
    manifest["environment"] = {"world_size": 1, "threads": threads}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_the_median_of_what_differs_only_in_what_costs_no_time(store):
    warmup = stage("warmup", MODEL)
    for fp, seconds in (("a", 10.0), ("b", 30.0), ("c", 11.0)):
        made(store, "warmup", fp, MODEL | {"seed": fp}, seconds)
    made(store, "warmup", "d", MODEL | {"steps": 9}, 99.0)
    made(store, "warmup", "e", MODEL, 99.0, threads=1)
    (store.final("warmup", "f")).mkdir()
    assert PastRuns(store, 1, 2).seconds(warmup) == 11.0
    assert PastRuns(store, 2, 2).seconds(warmup) is None


def test_what_it_was_made_from_counts(store):
    sample = stage("sample", {"seed": 2}, warmup=stage("warmup", MODEL))
    made(store, "warmup", "small", {"model": {"size": 3}, "seed": 5}, 1.0)
    made(store, "warmup", "large", {"model": {"size": 9}, "seed": 5}, 1.0)
    made(store, "sample", "a", {"seed": 1}, 50.0, warmup="large")
    made(store, "sample", "b", {"seed": 1}, 60.0, warmup="gone")
    assert PastRuns(store, 1, 2).seconds(sample) is None
    made(store, "sample", "c", {"seed": 1}, 5.0, warmup="small")
    assert PastRuns(store, 1, 2).seconds(sample) == 5.0
