"""kill -9 at any moment, the same command again: the same bytes as without it."""

import random
import re
import signal
import time

import pytest
from walking import done_well, finals, leaks, run, start

pytestmark = pytest.mark.slow
TABLES = {
    "sample": ["attempts.parquet"],
    "teach": ["corrections.parquet"],
    "score": ["scores.parquet", "corrections.parquet"],
    "evaluate": ["attempts.parquet"],
}
MODELS = ("warmup", "grm", "policy")


def killed_when_there(store, pattern):
    """Starts the command and kills it as soon as a file of the work folders matches; its log."""
    process = start(store)
    while not any((store / "artifacts").glob(pattern)):
        assert process.poll() is None, (store / "log.txt").read_text()
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    return (store / "log.txt").read_text()


def resumed_from(log, title):
    """The optimizer steps that a fit went on from, as the log tells them."""
    return [int(n) for n in re.findall(rf"{title}: resumes from optimizer step (\d+)", log)]


def assert_same_bytes(store, whole):
    assert not list((store / "artifacts").glob("*/.work-*"))
    mine, theirs = finals(store), finals(whole)
    models = {stage: ["model/model.safetensors"] for stage in MODELS}
    for stage, names in (TABLES | models).items():
        for folder in mine[stage]:
            (same,) = [f for f in theirs[stage] if f.name == folder.name]
            for name in names:
                assert (folder / name).read_bytes() == (same / name).read_bytes(), folder / name


def test_killed_in_warmup_in_sampling_and_in_the_policys_fit(shared, tmp_path):
    whole, chain = shared
    killed_when_there(tmp_path, "warmup/.work-*/checkpoints/step-*.ckpt")
    assert not finals(tmp_path)
    assert leaks(tmp_path) == []  # a checkpoint is there

    log = killed_when_there(tmp_path, "sample/.work-*/parts/part-*")
    assert [0 < step <= 60 for step in resumed_from(log, "warmup")] == [True]
    assert list(finals(tmp_path)) == ["warmup"]

    log = killed_when_there(tmp_path, "policy/.work-*/checkpoints/step-*.ckpt")
    assert re.search(r"sample: [123] of 4 parts are there already", log)
    assert list(finals(tmp_path)) == ["warmup", "sample", "teach", "grm", "score"]

    done = done_well(run(tmp_path))
    assert [0 < step <= 30 for step in resumed_from(done.output, "policy")] == [True]
    assert done.artifact("policy").name == chain.artifact("policy").name
    assert_same_bytes(tmp_path, whole)
    for stage in ("warmup", "grm", "policy"):
        then, now = chain.metrics(stage), done.metrics(stage)
        assert then["history"] == now["history"], "validation is not done twice, nor left out"


def test_killed_at_a_random_moment(shared, tmp_path):
    whole, chain = shared
    seed = random.randrange(10**6)
    share = random.Random(seed).uniform(0.2, 1.0)
    print(f"seed {seed}: killed after {share:.3f} of {chain.seconds:.1f} s")
    process = start(tmp_path)
    time.sleep(share * chain.seconds)
    process.kill()
    print(f"it ended with {process.wait()}, leaving {list(finals(tmp_path))}")
    done_well(run(tmp_path))
    assert_same_bytes(tmp_path, whole)
