"""Teachers behind a server: OpenAI's API (hosted models, vLLM, Ollama) and Anthropic's models.

In: wrong attempts. Out: proposals made from the answers to the method's two questions per attempt
(which step is wrong, and how does the solution continue from there), with many attempts asked at
the same time. Every answer is on disk before it is used, so a rerun asks only what has no answer
yet. Passing errors are retried, other errors end the run, and spending stays within a budget.

Departures from the paper's scripts: those of `teachers/steps.py`.
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
from rlmec.settings.ranges import (
    Budgeted,
    BudgetedCost,
    NonNegativeFloat,
    NonNegativeInt,
    PathText,
    PositiveFloat,
    PositiveInt,
    Temperature,
)
from rlmec.teachers.base import Proposal, Proposals, WrongAttempt, require_temperature
from rlmec.teachers.budget import Budget, Hold, Ledger, OverBudget, Tokens
from rlmec.teachers.server_calls import (
    AnswerCache,
    AttemptState,
    Caller,
    Stopped,
    max_input_tokens,
)
from rlmec.teachers.services import AnthropicService, OpenAIService, Service, Unanswered
from rlmec.teachers.steps import StepPrompts, lines_of, located_step, rewritten


class EndpointTeacher:
    """Asks `model` at `base_url`.

    Request: `temperature` None sends none. `limit_field` is the request's name for the limit
    `max_completion_length`, and `options` are further fields of the request. `num_proposals`
    rewrites are asked for per attempt; more than one need a temperature above 0.

    Errors: a failed call is tried up to `max_retries` more times. The pause before a try is what
    the server requests, otherwise a random share of `backoff` seconds, doubled with each try up to
    `max_wait`. `timeout` is the number of seconds that a server may keep silent. `max_failures`
    attempts in a row without an answer end the run.

    Budget: `max_tokens_total` and `max_cost` (in the currency of the prices) are limits of the
    whole run. Answers found in the folder `cache` count too.
    """

    service: type[Service] = Service

    def __init__(
        self,
        model: str,
        base_url: str,
        prompts: StepPrompts,
        api_key_env: str | None,
        temperature: Temperature | None = 0.0,
        max_completion_length: PositiveInt = 1024,
        limit_field: str = "max_tokens",
        num_proposals: PositiveInt = 1,
        options: dict[str, Any] | None = None,
        max_tokens_total: Budgeted | None = None,
        max_cost: BudgetedCost | None = None,
        price_per_million_input: NonNegativeFloat | None = None,
        price_per_million_output: NonNegativeFloat | None = None,
        cache: PathText | None = None,
        max_concurrency: PositiveInt = 8,
        max_retries: NonNegativeInt = 6,
        max_failures: PositiveInt = 10,
        timeout: PositiveFloat = 120.0,
        backoff: NonNegativeFloat = 1.0,
        max_wait: NonNegativeFloat = 60.0,
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
        require_temperature(num_proposals, temperature)
        self.name = f"{self.service.package}:{model}"
        self._model = model
        self._prompts = prompts
        self._num_proposals = num_proposals
        self._settings = _request_settings(temperature, limit_field, max_completion_length, options)
        self._max_completion_length = max_completion_length
        self._budget = Budget(
            max_tokens_total, max_cost, price_per_million_input, price_per_million_output
        )
        self._service = self.service(base_url, api_key_env, timeout)
        self._caller = Caller(
            self._service,
            AnswerCache(None if cache is None else Path(cache)),
            max_completion_length=max_completion_length,
            max_retries=max_retries,
            max_failures=max_failures,
            backoff=backoff,
            max_wait=max_wait,
        )
        self._max_concurrency = max_concurrency
        self._tick_lock = threading.Lock()

    def check(self) -> None:
        """Raise TeacherError if the client's package or the key is missing."""
        self._service.check()

    def close(self) -> None:
        """Close the connections to the server."""
        self._service.close()

    def figures(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Return the `cost` of counted tokens, or nothing if the prices are not known."""
        cost = self._budget.cost(_tokens(counts))
        return {} if cost is None else {"cost": cost}

    def correct_all(
        self,
        attempts: Sequence[WrongAttempt],
        *,
        spent: Mapping[str, int],
        tick: Callable[[], None],
    ) -> list[Proposals]:
        """Return the proposals for each attempt.

        The counts are `calls`, `cached_calls`, `retries`, `input_tokens`, `output_tokens`, and
        `unlocated` (the answer named no step). Raises TeacherError if the server will not answer.
        """
        self._service.connect()
        ledger = Ledger(self._budget, _tokens(spent))
        stop = threading.Event()
        free_workers = threading.Semaphore(self._max_concurrency)
        out: list[Future[Proposals]] = []

        def correct_one(attempt: WrongAttempt, hold: Hold) -> Proposals:
            try:
                return self._correct(attempt, AttemptState(hold, stop))
            except BaseException:
                stop.set()
                raise
            finally:
                hold.settle()
                free_workers.release()
                self._locked_tick(tick)

        with ThreadPoolExecutor(self._max_concurrency) as pool:
            try:
                for attempt in attempts:
                    # An attempt is admitted only when a worker is free: a queue of admitted
                    # attempts would hold budget that nobody spends.
                    free_workers.acquire()
                    signals.check()
                    if stop.is_set():
                        break
                    hold = ledger.admit(self._bound(attempt))
                    if stop.is_set():
                        break
                    if hold is None:
                        free_workers.release()
                        self._locked_tick(tick)
                        out.append(_over_budget())
                    else:
                        out.append(pool.submit(correct_one, attempt, hold))
            except BaseException:
                stop.set()
                raise
        return _results(out)

    def _locked_tick(self, tick: Callable[[], None]) -> None:
        with self._tick_lock:
            tick()

    def _correct(self, attempt: WrongAttempt, state: AttemptState) -> Proposals:
        """The proposals for one attempt, whatever became of its questions."""
        texts: list[Proposal] = []
        try:
            reason = self._ask_both(attempt, texts, state)
        except OverBudget:
            reason = "over_budget"
        except Unanswered as error:
            self._caller.note_failure(error)
            reason = "failed"

        # Rewrites that came before an error are kept.
        spent = {
            "input_tokens": state.hold.spent.input,
            "output_tokens": state.hold.spent.output,
        }
        return Proposals(texts, "no_proposal" if texts else reason, dict(state.counts) | spent)

    def _ask_both(self, attempt: WrongAttempt, texts: list[Proposal], state: AttemptState) -> str:
        """Ask the two questions and fill `texts`; return the reason if it stays empty."""
        problem, text = attempt
        num_steps = len(lines_of(text))
        step = 0

        # An attempt of one line can only be rewritten from its first line.
        if num_steps > 1:
            question = self._body(self._prompts.asks_to_locate(problem, text))
            located = self._caller.ask(question, 0, state)
            if located.ending == "refusal":
                return "refused"
            found = located_step(located.text, num_steps)
            state.counts["unlocated"] += found is None
            step = found or 0

        question = self._body(self._prompts.asks_to_rewrite(problem, text, step))
        refusals = 0
        for sample in range(self._num_proposals):
            answer = self._caller.ask(question, sample, state)
            if answer.ending == "refusal":
                refusals += 1
                continue
            whole = rewritten(text, step, answer.text)
            if whole is not None:
                texts.append(Proposal(whole, answer.ending == "length"))
        return "refused" if refusals == self._num_proposals else "no_proposal"

    def _body(self, prompt: str) -> dict[str, Any]:
        return self._service.body(self._model, self._prompts.system, prompt, self._settings)

    def _bound(self, attempt: WrongAttempt) -> Tokens:
        """The most that an attempt can cost if no answer is lost."""
        problem, text = attempt
        num_steps = len(lines_of(text))

        # The last step has the number of most digits, and so the longest question.
        question = self._body(self._prompts.asks_to_rewrite(problem, text, num_steps - 1))
        bound = Tokens(
            self._num_proposals * max_input_tokens(question),
            self._num_proposals * self._max_completion_length,
        )
        if num_steps == 1:
            return bound
        question = self._body(self._prompts.asks_to_locate(problem, text))
        return bound + Tokens(max_input_tokens(question), self._max_completion_length)


class OpenAITeacher(EndpointTeacher):
    """A model behind OpenAI's chat API, which vLLM, Ollama, and many hosts offer too."""

    service = OpenAIService


class AnthropicTeacher(EndpointTeacher):
    """One of Anthropic's models."""

    service = AnthropicService


def _results(out: Sequence[Future[Proposals]]) -> list[Proposals]:
    """The results of all attempts; raises the error that ended the run if there is one."""
    errors = [future.exception() for future in out]
    for error in errors:
        # The other attempts were stopped because of this one.
        if error is not None and not isinstance(error, Stopped):
            raise error
    return [future.result() for future in out]


def _over_budget() -> Future[Proposals]:
    """The finished result of an attempt that was not asked."""
    future: Future[Proposals] = Future()
    future.set_result(Proposals(reason="over_budget"))
    return future


def _tokens(counts: Mapping[str, int]) -> Tokens:
    return Tokens(counts.get("input_tokens", 0), counts.get("output_tokens", 0))


def _refuse_secrets(base_url: str, api_key_env: str | None) -> None:
    """Raise ValueError for settings that seem to hold a secret, without showing the secret."""
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(
            "teacher.base_url is no address; it must look like http://localhost:8000/v1"
        )

    # Configurations are written to disk and shown in reports, so they must hold no secret.
    if parts.username or parts.password or parts.query:
        raise ValueError(
            "teacher.base_url holds a user name or a query, and a secret has no place there: put "
            "the key into an environment variable and name that in teacher.api_key_env"
        )
    if api_key_env is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,60}", api_key_env):
        raise ValueError(
            "teacher.api_key_env must be the NAME of an environment variable, in capitals, such "
            "as OPENAI_API_KEY; never the key"
        )


def _request_settings(
    temperature: float | None, limit_field: str, limit: int, options: dict[str, Any] | None
) -> dict[str, Any]:
    """The fields of a request besides the model and the question.

    Raises ValueError for an option that has a setting of its own or would multiply the bill.
    """
    own = {"model", "messages", "system", "stream", "n", "temperature", limit_field}
    taken = sorted(own & set(options or {}))
    if taken:
        raise ValueError(
            f"teacher.options: {', '.join(taken)} cannot be set there; use the settings of teacher"
        )
    settings: dict[str, Any] = {} if temperature is None else {"temperature": temperature}
    return {**settings, limit_field: limit, **(options or {})}


def _refuse_below_one(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"teacher.{name} is {value}; it must be at least 1")
