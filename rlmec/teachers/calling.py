"""One question to a server, asked until it is answered or there is no point in asking again.

In: a request's body and the number of the sample. Out: the answer, from disk if it was given
before. Errors that pass are waited out with growing pauses; an answer is on disk before it is used;
what was spent is noted on the attempt's hold on the budget.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import tenacity

from rlmec.teachers.base import TeacherError
from rlmec.teachers.budget import Hold, Tokens
from rlmec.teachers.cache import Answer, AnswerCache, question_digest
from rlmec.teachers.services import Service, Unanswered

MARKUP = 64
"""Tokens a server may add to a question (turns, roles), at most."""


class Stopped(Exception):
    """Another attempt's error ends the run."""


class Asking:
    """What the questions about one attempt share: a hold on the budget, counts, and the event that
    ends all asking."""

    def __init__(self, hold: Hold, stop: threading.Event) -> None:
        self.hold, self.stop = hold, stop
        self.counts = Counter({"calls": 0, "cached_calls": 0, "retries": 0, "unlocated": 0})


class Caller:
    """Asks `service`, from many threads. `max_retries` tries follow a failed one; `longest` is the
    limit on an answer's tokens, which is what counts where an answer got lost."""

    def __init__(
        self,
        service: Service,
        cache: AnswerCache,
        longest: int,
        max_retries: int,
        max_failures: int,
        backoff: float,
        max_wait: float,
    ) -> None:
        self._service, self._cache, self._longest = service, cache, longest
        self._retries, self._most_failures = max_retries, max_failures
        self._backoff, self._max_wait = backoff, max_wait
        self._failures, self._lock = 0, threading.Lock()

    def ask(self, body: dict[str, Any], sample: int, asking: Asking) -> Answer:
        """The answer; Unanswered once the retries are used up, OverBudget where what got lost
        leaves no room to ask again, TeacherError where asking again is of no use."""
        question = {
            "service": self._service.package,
            "base_url": self._service.base_url,
            "body": body,
            "sample": sample,
        }
        digest = question_digest(question)
        with self._cache.asking(digest):
            answer = self._cache.find(digest)
            asking.counts["cached_calls"] += answer is not None
            if answer is None:
                answer = self._counted(self._call(body, asking), body)
                self._cache.keep(digest, question, answer)
                asking.counts["calls"] += 1
                self._failures = 0
        asking.hold.pay(Tokens(answer.input_tokens, answer.output_tokens))
        return answer

    def note_failure(self, error: Unanswered) -> None:
        """Counts an attempt without an answer; TeacherError after too many in a row."""
        with self._lock:
            self._failures += 1
            if self._failures >= self._most_failures:
                raise TeacherError(
                    f"{self._failures} attempts in a row got no answer of {self._service.base_url} "
                    f"in {self._retries + 1} tries each, the last: {error}; what was answered is "
                    f"kept, run again to go on"
                ) from None

    def _counted(self, answer: Answer, body: Mapping[str, Any]) -> Answer:
        """The answer with upper bounds for tokens that the server did not count."""
        read, written = answer.input_tokens, answer.output_tokens
        return replace(
            answer,
            input_tokens=read if read >= 0 else most_tokens(body),
            output_tokens=written if written >= 0 else self._longest,
        )

    def _call(self, body: dict[str, Any], asking: Asking) -> Answer:
        bound = Tokens(most_tokens(body), self._longest)

        def once() -> Answer:
            if asking.stop.is_set():
                raise Stopped
            try:
                return self._service.ask(body)
            except Unanswered as error:
                if error.maybe_billed:
                    asking.hold.lose(bound)
                raise

        def note(state: tenacity.RetryCallState) -> None:
            asking.counts["retries"] += 1

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Unanswered),
            stop=tenacity.stop_after_attempt(self._retries + 1),
            wait=self._pause,
            sleep=tenacity.sleep_using_event(asking.stop),
            before_sleep=note,
            reraise=True,
        )(once)

    def _pause(self, state: tenacity.RetryCallState) -> float:
        """Seconds before the next try: what the server asks for, at least a random share of a
        growing time, so that many do not come back at once."""
        growing = tenacity.wait_random_exponential(self._backoff, self._max_wait)(state)
        error = state.outcome.exception() if state.outcome else None
        asked = error.pause if isinstance(error, Unanswered) else None
        return max(asked or 0.0, growing)


def most_tokens(body: Mapping[str, Any]) -> int:
    """An upper bound on a question's tokens: none is less than a byte."""
    texts = [turn["content"] for turn in body["messages"]] + [body.get("system") or ""]
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts) + MARKUP
