"""One question to a server: its answer from disk, or asked until answered or hopeless.

In: the body of a request and the number of the sample. Out: an `Answer`. An answer given before
comes from the cache. Otherwise the server is asked, passing errors are retried after growing
pauses, and the answer is on disk before it is used. What was spent is counted on the attempt's hold
on the budget.

The cache has one file per question. A file is written as a whole or not at all. It holds the
question, the answer, and its tokens, never a key.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import tenacity

from rlmec.store.atomic import atomic_write_json
from rlmec.teachers.base import TeacherError
from rlmec.teachers.budget import Hold, Tokens
from rlmec.teachers.services import Answer, Service, Unanswered

MARKUP_TOKENS = 64
"""Upper bound on the tokens that a server adds to a question (turns, roles)."""


class Stopped(Exception):
    """The error of another attempt ends the run."""


class AnswerCache:
    """Answers in files below `folder`, which is created by the first write.

    Without a folder, answers are kept in memory for the lifetime of this object.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._memory: dict[str, Answer] = {}
        self._guard = threading.Lock()
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    @contextlib.contextmanager
    def locked(self, digest: str) -> Iterator[None]:
        """Hold a question while it is looked up and asked, so that two threads do not both ask."""
        with self._guard:
            lock = self._locks[digest]
        with lock:
            yield

    def find(self, digest: str) -> Answer | None:
        """Return the answer given before, or None; ValueError names a file that is damaged."""
        if self._folder is None:
            return self._memory.get(digest)

        path = self._path(self._folder, digest)
        try:
            return Answer(**json.loads(path.read_text(encoding="utf-8"))["answer"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{path} is no answer of a teacher ({type(error).__name__}); remove it to have its "
                f"question asked again"
            ) from error

    def keep(self, digest: str, question: Mapping[str, Any], answer: Answer) -> None:
        """Keep an answer; it is on disk when this returns."""
        if self._folder is None:
            self._memory[digest] = answer
            return
        path = self._path(self._folder, digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_json(path, {"question": dict(question), "answer": asdict(answer)})

    @staticmethod
    def _path(folder: Path, digest: str) -> Path:
        return folder / digest[:2] / f"{digest}.json"


class AttemptState:
    """The state shared by all questions about one attempt.

    It has the attempt's hold on the budget, its counts, and the event that stops all asking.
    """

    def __init__(self, hold: Hold, stop: threading.Event) -> None:
        self.hold = hold
        self.stop = stop
        self.counts = Counter({"calls": 0, "cached_calls": 0, "retries": 0, "unlocated": 0})


class Caller:
    """Asks `service`, from many threads.

    A failed call is tried up to `max_retries` more times. The pause before each is random, grows
    from `backoff` seconds, and has the upper bound `max_wait`. `max_failures` attempts in a row
    without an answer end the run. `max_completion_length` limits the tokens of an answer; it is
    what a lost answer is counted as.
    """

    def __init__(
        self,
        service: Service,
        cache: AnswerCache,
        *,
        max_completion_length: int,
        max_retries: int,
        max_failures: int,
        backoff: float,
        max_wait: float,
    ) -> None:
        self._service = service
        self._cache = cache
        self._max_completion_length = max_completion_length
        self._max_retries = max_retries
        self._max_failures = max_failures
        self._backoff = backoff
        self._max_wait = max_wait
        self._failures = 0
        self._lock = threading.Lock()

    def ask(self, body: dict[str, Any], sample: int, state: AttemptState) -> Answer:
        """Return the answer to a request body.

        Raises Unanswered after the last retry, OverBudget if a lost answer leaves no room in the
        budget to ask again, and TeacherError if asking again is useless.
        """
        question = {
            "service": self._service.package,
            "base_url": self._service.base_url,
            "body": body,
            "sample": sample,
        }
        digest = _question_digest(question)

        with self._cache.locked(digest):
            answer = self._cache.find(digest)
            if answer is None:
                answer = self._with_counts(self._call(body, state), body)
                self._cache.keep(digest, question, answer)
                state.counts["calls"] += 1
                self._failures = 0
            else:
                state.counts["cached_calls"] += 1

        # A cached answer is paid for again, so that a resumed run stops at the same attempt.
        state.hold.pay(Tokens(answer.input_tokens, answer.output_tokens))
        return answer

    def note_failure(self, error: Unanswered) -> None:
        """Count an attempt without an answer; TeacherError after too many in a row."""
        with self._lock:
            self._failures += 1
            if self._failures >= self._max_failures:
                raise TeacherError(
                    f"{self._failures} attempts in a row got no answer from "
                    f"{self._service.base_url} in {self._max_retries + 1} tries each, the last "
                    f"error: {error}; given answers are kept, run again to continue"
                ) from None

    def _with_counts(self, answer: Answer, body: Mapping[str, Any]) -> Answer:
        """The answer, with upper bounds for tokens that the server did not count."""
        read = answer.input_tokens
        written = answer.output_tokens
        return replace(
            answer,
            input_tokens=read if read >= 0 else max_input_tokens(body),
            output_tokens=written if written >= 0 else self._max_completion_length,
        )

    def _call(self, body: dict[str, Any], state: AttemptState) -> Answer:
        bound = Tokens(max_input_tokens(body), self._max_completion_length)

        def call_once() -> Answer:
            if state.stop.is_set():
                raise Stopped
            try:
                return self._service.ask(body)
            except Unanswered as error:
                if error.maybe_billed:
                    state.hold.lose(bound)
                raise

        def count_retry(_: tenacity.RetryCallState) -> None:
            state.counts["retries"] += 1

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Unanswered),
            stop=tenacity.stop_after_attempt(self._max_retries + 1),
            wait=self._pause,
            sleep=tenacity.sleep_using_event(state.stop),
            before_sleep=count_retry,
            reraise=True,
        )(call_once)

    def _pause(self, retry: tenacity.RetryCallState) -> float:
        """Seconds before the next try: the larger of the server's request and a random pause.

        The pause is random so that many threads do not return at the same moment.
        """
        growing = tenacity.wait_random_exponential(self._backoff, self._max_wait)(retry)
        error = retry.outcome.exception() if retry.outcome else None
        requested = error.pause if isinstance(error, Unanswered) else None
        return max(requested or 0.0, growing)


def max_input_tokens(body: Mapping[str, Any]) -> int:
    """Return an upper bound on the tokens of a question: no token is shorter than a byte."""
    texts = [turn["content"] for turn in body["messages"]] + [body.get("system") or ""]
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts) + MARKUP_TOKENS


def _question_digest(question: Mapping[str, Any]) -> str:
    """The sha256 of everything that shapes an answer."""
    text = json.dumps(question, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
