"""At the command line: a teacher behind a misbehaving server, the chain killed in the middle."""

import json
import os
import signal
import time

import pytest
from misbehaving_server import Server
from walk import TINY, done_well, run, start

pytestmark = pytest.mark.slow
KEY = "sk-canary-5f3759df"
QUICK = ["teacher=openai", "teacher.model=m", "teacher.backoff=0.01", "teacher.max_wait=0.02"]
QUICK += ["teacher.timeout=1.0", "teach.part_size=16", "teach.max_edit_ratio=1.0", *TINY]


def plan(prompt, nth):
    """Every third question fails at first, each in its own way."""
    ways = ["429", "500", "slow", "cut", "malformed", "no choices"]
    kind = sum(prompt.encode())
    return ways[kind // 3 % 6] if nth == 0 and kind % 3 == 0 else "ok"


def settled(server):
    """Waits until the server has read what the killed command had sent."""
    before, quiet_since = -1, time.monotonic()
    while time.monotonic() - quiet_since < 1.5:
        if (now := sum(server.asked.values())) != before:
            before, quiet_since = now, time.monotonic()
        time.sleep(0.05)


def test_a_teacher_behind_a_server_is_killed_and_repeats_no_answered_call(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = Server(plan, located="[0]", retry_after=0.02)
    with server.running():
        settings = [*QUICK, f"teacher.base_url={server.url}/v1", "stage=teach"]
        process = start(tmp_path, *settings)
        deadline = time.monotonic() + 300
        while sum(server.answered.values()) < 40:
            assert process.poll() is None, (tmp_path / "log.txt").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        settled(server)
        files = (tmp_path / "artifacts").rglob("answers/*/*.json")
        cached = [json.loads(path.read_text()) for path in files]
        known = {c["question"]["body"]["messages"][-1]["content"] for c in cached}
        asked = {prompt: server.asked[prompt] for prompt in known}
        assert len(known) > 30
        done = done_well(run(tmp_path, *settings))
        assert {prompt: server.asked[prompt] for prompt in known} == asked
    assert done.made() == ["teach"]
    assert "teach: continues" in done.output
    metrics = done.metrics("teach")
    assert metrics["teach/accepted"] > 0.9 * done.stages[-1]["rows"] > 20
    assert metrics["teach/cached_calls"] > 0
    repeated = [n for n in server.answered.values() if n > 1]
    assert len(repeated) <= 8  # what was out when it was killed
    found = [p for p in tmp_path.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]
    assert found == []
    assert KEY in str(server.headers)


def test_a_missing_key_ends_the_command_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    done = run(tmp_path, "teacher=anthropic", "teacher.model=m", *TINY)
    assert done.code == 1
    assert "error: ANTHROPIC_API_KEY is not set" in done.output
    assert not list(tmp_path.rglob("*.parquet"))
    assert not list(tmp_path.rglob("model.safetensors"))
