"""Judged attempts of a model at problems, by parts; for the stages `sample` and `evaluate`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from rlmec.engines.base import Engine, ModelPlace, Sampler
from rlmec.lm.generation import Completion, Decoding
from rlmec.pipeline import models
from rlmec.pipeline.chain import Run, Stage
from rlmec.pipeline.judges import Answer, attempts_of
from rlmec.pipeline.predict import Finish, Tables, make_parts, predict_parts
from rlmec.records import Attempt, Problem
from rlmec.runtime.display import Bar
from rlmec.settings.binding import build
from rlmec.settings.schema import EvaluateSettings, SampleSettings
from rlmec.store.parts import PartFolder
from rlmec.tasks.base import Task
from rlmec.training.policy_module import PolicyModule
from rlmec.training.predict_parts import GenerationPart, cut, part_seed

Count = Callable[[list[Attempt]], dict[str, int]]


def attempt_parts(
    stage: Stage,
    work: Path,
    model: models.LanguageModel,
    problems: list[Problem],
    decoding: Decoding,
    settings: SampleSettings | EvaluateSettings,
    count: Count,
    task: Task | None = None,
    examples: Sequence[Problem] = (),
) -> PartFolder:
    """The finished parts of a stage, each with a table of `attempts`.

    `count` makes the counts of a part from its attempts. `task` judges (default: the run's task).
    `examples` precede every problem in its prompt. Raises ValueError if a prompt and its completion
    do not fit the model's context.
    """
    run = stage.run
    codec = model.codec
    if model.added_ends:
        run.say(
            f"  {stage.title}: completions also end at {', '.join(model.added_ends)}, which the "
            f"chat template puts after an answer; the model's own settings do not name it"
        )
    each = decoding.num_generations
    judge = task or run.task

    # A part's seed depends on the stage's name and the part alone, so that any number of ranks and
    # any interruption give the same completions.
    name = stage.name if stage.round == 1 else f"{stage.name} {stage.round}"
    prompts = [model.prompts.policy(problem, examples) for problem in problems]
    groups = cut(len(problems), settings.part_size)
    parts = [
        GenerationPart(i, [prompts[j] for j in which], decoding, part_seed(settings.seed, name, i))
        for i, which in enumerate(groups)
    ]

    def finish(part: GenerationPart, output: list[Completion]) -> tuple[Tables, dict[str, int]]:
        answers = []
        for at, completion in enumerate(output):
            problem, number = groups[part.index][at // each], at % each
            answers.append(Answer(problems[problem], number, prompts[problem], completion))
        attempts = attempts_of(judge, codec, answers)
        return {"attempts": (attempts, Attempt)}, count(attempts)

    def first_item(index: int) -> str:
        return problems[groups[index][0]].id

    folder = PartFolder(work / "parts", len(parts))

    # An engine with a sampler of its own (vLLM) runs on rank 0; without one the network samples in
    # a predict pass on all ranks.
    sampler = engine_of(run).sampler(place_of(model, settings.precision))
    if sampler is not None:
        run.ranks.share(
            lambda: _sampled_by_engine(run, stage.title, sampler, parts, folder, finish, first_item)
        )
        return folder

    network = model.network()
    models.fitting_prompts(network, prompts, settings.completion_length, stage.title)
    predict_parts(
        run,
        stage.title,
        PolicyModule(network, pad_id=codec.pad_id, end_ids=codec.end_ids),
        parts,
        folder,
        finish,
        precision=settings.precision,
        seed=settings.seed,
        first_item=first_item,
    )
    return folder


def engine_of(run: Run) -> Engine:
    """The engine that the settings name."""
    return build(run.settings.engine)


def place_of(model: models.LanguageModel, precision: str) -> ModelPlace:
    """Where an engine finds the model, and how it must end and compute."""
    start = model.settings.model
    revision = start.revision if model.path == start.path else None
    return ModelPlace(model.path, revision, model.codec.end_ids, precision)


def _sampled_by_engine(
    run: Run,
    title: str,
    loading: AbstractContextManager[Sampler],
    parts: Sequence[GenerationPart],
    folder: PartFolder,
    finish: Finish,
    first_item: Callable[[int], str],
) -> None:
    """Makes the missing parts with an engine's own sampler; on rank 0."""
    if not folder.missing():
        return  # the engine is not loaded for nothing
    bar = Bar(title, folder.count, "parts", wanted=run.settings.trainer.progress_bar)
    with contextlib.closing(bar), loading as sampler:
        make_parts(
            run,
            title,
            folder,
            parts,
            lambda part: finish(part, sampler.complete(part)),
            first_item=lambda part: first_item(part.index),
            passed=lambda part: bar.advance(1),
        )
