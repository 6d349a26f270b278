"""A reward model on a user's own text: which tokens of a solution it doubts, what it would say.

In: a GRM's directory (of `stage=grm` or exported) and texts. Out: per-token log-probs, rewards and
places in the text; a rewrite with its edits. No configuration, no task, no disk but the model's.

    import rlmec
    found = rlmec.score("DIR", question, attempt, solution=reference)
    better = rlmec.rewrite("DIR", question, attempt, solution=reference)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlmec.data.grm_rows import rewriting_row
from rlmec.export.model_folder import FILE, read_origin
from rlmec.lm.draft_decoding import rewrite as rewrite_drafts
from rlmec.lm.loading import (
    context_length,
    end_ids,
    load_network,
    tokenizer_of,
)
from rlmec.lm.logprobs import TokenScorer, score_rows
from rlmec.lm.text_edits import (
    Edit,
    Span,
    text_edits,
    token_spans,
)
from rlmec.lm.tokenizers import codec
from rlmec.method.alignment import edit_ratio, edit_script
from rlmec.method.rewards import clipped_probability, no_reward
from rlmec.prompts import Prompts, Templates
from rlmec.records import Problem, require_same_tokenizer

RewardRule = Callable[[np.ndarray, bool, np.ndarray], np.ndarray]
BLIND_TO_EDITS = (clipped_probability, no_reward)
"""Rules that do not look at what a correction removes: they need no rewrite."""


@dataclass(frozen=True)
class Scored:
    """An attempt's tokens, the end token last: n of each.

    `text` is the attempt as the tokenizer gives it back, `spans` are ranges of it, `tokens` the
    text in them; `logprobs` are natural, under the model's rewriting view.
    """

    text: str
    token_ids: list[int]
    tokens: list[str]
    spans: list[Span]
    logprobs: list[float]
    token_rewards: list[float]

    @property
    def probabilities(self) -> list[float]:
        return np.exp(self.logprobs).tolist()


@dataclass(frozen=True)
class Rewritten:
    """What the model says instead. `edit_ratio`: token edits / the longer token count, end tokens
    included. `clipped`: cut at the length limit. `scored` is the attempt."""

    text: str
    edits: list[Edit]
    edit_ratio: float
    clipped: bool
    token_ids: list[int]
    scored: Scored


@dataclass(frozen=True)
class _Example:
    problem: Problem
    is_right: bool
    prompt: list[int]
    ids: list[int]


class RewardModel:
    """A loaded GRM. Its methods take one attempt, or lists of the same length (a single question,
    solution or answer stands for all) and then give a list."""

    def __init__(self, network: Any, prompts: Prompts, max_completion_length: int = 512) -> None:
        self.net = TokenScorer(network).eval()
        self.prompts, self.max_completion_length = prompts, max_completion_length

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        templates: Templates | None = None,
        device: str | None = None,
        revision: str | None = None,
    ) -> RewardModel:
        """From a directory or hub name, in float32; `device` is a GPU where there is one.

        The prompts are those it was trained with, as its `rlmec.json` says. Raises ValueError where
        there is none and no `templates` are given, or where the tokenizer is another one.
        """
        place, origin = str(model), read_origin(Path(model))
        own = codec(tokenizer_of(place, revision), end_ids(place, revision))
        if origin is not None:
            require_same_tokenizer(own.digest, origin.tokenizer, f"{Path(model) / FILE}")
        found = templates or (origin.templates if origin else None)
        if found is None:
            raise ValueError(
                f"{model}: there is no {FILE}, which says what prompts it was trained with; "
                "give templates=rlmec.Templates(...)"
            )
        network = load_network(place, revision=revision)
        network.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        longest = origin.max_completion_length if origin else 512
        return cls(network, Prompts(found, own), longest)

    @torch.no_grad()
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
        """A `Scored`: the probability of every token under the rewriting prompt, and its reward.

        The prompt needs a reference `solution`, or an `answer` alone. `is_right` is your verdict,
        which a rule may depend on: the method punishes in wrong attempts and rewards in right ones.
        A rule that looks at edits costs a rewrite of every wrong attempt.
        """
        examples = self._examples(question, attempt, solution, answer, is_right)
        rule = getattr(reward, "func", reward)
        if rule not in BLIND_TO_EDITS and any(not e.is_right for e in examples):
            out = [r.scored for r in self._rewritten(examples, reward, self.max_completion_length)]
        else:
            rows = [
                rewriting_row(self.prompts, e.problem, e.ids, e.ids, e.problem.id) for e in examples
            ]
            values = score_rows(self.net, rows, self.prompts.codec.pad_id) if rows else []
            out = [
                self._scored(e, v, reward, np.zeros(len(v), dtype=bool))
                for e, v in zip(examples, values, strict=True)
            ]
        return out[0] if isinstance(attempt, str) else out

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
        """A `Rewritten`: the greedy rewrite with its edits, and the attempt's scores from the same
        passes.

        The rewrite is the model's opinion: whether it is right is for you to judge. It has at most
        `max_completion_length` tokens (default: what the model was trained for), and what the
        model's context leaves.
        """
        examples = self._examples(question, attempt, solution, answer, is_right)
        limit = max_completion_length or self.max_completion_length
        out = self._rewritten(examples, reward, limit)
        return out[0] if isinstance(attempt, str) else out

    def _rewritten(
        self, examples: list[_Example], reward: RewardRule, limit: int
    ) -> list[Rewritten]:
        own, context = self.prompts.codec, context_length(self.net.network)
        if not examples:
            return []
        if context is not None:
            limit = min(limit, context - max(len(e.prompt) for e in examples))
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
            ids = done.completion.ids
            script = edit_script(example.ids, ids)
            removed = np.zeros_like(script.removed) if example.is_right else script.removed
            scored = self._scored(example, done.draft_logprobs, reward, removed)
            text, spans = self._spans(ids)
            edits = text_edits(scored.text, scored.spans, text, spans, script.opcodes)
            ratio = edit_ratio(example.ids, ids)
            out.append(Rewritten(text, edits, ratio, done.completion.clipped, ids, scored))
        return out

    def _scored(
        self, example: _Example, logprobs: list[float], reward: RewardRule, removed: np.ndarray
    ) -> Scored:
        text, spans = self._spans(example.ids)
        values = np.asarray(logprobs, dtype=np.float32)  # [n]
        rewards = reward(values, example.is_right, removed)
        tokens = [text[start:end] for start, end in spans]
        return Scored(text, example.ids, tokens, spans, list(logprobs), rewards.tolist())

    def _spans(self, ids: list[int]) -> tuple[str, list[Span]]:
        """As `token_spans`, an end token being an empty range at the end."""
        own = self.prompts.codec
        inner = own.without_end(ids)
        text, spans = token_spans(inner, own.decode)
        return text, spans + [(len(text), len(text))] * (len(ids) - len(inner))

    def _examples(
        self, question: Any, attempt: Any, solution: Any, answer: Any, is_right: Any
    ) -> list[_Example]:
        attempts = [attempt] if isinstance(attempt, str) else list(attempt)
        given = {"question": question, "solution": solution, "answer": answer, "is_right": is_right}
        columns = {name: _spread(name, value, len(attempts)) for name, value in given.items()}
        out = []
        for i, text in enumerate(attempts):
            fields = {name: column[i] for name, column in columns.items()}
            problem = self._problem(i, fields["question"], fields["solution"], fields["answer"])
            ids = self.prompts.codec.completion(text)
            prompt = self.prompts.rewrite(problem, ids)
            out.append(_Example(problem, bool(fields["is_right"]), prompt, ids))
        self._check_lengths(out)
        return out

    def _problem(
        self, number: int, question: str, solution: str | None, answer: str | None
    ) -> Problem:
        t = self.prompts.templates
        template = t.rewrite if solution is not None else t.rewrite_answer_only
        if answer is None and (solution is None or "{answer}" in template):
            raise ValueError(
                f"attempt {number}: the prompt needs a reference solution or an answer"
                if solution is None
                else f"attempt {number}: the model's prompt names the answer, and none is given"
            )
        return Problem(f"attempt {number}", question, answer or "", solution)

    def _check_lengths(self, examples: list[_Example]) -> None:
        limit = context_length(self.net.network)
        for e in examples:
            needed = len(e.prompt) + len(e.ids)
            if limit is not None and needed > limit:
                raise ValueError(
                    f"{e.problem.id}: its rewriting prompt has {len(e.prompt)} tokens, {needed} "
                    f"with the attempt behind it, but the model's context is {limit}"
                )


def _spread(name: str, value: Any, count: int) -> list[Any]:
    if value is None or isinstance(value, str | bool):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"{len(value)} values of {name} for {count} attempts")
    return list(value)


@functools.lru_cache(maxsize=2)
def _loaded(place: str, changed: int) -> RewardModel:
    return RewardModel.load(place)


def _model(model: str | Path | RewardModel) -> RewardModel:
    """A loaded model as it is; of a directory the one loaded before, unless it was changed."""
    if isinstance(model, RewardModel):
        return model
    folder = Path(model)
    files = [p for p in folder.iterdir() if p.is_file()] if folder.is_dir() else []
    return _loaded(str(model), max((p.stat().st_mtime_ns for p in files), default=0))


def score(model: str | Path | RewardModel, question: Any, attempt: Any, **how: Any) -> Any:
    """`RewardModel.score` of a directory; the last two directories stay loaded."""
    return _model(model).score(question, attempt, **how)


def rewrite(model: str | Path | RewardModel, question: Any, attempt: Any, **how: Any) -> Any:
    """`RewardModel.rewrite` of a directory; the last two directories stay loaded."""
    return _model(model).rewrite(question, attempt, **how)
