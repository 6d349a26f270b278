"""Teachers behind a server: hosted models, vLLM, Ollama (OpenAI's API), Anthropic's models.

In: wrong attempts. Out: for each the method's two questions (which step is wrong? rewrite it from
there on), asked of many attempts at once, and the corrections made of the answers. Every answer is
on disk before it is used, so that a rerun asks only what was not answered; errors that pass are
waited out, others end the run; what is spent stays within a budget.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rlmec.runtime import signals
from rlmec.teachers.base import Proposal, Proposals, WrongAttempt
from rlmec.teachers.budget import (
    Budget,
    Hold,
    Ledger,
    OverBudget,
    Tokens,
)
from rlmec.teachers.cache import AnswerCache
from rlmec.teachers.calling import (
    Asking,
    Caller,
    Stopped,
    most_tokens,
)
from rlmec.teachers.services import (
    AnthropicService,
    OpenAIService,
    Service,
    Unanswered,
)
from rlmec.teachers.steps import (
    StepPrompts,
    lines_of,
    located_step,
    rewritten,
)


class EndpointTeacher:
    """Asks `model` at `base_url`.

    `temperature` None sends none; `limit_field` is the request's name for the limit on an answer,
    `max_completion_length`, and `options` are further fields of the request. Of `num_proposals`
    rewrites (more than one need a temperature) the stage keeps the best. `max_retries` tries follow
    a failed one, each after a random share of `backoff` seconds, twice as many each time and at
    most `max_wait`, or after what the server asks for; `max_failures` attempts in a row without an
    answer end the run. `timeout` are the seconds a server may keep silent. The budget
    (`max_tokens_total`, `max_cost` in the prices' currency) is that of the run: answers found in
    the `cache` folder count too.
    """

    service: type[Service] = Service

    def __init__(
        self,
        model: str,
        base_url: str,
        prompts: StepPrompts,
        api_key_env: str | None = None,
        temperature: float | None = 0.0,
        max_completion_length: int = 1024,
        limit_field: str = "max_tokens",
        num_proposals: int = 1,
        options: dict[str, Any] | None = None,
        max_tokens_total: int | None = None,
        max_cost: float | None = None,
        price_per_million_input: float | None = None,
        price_per_million_output: float | None = None,
        cache: str | None = None,
        max_concurrency: int = 8,
        max_retries: int = 6,
        max_failures: int = 10,
        timeout: float = 120.0,
        backoff: float = 1.0,
        max_wait: float = 60.0,
        task: Any = None,
    ) -> None:
        del task
        _refuse_secrets(base_url, api_key_env)
        _refuse_below_one(
            max_completion_length=max_completion_length,
            num_proposals=num_proposals,
            max_concurrency=max_concurrency,
            max_failures=max_failures,
        )
        if num_proposals > 1 and temperature == 0:
            raise ValueError(
                f"teacher.num_proposals is {num_proposals}, but at temperature 0 they would be all "
                f"the same: set teacher.temperature"
            )
        self.name = f"{self.service.package}:{model}"
        self._model, self._prompts, self._samples = model, prompts, num_proposals
        self._settings = _request_settings(temperature, limit_field, max_completion_length, options)
        self._longest = max_completion_length
        self._budget = Budget(
            max_tokens_total, max_cost, price_per_million_input, price_per_million_output
        )
        self._service = self.service(base_url, api_key_env, timeout)
        self._caller = Caller(
            self._service,
            AnswerCache(None if cache is None else Path(cache)),
            max_completion_length,
            max_retries,
            max_failures,
            backoff,
            max_wait,
        )
        self._workers = max_concurrency
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raises TeacherError where the client's package or the key is missing."""
        self._service.check()

    def figures(self, counts: Mapping[str, int]) -> dict[str, float]:
        """The `cost` of counted tokens, where prices are known."""
        cost = self._budget.cost(_tokens(counts))
        return {} if cost is None else {"cost": cost}

    def correct_all(
        self,
        attempts: Sequence[WrongAttempt],
        *,
        spent: Mapping[str, int],
        tick: Callable[[], None],
    ) -> list[Proposals]:
        """Proposals for each attempt. Counted: `calls`, `cached_calls`, `retries`, `input_tokens`,
        `output_tokens`, `unlocated` (no step was named). Raises TeacherError where the server will
        not answer."""
        self._service.connect()
        ledger = Ledger(self._budget, _tokens(spent))
        stop, free = threading.Event(), threading.Semaphore(self._workers)
        out: list[Future[Proposals]] = []

        def one(attempt: WrongAttempt, hold: Hold) -> Proposals:
            try:
                return self._one(attempt, hold, stop)
            except BaseException:
                stop.set()
                raise
            finally:
                hold.settle()
                free.release()
                self._tick(tick)

        with ThreadPoolExecutor(self._workers) as pool:
            try:
                for attempt in attempts:
                    free.acquire()
                    signals.check()
                    hold = None if stop.is_set() else ledger.admit(self._bound(attempt))
                    if stop.is_set():
                        break
                    if hold is None:
                        free.release()
                        self._tick(tick)
                    out.append(_over_budget() if hold is None else pool.submit(one, attempt, hold))
            except BaseException:
                stop.set()
                raise
        return _results(out)

    def _tick(self, tick: Callable[[], None]) -> None:
        with self._lock:
            tick()

    def _one(self, attempt: WrongAttempt, hold: Hold, stop: threading.Event) -> Proposals:
        texts: list[Proposal] = []
        asking = Asking(hold, stop)
        try:
            reason = self._ask_both(attempt, texts, asking)
        except OverBudget:
            reason = "over_budget"
        except Unanswered as error:
            self._caller.note_failure(error)
            reason = "failed"
        spent = {"input_tokens": hold.spent.input, "output_tokens": hold.spent.output}
        return Proposals(texts, "no_proposal" if texts else reason, dict(asking.counts) | spent)

    def _ask_both(self, attempt: WrongAttempt, texts: list[Proposal], asking: Asking) -> str:
        """Fills `texts`; returns the reason where there are none."""
        problem, text = attempt
        step, steps = 0, len(lines_of(text))
        if steps > 1:
            question = self._body(self._prompts.asks_to_locate(problem, text))
            located = self._caller.ask(question, 0, asking)
            if located.ending == "refusal":
                return "refused"
            found = located_step(located.text, steps)
            asking.counts["unlocated"] += found is None
            step = found or 0
        question = self._body(self._prompts.asks_to_rewrite(problem, text, step))
        refusals = 0
        for sample in range(self._samples):
            answer = self._caller.ask(question, sample, asking)
            refusals += answer.ending == "refusal"
            whole = rewritten(text, step, answer.text)
            if whole is not None and answer.ending != "refusal":
                texts.append(Proposal(whole, answer.ending == "length"))
        return "refused" if refusals == self._samples else "no_proposal"

    def _body(self, prompt: str) -> dict[str, Any]:
        return self._service.body(self._model, self._prompts.system, prompt, self._settings)

    def _bound(self, attempt: WrongAttempt) -> Tokens:
        """The most that an attempt can come to if nothing gets lost."""
        problem, text = attempt
        steps = len(lines_of(text))
        rewrite = most_tokens(self._body(self._prompts.asks_to_rewrite(problem, text, steps - 1)))
        total = Tokens(self._samples * rewrite, self._samples * self._longest)
        if steps == 1:
            return total
        locate = self._body(self._prompts.asks_to_locate(problem, text))
        return total + Tokens(most_tokens(locate), self._longest)


class OpenAITeacher(EndpointTeacher):
    """A model behind OpenAI's chat API: OpenAI's own, and those that vLLM, Ollama and many hosts
    serve."""

    service = OpenAIService


class AnthropicTeacher(EndpointTeacher):
    """One of Anthropic's models."""

    service = AnthropicService


def _results(out: Sequence[Future[Proposals]]) -> list[Proposals]:
    """What all attempts came to; the first error that is not only that of having been stopped."""
    errors = [error for future in out if (error := future.exception()) is not None]
    for error in errors:
        if not isinstance(error, Stopped):
            raise error
    return [future.result() for future in out]


def _over_budget() -> Future[Proposals]:
    future: Future[Proposals] = Future()
    future.set_result(Proposals(reason="over_budget"))
    return future


def _tokens(counts: Mapping[str, int]) -> Tokens:
    return Tokens(counts.get("input_tokens", 0), counts.get("output_tokens", 0))


def _refuse_secrets(base_url: str, api_key_env: str | None) -> None:
    """Raises ValueError, without showing it, for what looks like a secret."""
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("teacher.base_url is no address such as http://localhost:8000/v1")
    if parts.username or parts.password or parts.query:
        raise ValueError(
            "teacher.base_url holds a user name or a query: a secret has no place there; name the "
            "environment variable that holds the key in teacher.api_key_env"
        )
    if api_key_env is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,60}", api_key_env):
        raise ValueError(
            "teacher.api_key_env is to be the NAME of an environment variable, in capitals, such "
            "as OPENAI_API_KEY; never the key"
        )


def _request_settings(
    temperature: float | None, limit_field: str, limit: int, options: dict[str, Any] | None
) -> dict[str, Any]:
    """What a request's body holds beside the model and the question; ValueError for an option that
    has a setting of its own or would multiply what is billed."""
    own = {"model", "messages", "system", "stream", "n", "temperature", limit_field}
    if taken := sorted(own & set(options or {})):
        raise ValueError(f"teacher.options: {', '.join(taken)} cannot be set there")
    warmth = {} if temperature is None else {"temperature": temperature}
    return {**warmth, limit_field: limit, **(options or {})}


def _refuse_below_one(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"teacher.{name} is {value}, at least 1 is needed")
