"""A language model's server on loopback that answers in both APIs, well or badly, as it is told.

`plan(prompt, nth)` names what the nth request with a prompt gets (from 0): "ok", "says TEXT", an
answer that is "empty", "wrong", "refusal" or "length" (cut), or no answer: a status such as "429",
"slow", "cut" (off), "malformed", "no choices". A good answer to a question for the first wrong step
is `located`, to a rewrite the right answer that stands in the prompt. What was asked, answered and
billed is written down by prompt.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SLOW = 1.5
"""Seconds for which "slow" keeps silent."""


class Server:
    """Starts on a free port; `url` is its root."""

    def __init__(self, plan=lambda prompt, nth: "ok", located="[1]", retry_after=None) -> None:
        self.plan, self.located, self.retry_after = plan, located, retry_after
        self.asked = Counter[str]()
        self.answered = Counter[str]()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: dict[str, list[float]] = {}
        self.billed = 0
        self.out, self.most_out = 0, 0
        self.lock = threading.Lock()
        self._server = _Http(self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def running(self):
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def note_request(self, prompt: str, body: dict[str, Any], headers: dict[str, str]) -> int:
        """Which request with this prompt it is."""
        with self.lock:
            nth = self.asked[prompt]
            self.asked[prompt] += 1
            self.bodies.append(body)
            self.headers.append({k.lower(): v for k, v in headers.items()})
            self.times.setdefault(prompt, []).append(time.monotonic())
            self.out += 1
            self.most_out = max(self.most_out, self.out)
        return nth

    def bill(self, prompt: str, text: str) -> None:
        with self.lock:
            self.billed += tokens(prompt) + tokens(text)

    def says(self, prompt: str, how: str) -> str:
        """What the model writes."""
        if how.startswith("says "):
            return how.removeprefix("says ")
        if how == "empty":
            return ""
        if how == "wrong":
            return "The answer is -1."
        if "Which step" in prompt:
            return self.located
        gold = re.findall(r"^Right answer: (.*)$", prompt, re.MULTILINE)
        return f"The answer is {gold[0]}."


def tokens(text: str) -> int:
    return len(text) // 4 + 1


def _openai(text: str, how: str, prompt: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if how == "refusal":
        message = {"role": "assistant", "content": None, "refusal": "I would rather not."}
    ending = "length" if how == "length" else "stop"
    return {
        "choices": [{"index": 0, "message": message, "finish_reason": ending}],
        "usage": {"prompt_tokens": tokens(prompt), "completion_tokens": tokens(text)},
    }


def _anthropic(text: str, how: str, prompt: str) -> dict[str, Any]:
    ending = {"refusal": "refusal", "length": "max_tokens"}.get(how, "end_turn")
    return {
        "type": "message",
        "role": "assistant",
        "content": [] if how in ("empty", "refusal") else [{"type": "text", "text": text}],
        "stop_reason": ending,
        "usage": {"input_tokens": tokens(prompt), "output_tokens": tokens(text)},
    }


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, told: Server) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.told = told


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each reply waits 40 ms for the client's kernel

    @property
    def told(self) -> Server:
        return self.server.told  # pyright: ignore

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        shape = {"/v1/chat/completions": _openai, "/v1/messages": _anthropic}[self.path]
        prompt = body["messages"][-1]["content"]
        nth = self.told.note_request(prompt, body, dict(self.headers))
        try:
            self.reply(shape, prompt, self.told.plan(prompt, nth))
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client did not wait
        finally:
            with self.told.lock:
                self.told.out -= 1

    def reply(self, shape: Any, prompt: str, how: str) -> None:
        if how.isdigit():  # the error quotes the request, its key too
            error = {"error": {"message": f"no: {dict(self.headers)}", "code": "x"}}
            self.send(int(how), json.dumps(error))
        elif how == "malformed":
            self.told.bill(prompt, "")
            self.send(200, '{"choices": [{"mess')
        elif how == "no choices":
            self.send(200, '{"choices": [], "content": null}')
        else:
            time.sleep(SLOW if how == "slow" else 0)
            text = self.told.says(prompt, how)
            self.told.bill(prompt, text)
            if how not in ("slow", "cut"):
                with self.told.lock:
                    self.told.answered[prompt] += 1
            self.send(200, json.dumps(shape(text, how, prompt)), cut=how == "cut")

    def send(self, status: int, text: str, cut: bool = False) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status == 429 and self.told.retry_after is not None:
            self.send_header("Retry-After", str(self.told.retry_after))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
