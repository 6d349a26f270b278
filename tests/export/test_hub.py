"""Pushing an export to a hub that a local server stands in for."""

import base64
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import HfApi, constants

from rlmec.export import hub
from rlmec.export.model_folder import RECORD


class Hub(BaseHTTPRequestHandler):
    """What a push asks of the hub: who it is, a repository, how to send files, a commit."""

    def do_GET(self):
        self.server.asked.append(("GET", self.path))
        known = self.headers.get("authorization") == "Bearer hf_known"
        self.answer(200 if known else 401, {"name": "ann", "type": "user"} if known else {})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.asked.append(("POST", self.path))
        if self.path.endswith("/repos/create"):
            self.server.made.append(json.loads(body))
            kind = "datasets/" * (self.server.made[-1].get("type") == "dataset")
            self.answer(200, {"url": f"{self.server.url}/{kind}ann/{self.server.made[-1]['name']}"})
        elif self.path.endswith("/validate-yaml"):
            self.answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [{"path": f["path"]} for f in json.loads(body)["files"]]
            more = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            self.answer(200, {"files": [f | more for f in files]})
        else:
            lines = [json.loads(line) for line in body.splitlines()]
            for line in lines:
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.files[line["value"]["path"]] = content
            address = f"{self.server.url}/ann/m/commit/1"
            self.answer(200, {"commitUrl": address, "commitOid": "1"})

    def answer(self, code, content):
        text = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@contextmanager
def a_hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked, server.made, server.files = [], [], {}
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def stand_in(monkeypatch):
    """A hub, and the client for it with the token that it knows (or another one)."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with a_hub() as server:

        def log_in(token):
            monkeypatch.setattr(hub, "api", lambda: HfApi(endpoint=server.url, token=token))

        log_in("hf_known")
        server.log_in = log_in
        yield server


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "README.md").write_text("# A model")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "pairs.jsonl").write_text("{}\n")
    (tmp_path / RECORD).write_text('{"format": 1}')
    return tmp_path


def test_a_push_is_one_commit_of_all_files_but_the_record(stand_in, folder):
    hub.check_hub("ann/m", dry_run=False)
    address = hub.push(folder, "ann/m", "model", private=True)
    assert address == f"{stand_in.url}/ann/m/commit/1"
    assert stand_in.files == {"README.md": b"# A model", "more/pairs.jsonl": b"{}\n"}
    (made,) = stand_in.made
    assert (made["name"], made["organization"]) == ("m", "ann")
    assert made.get("private") is True or made.get("visibility") == "private"
    hub.push(folder, "ann/d", "dataset", private=False)
    assert stand_in.made[1]["type"] == "dataset"
    assert any(path.startswith("/api/datasets/ann/d/commit/") for _, path in stand_in.asked)


def test_names_and_logins_are_checked_before_anything_is_made(stand_in):
    with pytest.raises(ValueError, match=r"export\.hub='a b/c' is no name"):
        hub.check_hub("a b/c", dry_run=False)
    assert stand_in.asked == []
    stand_in.log_in("hf_other")
    with pytest.raises(ValueError, match=r"export\.hub=ann/m: nobody is logged in.*hf auth login"):
        hub.check_hub("ann/m", dry_run=False)
    assert stand_in.made == []


def test_a_dry_run_names_the_files_and_asks_nobody(stand_in, folder):
    hub.check_hub("ann/m", dry_run=True)
    assert hub.files_to_push(folder) == [("README.md", 9), ("more/pairs.jsonl", 3)]
    assert hub.shown([("a", 1_230_000)]) == "  a (1.2 MB)"
    assert stand_in.asked == []
