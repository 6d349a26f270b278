"""How the two kinds of servers are asked, through their own clients, and what their errors mean.

In: a question as plain values, the address, the name of the environment variable that holds the
key. Out: an `Answer`, or `Unanswered` where asking again may help, or a `TeacherError` where it
will not. The clients (`openai`, `anthropic`) are imported when the first question is asked; their
own retries are off. What comes from a server is searched for the key before anything else is done
with it.
"""

from __future__ import annotations

import email.utils
import importlib
import importlib.util
import json
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from rlmec.teachers.base import TeacherError
from rlmec.teachers.cache import Answer

LONGEST_WAIT = 600.0
"""Seconds: a server that asks for a longer pause ends the run."""
RETRIED = (408, 409, 425, 429)
"""Statuses below 500 after which the same request may be answered."""
NO_KEY = "none"
"""What is sent as the key to a server without one: the clients insist on some."""
_ADVICE = {
    400: "check teacher.model, teacher.temperature, teacher.limit_field and teacher.options",
    401: "check the key in {key}",
    402: "the account behind {key} has nothing left to spend",
    403: "the key in {key} may not use this model",
    404: "check teacher.model and teacher.base_url",
}


class Unanswered(Exception):
    """No usable answer this time. `pause` is what the server asks to wait (seconds); `maybe_billed`
    says that it may have written an answer which got lost."""

    def __init__(self, why: str, pause: float | None = None, maybe_billed: bool = False) -> None:
        super().__init__(why)
        self.pause, self.maybe_billed = pause, maybe_billed


class Service(ABC):
    """A server at `base_url` with the key in the environment variable `key_variable` (None: no
    key); `timeout` are the seconds that it may keep silent."""

    package = ""

    def __init__(self, base_url: str, key_variable: str | None, timeout: float) -> None:
        self.base_url, self.key_variable, self._timeout = base_url, key_variable, timeout
        self._client: Any = None

    def check(self) -> None:
        """Raises TeacherError where the client is not installed or the key is not set."""
        if importlib.util.find_spec(self.package) is None:
            raise TeacherError(
                f"this teacher needs the package {self.package!r}: pip install "
                f"'rlmec[{self.package}]'"
            )
        self._key()

    def connect(self) -> None:
        """Opens the client; to be called by one thread, before any `ask`."""
        if self._client is None:
            self.check()
            self._client = self.open(importlib.import_module(self.package), self._key())

    def _key(self) -> str:
        if self.key_variable is None:
            return NO_KEY
        key = os.environ.get(self.key_variable, "").strip()
        if not key:
            raise TeacherError(
                f"{self.key_variable} is not set: the teacher at {self.base_url} needs a key in "
                f"this environment variable; for a server without keys set teacher.api_key_env=null"
            )
        if not re.fullmatch(r"[!-~]+", key):  # a client's error about such a header would quote it
            raise TeacherError(f"{self.key_variable} holds characters that are in no key")
        return key

    def ask(self, body: Mapping[str, Any]) -> Answer:
        """The answer to a request body; Unanswered or TeacherError without one."""
        library: Any = importlib.import_module(self.package)
        try:
            text = self.send(body)
        except library.APIStatusError as error:
            problem = self._of_status(error.response, body)
        except library.APITimeoutError as error:
            problem = Unanswered(f"no answer within {self._timeout:g} s", None, not _refused(error))
        except library.APIConnectionError as error:
            why = type(error.__cause__ or error).__name__
            problem = Unanswered(f"the connection failed ({why})", None, not _refused(error))
        else:
            return self._read(self._without_key(text))
        raise problem from None  # what the client raised may quote the request

    def _read(self, text: str) -> Answer:
        try:
            reply = json.loads(text)
            return self.answer(reply)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            why = f"a malformed answer ({type(error).__name__}): {_excerpt(text)}"
            raise Unanswered(why, None, True) from None

    def _of_status(self, response: Any, body: Mapping[str, Any]) -> Unanswered | TeacherError:
        status, text = response.status_code, self._without_key(response.text)
        said = f"{self.base_url} answered {status} to model {body.get('model')!r}: {_excerpt(text)}"
        pause = pause_asked(response.headers)
        if pause is not None and pause > LONGEST_WAIT:
            return TeacherError(f"{said}; it asks to come back in {pause:.0f} s: run again then")
        if status == 429 and "insufficient_quota" in text:
            return TeacherError(f"{said}; {_ADVICE[402].format(key=self.key_variable)}")
        if status in RETRIED or status >= 500:
            return Unanswered(said, pause)
        advice = _ADVICE.get(status, _ADVICE[400])
        if status in (401, 403) and self.key_variable is None:
            advice = "it wants a key: name its environment variable in teacher.api_key_env"
        return TeacherError(f"{said}; {advice.format(key=self.key_variable)}")

    def _without_key(self, text: str) -> str:
        if self.key_variable is not None:
            text = text.replace(self._client.api_key, "***")
        return text.encode("utf-8", "replace").decode()

    @abstractmethod
    def open(self, library: Any, key: str) -> Any:
        """The client."""

    @abstractmethod
    def body(
        self, model: str, system: str | None, prompt: str, settings: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The request's body: all that shapes the answer."""

    @abstractmethod
    def send(self, body: Mapping[str, Any]) -> str:
        """The text of the reply."""

    @abstractmethod
    def answer(self, reply: Any) -> Answer:
        """A reply as an answer, with -1 for tokens that it does not count; any KeyError, TypeError,
        ... for one of another shape."""


class OpenAIService(Service):
    """/chat/completions, as many servers speak it."""

    package = "openai"

    def open(self, library: Any, key: str) -> Any:
        return library.OpenAI(
            api_key=key, base_url=self.base_url, timeout=self._timeout, max_retries=0
        )

    def body(
        self, model: str, system: str | None, prompt: str, settings: Mapping[str, Any]
    ) -> dict[str, Any]:
        turns = [{"role": "system", "content": system}] if system else []
        turns.append({"role": "user", "content": prompt})
        return {"model": model, "messages": turns, **settings}

    def send(self, body: Mapping[str, Any]) -> str:
        plain = {"model": body["model"], "messages": body["messages"]}
        rest = {name: value for name, value in body.items() if name not in plain}
        asked = self._client.chat.completions.with_raw_response
        return asked.create(**plain, extra_body=rest).http_response.text

    def answer(self, reply: Any) -> Answer:
        choice = reply["choices"][0]
        message, usage = choice["message"], reply.get("usage") or {}
        text, ending = message.get("content") or "", choice.get("finish_reason")
        refused = bool(message.get("refusal")) or ending == "content_filter"
        return Answer(
            _text(text),
            _count(usage.get("prompt_tokens", -1)),
            _count(usage.get("completion_tokens", -1)),
            "refusal" if refused else "length" if ending == "length" else "stop",
        )


class AnthropicService(Service):
    """/v1/messages."""

    package = "anthropic"

    def open(self, library: Any, key: str) -> Any:
        return library.Anthropic(
            api_key=key, base_url=self.base_url, timeout=self._timeout, max_retries=0
        )

    def body(
        self, model: str, system: str | None, prompt: str, settings: Mapping[str, Any]
    ) -> dict[str, Any]:
        if "max_tokens" not in settings:
            raise ValueError("teacher.limit_field: Anthropic's API calls the limit max_tokens")
        own = {"system": system} if system else {}
        return {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            **own,
            **settings,
        }

    def send(self, body: Mapping[str, Any]) -> str:
        plain = {name: body[name] for name in ("model", "messages", "max_tokens")}
        rest = {name: value for name, value in body.items() if name not in plain}
        asked = self._client.messages.with_raw_response
        return asked.create(**plain, extra_body=rest).http_response.text

    def answer(self, reply: Any) -> Answer:
        blocks, usage = reply["content"], reply.get("usage") or {}
        read = [usage.get(f"cache_{how}_input_tokens") or 0 for how in ("creation", "read")]
        fresh = _count(usage.get("input_tokens", -1))
        ending = reply["stop_reason"]
        cut = ending in ("max_tokens", "model_context_window_exceeded")
        return Answer(
            _text("".join(block["text"] for block in blocks if block["type"] == "text")),
            fresh if fresh < 0 else fresh + sum(read),
            _count(usage.get("output_tokens", -1)),
            "refusal" if ending == "refusal" else "length" if cut else "stop",
        )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text is {type(value).__name__}")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError(f"tokens are {type(value).__name__}")
    return value


def _excerpt(text: str) -> str:
    """The beginning of what a server said, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= 200 else line[:200] + "..."


def _refused(error: BaseException) -> bool:
    """Whether no connection was made, so that nothing can have been billed."""
    return type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout", "PoolTimeout")


def pause_asked(headers: Mapping[str, str]) -> float | None:
    """Seconds that a reply's Retry-After (a number or a date) asks to wait; None without one."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except ValueError:
        return None
