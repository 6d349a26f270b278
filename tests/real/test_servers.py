"""The teacher `openai` in front of real servers on loopback (`make vllm`); elsewhere skipped.

Each test starts a server with SmolLM2, and runs the command of the stage `teach` against it: killed
(-9) after its first part, and run again.
"""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from small_runs import SMALL, run, settings_of, start_model

from rlmec.records import Correction
from rlmec.settings.binding import build
from rlmec.store.tables import read_table

if importlib.util.find_spec("vllm") is None:
    pytest.skip("no package vllm: make vllm installs it", allow_module_level=True)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
ROOT = Path(__file__).resolve().parents[2]
ATTEMPTS = 20
PART = 6
LIMIT = 40


def vllm_server(model, port):
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--served-model-name", "smollm2", "--dtype", "float32", "--enforce-eager"]
    return [*command, "--max-model-len", "2048", "--host", "127.0.0.1", "--port", str(port)]


def transformers_server(model, port):
    command = [str(Path(sys.executable).parent / "transformers"), "serve", model]
    command += ["--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1"]
    return [*command, "--port", str(port)]


SERVERS = {
    "vllm": (vllm_server, lambda model: "smollm2"),
    "transformers": (transformers_server, str),  # it serves one model, by its path
}


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def serving(command, port, log, seconds=240):
    """Starts a server, waits until it is healthy, and ends it and its processes afterwards."""
    with log.open("w") as out:
        server = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            deadline = time.monotonic() + seconds
            while not healthy(port):
                assert server.poll() is None, log.read_text()[-2000:]
                assert time.monotonic() < deadline, log.read_text()[-2000:]
                time.sleep(0.5)
            yield
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()


def healthy(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False


class Relay:
    """Passes requests on to a server and counts them by question."""

    def __init__(self, port):
        self.asked = Counter()
        self.endings = Counter()
        self.statuses = Counter()
        relay = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                relay.asked[json.loads(body)["messages"][-1]["content"]] += 1
                status, text = passed_on(f"http://127.0.0.1:{port}{self.path}", body)
                relay.statuses[status] += 1
                if status == 200:
                    relay.endings[json.loads(text)["choices"][0]["finish_reason"]] += 1
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(text)))
                    self.end_headers()
                    self.wfile.write(text)
                except OSError:
                    pass  # who asked was killed

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    @contextmanager
    def running(self):
        thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.server.shutdown()
            self.server.server_close()
            thread.join()


def passed_on(url, body):
    asked = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(asked, timeout=300) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A store with 20 wrong attempts of two lines, the folder of its model, and its settings."""
    root = tmp_path_factory.mktemp("servers")
    model = start_model(root / "model")
    task = build(settings_of(root, model, "task.train=20").task)
    rows = []
    for problem in task.problems("train"):
        first = problem.solution.split("\n")[0]
        text = f"{first}\nThe answer is 1000."
        rows.append(json.dumps({"question": problem.question, "solution": text}))
    assert len(rows) == ATTEMPTS
    (root / "solutions.jsonl").write_text("\n".join(rows))
    given = ["task.train=20", f"sample.path={root / 'solutions.jsonl'}", "teach.share=1"]
    given += [f"teach.part_size={PART}", "trainer.progress_bar=true"]
    run(root, model, "stage=sample", *given)
    return root, model, given


@pytest.mark.parametrize("kind", SERVERS)
def test_a_whole_teach_behind_a_real_server(kind, smollm2, prepared, tmp_path):
    root, model, given = prepared
    start, named = SERVERS[kind]
    port = free_port()
    command = [sys.executable, "train.py", *SMALL, "model=hf", f"model.path={model}"]
    command += [f"paths.artifacts={root / 'artifacts'}", f"paths.outputs={tmp_path / 'out'}"]
    command += ["stage=teach", *given, "teacher=openai", f"teacher.model={named(smollm2)}"]
    command += ["teacher.api_key_env=null", f"teacher.max_completion_length={LIMIT}"]
    command += [f"teacher.cache={tmp_path / 'answers'}", "teacher.max_concurrency=4"]

    with serving(start(str(smollm2), port), port, tmp_path / "log"), Relay(port).running() as relay:
        command.append(f"teacher.base_url={relay.url}")
        began = time.monotonic()
        child = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

        # Killed in the middle of the second part.
        while len(answers(tmp_path)) < 2 * PART + 3:
            assert child.poll() is None, child.communicate()[0][-2000:]
            assert time.monotonic() < began + 400
            time.sleep(0.05)
        child.kill()
        child.communicate()
        known = {question(file) for file in answers(tmp_path)}
        assert len(known) < 2 * ATTEMPTS
        time.sleep(10)  # what was under way
        before = dict(relay.asked)

        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=500
        )
        seconds = time.monotonic() - began
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    again = {text: relay.asked[text] - before[text] for text in known}
    assert set(again.values()) == {0}, "no answered question is asked again"
    assert max(relay.asked.values()) <= 2, "what was under way at the kill"

    summary = max((tmp_path / "out").rglob("summary.json"))  # of the second run: named by time
    stages = {s["name"]: s for s in json.loads(summary.read_text())["stages"]}
    metrics = stages["teach"]["metrics"]
    found = read_table(Path(stages["teach"]["artifact"]) / "corrections.parquet", Correction)
    assert len(found) == ATTEMPTS
    assert metrics["teach/calls"] + metrics["teach/cached_calls"] == 2 * ATTEMPTS
    assert metrics["teach/input_tokens"] > 0
    assert set(relay.statuses) == {200}
    print(f"{kind}: {seconds:.0f} s, asked {sum(relay.asked.values())}, ends {relay.endings}")
    print({name: value for name, value in metrics.items() if name.startswith("teach/")})
    print(*(line for line in done.stdout.split("\n") if "warning" in line), sep="\n")


def answers(folder):
    return list((folder / "answers").rglob("*.json"))


def question(file):
    return json.loads(file.read_text())["question"]["body"]["messages"][-1]["content"]
