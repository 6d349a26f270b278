"""A reward model on texts of your own: which tokens of a solution it doubts, and its rewrite.

In: the directory of a reward model (GRM), from `stage=grm` or exported, and texts. Out: for each
token its log-prob, its reward and its place in the text; a rewrite with its edits. No configuration
and no task are needed, and the only files that are read are those of the model.

Example:

    import rlmec

    question, attempt = "Ann has 2 pens and buys 4.", "2 + 4 = 7. The answer is 7."
    scored = rlmec.score("exports/grm", question, attempt, answer="6")
    for token, reward in zip(scored.tokens, scored.token_rewards):
        print(repr(token), reward)  # the tokens of the wrong sum get negative rewards

    rewritten = rlmec.rewrite("exports/grm", question, attempt, answer="6")
    print(rewritten.text)  # the model's correction
    print([edit for edit in rewritten.edits if edit.kind != "kept"])
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, TypeVar, Unpack, overload

import numpy as np
import torch
from torch import nn

from rlmec.data.grm_rows import rewriting_row
from rlmec.export.model_folder import FILE, read_origin
from rlmec.lm.draft_decoding import rewrite as rewrite_drafts
from rlmec.lm.loading import codec_of, context_length, load_network, usual_device
from rlmec.lm.loading_checks import check_model
from rlmec.lm.logprobs import TokenScorer, score_rows
from rlmec.lm.token_texts import Edit, Span, text_edits, token_spans
from rlmec.method.alignment import edit_ratio, edit_script
from rlmec.method.rewards import (
    RewardRule,
    accepted_arguments,
    clipped_probability,
    no_reward,
)
from rlmec.prompts import Prompts, Templates
from rlmec.records import Problem, require_same_tokenizer

T = TypeVar("T")
Many = list[T] | tuple[T, ...]
"""One value per attempt."""
BLIND_TO_EDITS = (clipped_probability, no_reward)
"""Rules that do not use what a correction removes, so that they need no rewrite."""
DEFAULT_LENGTH = 512
"""The longest rewrite in tokens if the model's directory does not name its own."""


@dataclass(frozen=True)
class Scored:
    """The n tokens of an attempt, the end token last.

    - `text`: the attempt as the tokenizer decodes it.
    - `token_ids`, `tokens`, `spans`: per token its id, its text, and its range in `text`.
    - `logprobs`: per token the log-prob (nats) under the model's rewriting prompt.
    - `token_rewards`: per token the reward.
    """

    text: str
    token_ids: list[int]
    tokens: list[str]
    spans: list[Span]
    logprobs: list[float]
    token_rewards: list[float]

    @property
    def probabilities(self) -> list[float]:
        """Per token the probability under the model's rewriting prompt."""
        return np.exp(self.logprobs).tolist()


@dataclass(frozen=True)
class Rewritten:
    """The model's rewrite of an attempt.

    - `text`, `token_ids`: the rewrite.
    - `edits`: what is kept, deleted and inserted, in order.
    - `edit_ratio`: token edits over the larger number of tokens, end tokens included.
    - `clipped`: whether the rewrite was cut off at the length limit.
    - `scored`: the attempt's scores.
    """

    text: str
    edits: list[Edit]
    edit_ratio: float
    clipped: bool
    token_ids: list[int]
    scored: Scored


class ScoreOptions(TypedDict, total=False):
    """The keyword arguments of `score`; see `RewardModel.score`."""

    solution: str | Many[str] | Many[str | None] | None
    answer: str | Many[str] | Many[str | None] | None
    is_right: bool | Many[bool]
    reward: RewardRule


class RewriteOptions(ScoreOptions, total=False):
    """The keyword arguments of `rewrite`; see `RewardModel.rewrite`."""

    max_completion_length: int | None


@dataclass(frozen=True)
class _Example:
    """One attempt with all that belongs to it; `ids` end with the end token."""

    problem: Problem
    is_right: bool
    prompt: list[int]
    ids: list[int]


class RewardModel:
    """A loaded reward model.

    The methods take one attempt and return one result, or take a list of attempts and return a list
    of results. With a list of attempts, each other argument is a list of the same length, or one
    value for all attempts. ValueError is raised if the lengths differ.
    """

    def __init__(
        self,
        network: nn.Module,
        prompts: Prompts,
        max_completion_length: int = DEFAULT_LENGTH,
    ) -> None:
        self.net = TokenScorer(network).eval()
        self.prompts = prompts
        self.max_completion_length = max_completion_length

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        templates: Templates | None = None,
        device: str | None = None,
        revision: str | None = None,
    ) -> RewardModel:
        """A model from a directory or a hub name, in float32.

        `device` is a GPU by default if there is one. The prompts are those that the model was
        trained with, from its `rlmec.json`, or `templates`. Raises ValueError if there are neither,
        if the tokenizer is not the one that the model was trained with, or if the weights are not
        those of the network, and FileNotFoundError if there is no whole model.
        """
        place = str(model)
        check_model(place, revision)
        origin = read_origin(Path(model))
        found = templates or (origin.templates if origin else None)
        turns = found is not None and found.chat
        own = codec_of(place, revision, turns=turns)
        if origin is not None:
            require_same_tokenizer(own.digest, origin.tokenizer, f"{Path(model) / FILE}")
        if found is None:
            raise ValueError(
                f"{model}: there is no {FILE}, which names the prompts that the model was trained "
                "with; give templates=rlmec.Templates(...)"
            )

        network = load_network(place, revision=revision)
        network.to(device or usual_device())
        longest = origin.max_completion_length if origin else DEFAULT_LENGTH
        return cls(network, Prompts(found, own), longest)

    @overload
    def score(self, question: str, attempt: str, **options: Unpack[ScoreOptions]) -> Scored: ...

    @overload
    def score(
        self, question: str | Many[str], attempt: Many[str], **options: Unpack[ScoreOptions]
    ) -> list[Scored]: ...

    def score(
        self,
        question: Any,
        attempt: Any,
        *,
        solution: Any = None,
        answer: Any = None,
        is_right: Any = False,
        reward: RewardRule = clipped_probability,
    ) -> Any:
        """The log-prob of every token of an attempt under the rewriting prompt, and its reward.

        The prompt needs a reference `solution`, or the `answer` alone. `is_right` is your verdict
        on the attempt: the method punishes tokens of wrong attempts and rewards tokens of right
        ones. A rule that uses edits (`rlmec.method.rewards.edit_labels`) costs a rewrite of every
        wrong attempt. Raises ValueError if the model's context is too short, or if the rule needs
        log-probs of a policy (`old_logprobs`), which a reward model does not have.
        """
        ids = self._ids(attempt)
        examples = self._examples(question, ids, solution, answer, is_right)
        out = self._scores(examples, reward)
        return out[0] if isinstance(attempt, str) else out

    def score_ids(
        self,
        question: str | Many[str],
        attempt_ids: Sequence[Sequence[int]],
        *,
        solution: str | Many[str] | Many[str | None] | None = None,
        answer: str | Many[str] | Many[str | None] | None = None,
        is_right: bool | Many[bool] = False,
        reward: RewardRule = clipped_probability,
    ) -> list[Scored]:
        """`score` of attempts that are given as token ids, such as another trainer samples them.

        Ids are those of the model's own tokenizer, without the prompt. They are scored as they are:
        one value per id, and an attempt that was cut off has no end token. The other arguments, and
        errors, are those of `score`; ValueError is raised for an attempt without ids, too.
        """
        ids = [list(one) for one in attempt_ids]
        return self._scores(self._examples(question, ids, solution, answer, is_right), reward)

    @overload
    def rewrite(
        self, question: str, attempt: str, **options: Unpack[RewriteOptions]
    ) -> Rewritten: ...

    @overload
    def rewrite(
        self, question: str | Many[str], attempt: Many[str], **options: Unpack[RewriteOptions]
    ) -> list[Rewritten]: ...

    def rewrite(
        self,
        question: Any,
        attempt: Any,
        *,
        solution: Any = None,
        answer: Any = None,
        is_right: Any = False,
        reward: RewardRule = clipped_probability,
        max_completion_length: int | None = None,
    ) -> Any:
        """The greedy rewrite of an attempt with its edits, and the attempt's scores.

        The rewrite is the model's opinion: whether it is right is for you to judge. It has at most
        `max_completion_length` tokens (by default what the model was trained for), and not more
        than the model's context allows. The other arguments are those of `score`.
        """
        _check_rule(reward)
        ids = self._ids(attempt)
        examples = self._examples(question, ids, solution, answer, is_right)
        limit = max_completion_length or self.max_completion_length
        out = self._rewritten(examples, reward, limit)
        return out[0] if isinstance(attempt, str) else out

    @torch.no_grad()
    def _scores(self, examples: list[_Example], reward: RewardRule) -> list[Scored]:
        _check_rule(reward)
        rule = getattr(reward, "func", reward)  # the function of a functools.partial
        if rule not in BLIND_TO_EDITS and any(not e.is_right for e in examples):
            rewritten = self._rewritten(examples, reward, self.max_completion_length)
            return [r.scored for r in rewritten]

        rows = [
            rewriting_row(self.prompts, e.problem, e.ids, e.ids, e.problem.id) for e in examples
        ]
        values = score_rows(self.net, rows, self.prompts.codec.pad_id) if rows else []
        return [
            self._scored(example, logprobs, reward, np.zeros(len(logprobs), dtype=bool), None)
            for example, logprobs in zip(examples, values, strict=True)
        ]

    def _rewritten(
        self, examples: list[_Example], reward: RewardRule, limit: int
    ) -> list[Rewritten]:
        if not examples:
            return []
        own = self.prompts.codec
        context = context_length(self.net.network)
        if context is not None:
            limit = min(limit, context - max(len(e.prompt) for e in examples))

        # The attempt is the draft, so its log-probs come from the same forward passes.
        made = rewrite_drafts(
            self.net.network,
            [e.prompt for e in examples],
            [e.ids for e in examples],
            limit,
            end_ids=own.end_ids,
            pad_id=own.pad_id,
        )

        out = []
        for example, done in zip(examples, made, strict=True):
            ids = self.prompts.codec.as_written(done.completion.ids)
            script = edit_script(example.ids, ids)
            # A right attempt has nothing that a correction should change.
            removed = np.zeros_like(script.removed) if example.is_right else script.removed
            first_edit = None if example.is_right else script.first_edit
            scored = self._scored(example, done.draft_logprobs, reward, removed, first_edit)
            text, spans = self._spans(ids)
            edits = text_edits(scored.text, scored.spans, text, spans, script.opcodes)
            ratio = edit_ratio(example.ids, ids)
            out.append(Rewritten(text, edits, ratio, done.completion.clipped, ids, scored))
        return out

    def _scored(
        self,
        example: _Example,
        logprobs: list[float],
        reward: RewardRule,
        removed: np.ndarray,
        first_edit: int | None,
    ) -> Scored:
        text, spans = self._spans(example.ids)
        values = np.asarray(logprobs, dtype=np.float32)  # [n]
        more = accepted_arguments(reward, first_edit=first_edit)
        rewards = reward(values, example.is_right, removed, **more)
        tokens = [text[start:end] for start, end in spans]
        return Scored(text, example.ids, tokens, spans, list(logprobs), rewards.tolist())

    def _spans(self, ids: list[int]) -> tuple[str, list[Span]]:
        """The text of ids and the range of each; an end token is an empty range at the end."""
        own = self.prompts.codec
        inner = own.without_end(ids)
        text, spans = token_spans(inner, own.decode)
        return text, spans + [(len(text), len(text))] * (len(ids) - len(inner))

    def _ids(self, attempt: Any) -> list[list[int]]:
        """The ids of one attempt's text or of several, each with an end token."""
        texts = [attempt] if isinstance(attempt, str) else list(attempt)
        return self.prompts.codec.completions(texts)

    def _examples(
        self,
        question: Any,
        attempts: Sequence[list[int]],
        solution: Any,
        answer: Any,
        is_right: Any,
    ) -> list[_Example]:
        questions = _per_attempt("question", question, len(attempts))
        solutions = _per_attempt("solution", solution, len(attempts))
        answers = _per_attempt("answer", answer, len(attempts))
        verdicts = _per_attempt("is_right", is_right, len(attempts))

        out = []
        for i, ids in enumerate(attempts):
            if not ids:
                raise ValueError(f"attempt {i}: no token ids")
            problem = self._problem(i, questions[i], solutions[i], answers[i])
            prompt = self.prompts.rewrite(problem, ids)
            out.append(_Example(problem, bool(verdicts[i]), prompt, ids))
        self._check_lengths(out)
        return out

    def _problem(
        self, number: int, question: str, solution: str | None, answer: str | None
    ) -> Problem:
        if solution is None and answer is None:
            raise ValueError(
                f"attempt {number}: the prompt needs a reference solution or an answer"
            )
        if answer is None and "{answer}" in self.prompts.templates.rewrite:
            raise ValueError(f"attempt {number}: the model's prompt names the answer; give answer=")
        return Problem(f"attempt {number}", question, answer or "", solution)

    def _check_lengths(self, examples: list[_Example]) -> None:
        context = context_length(self.net.network)
        for e in examples:
            needed = len(e.prompt) + len(e.ids)
            if context is not None and needed > context:
                raise ValueError(
                    f"{e.problem.id}: its rewriting prompt has {len(e.prompt)} tokens, and "
                    f"{needed} with the attempt, but the model's context is {context}"
                )


def _check_rule(reward: RewardRule) -> None:
    """Raises ValueError if a rule, or a rule that it changes, needs what a reward model lacks."""
    for rule in _with_inner(reward):
        parameter = inspect.signature(rule).parameters.get("old_logprobs")
        if parameter is not None and parameter.default is inspect.Parameter.empty:
            name = getattr(getattr(rule, "func", rule), "__name__", repr(rule))
            raise ValueError(
                f"reward={name} needs old_logprobs, the log-probs of the attempt under the policy, "
                "which a reward model does not have: choose another rule, or bind them with "
                "functools.partial"
            )


def _with_inner(reward: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """A rule, and the rules that it is given as its settings."""
    yield reward
    for value in getattr(reward, "keywords", {}).values():
        if callable(value):
            yield from _with_inner(value)


def _per_attempt(name: str, value: Any, count: int) -> list[Any]:
    """One value per attempt; a single value counts for all attempts."""
    if value is None or isinstance(value, str | bool):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"{len(value)} values of {name} for {count} attempts")
    return list(value)


# --- functions that keep models loaded ---


@functools.lru_cache(maxsize=2)
def _loaded(place: str, changed: int) -> RewardModel:
    return RewardModel.load(place)


def _model(model: str | Path | RewardModel) -> RewardModel:
    """The model itself, or the one of a directory, which is loaded again only if it was changed."""
    if isinstance(model, RewardModel):
        return model
    folder = Path(model)
    files = [p for p in folder.iterdir() if p.is_file()] if folder.is_dir() else []
    return _loaded(str(model), max((p.stat().st_mtime_ns for p in files), default=0))


@overload
def score(
    model: str | Path | RewardModel,
    question: str,
    attempt: str,
    **options: Unpack[ScoreOptions],
) -> Scored: ...


@overload
def score(
    model: str | Path | RewardModel,
    question: str | Many[str],
    attempt: Many[str],
    **options: Unpack[ScoreOptions],
) -> list[Scored]: ...


def score(
    model: str | Path | RewardModel, question: Any, attempt: Any, **options: Unpack[ScoreOptions]
) -> Any:
    """Score attempts with a model, a directory or a hub name, as `RewardModel.score` does.

    The last two directories stay loaded. Example:

        scored = rlmec.score("exports/grm", "What is 2 + 4?", "2 + 4 = 7", answer="6")
        print(min(scored.token_rewards))
    """
    return _model(model).score(question, attempt, **options)


@overload
def rewrite(
    model: str | Path | RewardModel,
    question: str,
    attempt: str,
    **options: Unpack[RewriteOptions],
) -> Rewritten: ...


@overload
def rewrite(
    model: str | Path | RewardModel,
    question: str | Many[str],
    attempt: Many[str],
    **options: Unpack[RewriteOptions],
) -> list[Rewritten]: ...


def rewrite(
    model: str | Path | RewardModel, question: Any, attempt: Any, **options: Unpack[RewriteOptions]
) -> Any:
    """Rewrite attempts with a model, a directory or a hub name, as `RewardModel.rewrite` does.

    The last two directories stay loaded. Example:

        rewritten = rlmec.rewrite("exports/grm", "What is 2 + 4?", "2 + 4 = 7", answer="6")
        print(rewritten.text, rewritten.edit_ratio)
    """
    return _model(model).rewrite(question, attempt, **options)
