"""The two kinds of servers: how their clients are called, and what their errors mean.

In: a question as plain values, the address of the server, and the name of the environment variable
that holds the key. Out: an `Answer`; `Unanswered` if asking again may help; `TeacherError` if it
will not. The clients (`openai`, `anthropic`) are imported before the first question, and their own
retries are off. The key is removed from every text of a server before anything else happens to it.
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
from dataclasses import dataclass
from typing import Any

from rlmec.teachers.base import TeacherError

MAX_REQUESTED_PAUSE = 600.0
"""Seconds; a server that requests a longer pause ends the run."""
RETRIED_STATUSES = (408, 409, 425, 429)
"""Statuses below 500 after which the same request may be answered."""
NO_KEY = "none"
"""The key sent to a server without keys, because the clients insist on one."""
_ADVICE = {
    400: "check teacher.model, teacher.temperature, teacher.limit_field and teacher.options",
    401: "check the key in {key}",
    402: "the account behind {key} has no credit left",
    403: "the key in {key} may not use this model",
    404: "check teacher.model and teacher.base_url",
}


@dataclass(frozen=True)
class Answer:
    """The text of a model and its counted tokens.

    `ending` is "stop", "length" (cut at the limit), or "refusal".
    """

    text: str
    input_tokens: int
    output_tokens: int
    ending: str = "stop"


class Unanswered(Exception):
    """There is no usable answer this time.

    `pause` is the wait in seconds that the server requests. `maybe_billed` is True if the server
    may have written an answer that was lost.
    """

    def __init__(self, why: str, pause: float | None = None, maybe_billed: bool = False) -> None:
        super().__init__(why)
        self.pause = pause
        self.maybe_billed = maybe_billed


class Service(ABC):
    """A server at `base_url`.

    `key_variable` names the environment variable of the key, None for a server without keys.
    `timeout` is the number of seconds that the server may keep silent.
    """

    package = ""

    def __init__(self, base_url: str, key_variable: str | None, timeout: float) -> None:
        self.base_url = base_url
        self.key_variable = key_variable
        self._timeout = timeout
        self._client: Any = None

    def check(self) -> None:
        """Raise TeacherError if the client is not installed or the key is not set."""
        if importlib.util.find_spec(self.package) is None:
            raise TeacherError(
                f"this teacher needs the package {self.package!r}: pip install "
                f"'rlmec[{self.package}]'"
            )
        self._key()

    def connect(self) -> None:
        """Open the client. One thread calls this before any thread calls `ask`."""
        if self._client is None:
            self.check()
            self._client = self.open(importlib.import_module(self.package), self._key())

    def close(self) -> None:
        """Close the client and its connections. A later `connect` opens it again."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _key(self) -> str:
        if self.key_variable is None:
            return NO_KEY

        key = os.environ.get(self.key_variable, "").strip()
        if not key:
            raise TeacherError(
                f"{self.key_variable} is not set: the teacher at {self.base_url} needs a key in "
                f"this environment variable; for a server without keys set teacher.api_key_env=null"
            )
        # A client's error about a header with such characters would quote the key.
        if not re.fullmatch(r"[!-~]+", key):
            raise TeacherError(
                f"{self.key_variable} holds characters that no key has, such as a line break: set "
                f"it again"
            )
        return key

    def ask(self, body: Mapping[str, Any]) -> Answer:
        """Return the answer to a request body; otherwise raise Unanswered or TeacherError."""
        library: Any = importlib.import_module(self.package)
        try:
            text = self.send(body)
        except library.APIStatusError as error:
            problem = self._of_status(error.response, body)
        except library.APITimeoutError as error:
            problem = Unanswered(
                f"no answer within {self._timeout:g} s", maybe_billed=not _never_connected(error)
            )
        except library.APIConnectionError as error:
            cause = type(error.__cause__ or error).__name__
            problem = Unanswered(
                f"the connection failed ({cause})", maybe_billed=not _never_connected(error)
            )
        else:
            return self._read(self._without_key(text))
        raise problem from None  # the client's error may quote the request

    def _read(self, text: str) -> Answer:
        try:
            return self.answer(json.loads(text))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            why = f"a malformed answer ({type(error).__name__}): {_excerpt(text)}"
            raise Unanswered(why, maybe_billed=True) from None

    def _of_status(self, response: Any, body: Mapping[str, Any]) -> Unanswered | TeacherError:
        """The error to raise for a reply with an error status."""
        status = response.status_code
        text = self._without_key(response.text)
        said = f"{self.base_url} answered {status} to model {body.get('model')!r}: {_excerpt(text)}"

        pause = requested_pause(response.headers)
        if pause is not None and pause > MAX_REQUESTED_PAUSE:
            return TeacherError(f"{said}; it asks to come back in {pause:.0f} s: run again then")

        # OpenAI reports an empty account with the status of too many requests.
        if status == 429 and "insufficient_quota" in text:
            return TeacherError(f"{said}; {_ADVICE[402].format(key=self.key_variable)}")
        if status in RETRIED_STATUSES or status >= 500:
            return Unanswered(said, pause)

        advice = _ADVICE.get(status, _ADVICE[400])
        if status in (401, 403) and self.key_variable is None:
            advice = "it needs a key: name its environment variable in teacher.api_key_env"
        return TeacherError(f"{said}; {advice.format(key=self.key_variable)}")

    def _without_key(self, text: str) -> str:
        """The text without the key and without lone surrogates, which no file can hold."""
        if self.key_variable is not None:
            text = text.replace(self._client.api_key, "***")
        return text.encode("utf-8", "replace").decode()

    @abstractmethod
    def open(self, library: Any, key: str) -> Any:
        """Return the client."""

    @abstractmethod
    def body(
        self, model: str, system: str | None, prompt: str, settings: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the body of the request, which has everything that shapes the answer."""

    @abstractmethod
    def send(self, body: Mapping[str, Any]) -> str:
        """Return the text of the reply."""

    @abstractmethod
    def answer(self, reply: Any) -> Answer:
        """Return a reply as an answer, with -1 for tokens that the reply does not count.

        A reply of another shape raises any of KeyError, TypeError, and the like.
        """


class OpenAIService(Service):
    """OpenAI's `/chat/completions`, which many servers offer."""

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
        message = choice["message"]
        usage = reply.get("usage") or {}
        reason = choice.get("finish_reason")
        refused = bool(message.get("refusal")) or reason == "content_filter"
        return Answer(
            _text(message.get("content") or ""),
            _count(usage.get("prompt_tokens", -1)),
            _count(usage.get("completion_tokens", -1)),
            _ending(refused=refused, cut=reason == "length"),
        )


class AnthropicService(Service):
    """Anthropic's `/v1/messages`."""

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
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
        }
        if system:
            body["system"] = system
        return {**body, **settings}

    def send(self, body: Mapping[str, Any]) -> str:
        plain = {name: body[name] for name in ("model", "messages", "max_tokens")}
        rest = {name: value for name, value in body.items() if name not in plain}
        asked = self._client.messages.with_raw_response
        return asked.create(**plain, extra_body=rest).http_response.text

    def answer(self, reply: Any) -> Answer:
        usage = reply.get("usage") or {}
        texts = [block["text"] for block in reply["content"] if block["type"] == "text"]

        # Tokens that the server's own cache wrote or read are not part of its input tokens.
        read = _count(usage.get("input_tokens", -1))
        if read >= 0:
            read += usage.get("cache_creation_input_tokens") or 0
            read += usage.get("cache_read_input_tokens") or 0

        reason = reply["stop_reason"]
        return Answer(
            _text("".join(texts)),
            read,
            _count(usage.get("output_tokens", -1)),
            _ending(
                refused=reason == "refusal",
                cut=reason in ("max_tokens", "model_context_window_exceeded"),
            ),
        )


def _ending(*, refused: bool, cut: bool) -> str:
    if refused:
        return "refusal"
    return "length" if cut else "stop"


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text is {type(value).__name__}")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError(f"tokens are {type(value).__name__}")
    return value


def _excerpt(text: str) -> str:
    """The beginning of a server's text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= 200 else line[:200] + "..."


def _never_connected(error: BaseException) -> bool:
    """Whether no connection was made, so that nothing can have been billed."""
    return type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout", "PoolTimeout")


def requested_pause(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a reply's Retry-After (a number or a date); None without one."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass  # not a number, so perhaps a date
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except ValueError:
        return None
