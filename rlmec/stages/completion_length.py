"""The length limit of completions where the configuration leaves it to the model and the task.

In: settings in which `max_completion_length` may be null, a model's directory, the problems of a
task. Out: settings with a number in each place. The limit is the one that the model was trained for
if its directory says so (`rlmec.json`). Otherwise it follows from the lengths of the reference
solutions. It counts in fingerprints like a number that the user gives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlmec.export.model_folder import FILE, read_origin
from rlmec.lm.tokenizers import codec
from rlmec.pipeline import models
from rlmec.pipeline.chain import Run
from rlmec.pipeline.memory_plan import PromptLengths
from rlmec.pipeline.sources import ModelSource
from rlmec.prompts import Prompts
from rlmec.records import Problem
from rlmec.settings.schema import RunSettings
from rlmec.stages.evaluate import examples_before, judged_task, judged_tasks

NODES = ("sample", "grm", "score", "policy", "evaluate")
"""The nodes that have a `max_completion_length`."""

QUANTILE = 0.99
FACTOR = 1.5
"""The limit is FACTOR times the QUANTILE of the references' lengths: a model writes more words."""

LEAST = 64
MULTIPLE = 16
WITHOUT_REFERENCES = 512
MEASURED = 2000
"""References that are measured at most, spread evenly over the problems."""


class Limit(NamedTuple):
    """A number of tokens, and where it comes from in words."""

    tokens: int
    source: str

    def __str__(self) -> str:
        return f"max_completion_length: {self.tokens} tokens, {self.source}"


def decide_for_training(run: Run) -> str:
    """Replaces each open `max_completion_length` in the settings of a run of the chain.

    Returns a line that says so; empty if all are given.
    """
    if not _open(run.settings):
        return ""
    limit = run.ranks.share(lambda: _for_start(run))
    run.settings = _settled(run.settings, limit)
    return f"{limit}"


def decide_for_judging(run: Run, paths: Sequence[str]) -> str:
    """Replaces each open `max_completion_length` where the models at `paths` are judged.

    All models have the largest of their limits, so that they are compared alike. Returns a line
    that says so; empty if the limit is given, or if no model is judged (stored outputs are).
    """
    if not _open(run.settings) or not paths:
        return ""
    tasks = judged_tasks(run) or [None]
    limit = run.ranks.share(
        lambda: max(_for_judged(run, path, task) for path in paths for task in tasks)
    )
    run.settings = _settled(run.settings, limit)
    return f"{limit}"


def _open(settings: RunSettings) -> list[str]:
    """The nodes whose limit is not decided."""
    return [name for name in NODES if getattr(settings, name).max_completion_length is None]


def _settled(settings: RunSettings, limit: Limit) -> RunSettings:
    """The settings with the limit in every open node."""
    nodes: dict[str, Any] = {
        name: replace(getattr(settings, name), max_completion_length=limit.tokens)
        for name in _open(settings)
    }
    return replace(settings, **nodes)


def _for_start(run: Run) -> Limit:
    """The limit of a chain, from the model that it starts from and its task."""
    s = run.settings
    if s.model.path is not None and (found := recorded_limit(s.model.path)):
        return found

    problems = run.task.problems("train")
    prompts, context = _start(s, problems)
    longest = _prompt_lengths(prompts, problems)

    # The GRM's prompt shows an attempt, which may be as long as the rewrite.
    room = None
    if context is not None:
        room = min(context - longest.policy, (context - longest.rewrite) // 2)
    return derived_limit(_reference_lengths(prompts, problems), room)


def prompt_lengths(run: Run) -> PromptLengths:
    """Tokens of the longest prompts and the longest reference of the training problems.

    Raises OSError or ValueError if the problems or the tokenizer cannot be read.
    """
    problems = run.task.problems("train")
    prompts, _ = _start(run.settings, problems)
    return _prompt_lengths(prompts, problems)


def _for_judged(run: Run, path: str, name: str | None) -> Limit:
    """The limit of a judged model on one task."""
    if found := recorded_limit(path):
        return found

    s = run.settings.evaluate
    model = ModelSource(run, path=path).model({})
    problems = judged_task(run, name).problems(s.split)[: s.num_problems]
    examples = examples_before(run, name, problems)

    room = None
    if model.context is not None:
        asked = [model.prompts.policy(problem, examples) for problem in _longest(problems)]
        room = model.context - max(map(len, asked))
    return derived_limit(_reference_lengths(model.prompts, problems), room)


def recorded_limit(path: str) -> Limit | None:
    """The limit that a model's directory records; None without a record."""
    origin = read_origin(Path(path))
    if origin is None:
        return None
    return Limit(origin.max_completion_length, f"for which {path} was trained ({FILE})")


def derived_limit(lengths: Sequence[int], room: int | None) -> Limit:
    """The limit for references of these lengths (in tokens, with the end token).

    It is FACTOR times their QUANTILE, at least LEAST, rounded up to a multiple of MULTIPLE, and at
    most the `room` that the context leaves (None: no bound).
    """
    if len(lengths):
        length = max(LEAST, FACTOR * float(np.quantile(lengths, QUANTILE)))
        tokens = math.ceil(length / MULTIPLE) * MULTIPLE
        source = (
            f"{FACTOR:g} times the {QUANTILE:.0%} quantile of the lengths of {len(lengths)} "
            f"reference solutions"
        )
    else:
        tokens = WITHOUT_REFERENCES
        source = "because there is no reference solution to measure"

    if room is not None and tokens > room:
        return Limit(max(room, 1), "which the model's context leaves for a completion")
    return Limit(tokens, source)


def _start(s: RunSettings, problems: Sequence[Problem]) -> tuple[Prompts, int | None]:
    """The prompts of the model that a chain starts from, and the tokens that its context has."""
    if s.model.path is None:
        own = codec(models.fresh_tokenizer(s, problems), turns=s.prompt.chat)
        return Prompts(models.templates(s), own), s.model.shape.get("max_position_embeddings")
    model = models.LanguageModel(s.model.path, s)
    return Prompts(models.templates(s), model.codec), model.context


def _prompt_lengths(prompts: Prompts, problems: Sequence[Problem]) -> PromptLengths:
    longest = _longest(problems)
    solutions = [p.solution for p in longest if p.solution is not None]
    return PromptLengths(
        policy=max(len(prompts.policy(problem)) for problem in longest),
        rewrite=max(len(prompts.rewrite(problem, [])) for problem in longest),
        reference=max(map(len, prompts.codec.completions(solutions)), default=0),
    )


def _reference_lengths(prompts: Prompts, problems: Sequence[Problem]) -> list[int]:
    texts = [problem.solution for problem in problems if problem.solution is not None]
    step = -(-len(texts) // MEASURED) or 1  # rounded up
    return [len(ids) for ids in prompts.codec.completions(texts[::step])]


def _longest(problems: Sequence[Problem]) -> list[Problem]:
    """The problems with the longest texts, among which the longest prompt is."""

    def size(problem: Problem) -> int:
        return len(problem.question) + len(problem.solution or "")

    return sorted(problems, key=size, reverse=True)[:32]
