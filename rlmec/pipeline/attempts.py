"""Judged attempts of a model at problems, by parts: what `sample` and `evaluate` have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from rlmec.engines.base import Engine, ModelPlace, Sampler
from rlmec.lm.generation import Completion, Decoding
from rlmec.pipeline import models
from rlmec.pipeline.chain import Run, Stage
from rlmec.pipeline.judges import Answer, attempts_of
from rlmec.pipeline.predict import (
    Finish,
    FirstItem,
    Tables,
    predict_parts,
    say_goes_on,
    stopped_between_parts,
)
from rlmec.records import Attempt, Problem
from rlmec.runtime import signals
from rlmec.runtime.display import Bar
from rlmec.settings.build import build
from rlmec.settings.schema import EvaluateSettings, SampleSettings
from rlmec.store.parts import PartFolder
from rlmec.tasks.base import Task
from rlmec.training.policy_module import PolicyModule
from rlmec.training.predict_parts import GenerationPart, cut, part_seed

Keep = Callable[[list[Attempt]], tuple[list[Attempt], dict[str, int]]]


def attempt_parts(
    stage: Stage,
    work: Path,
    model: models.LanguageModel,
    problems: list[Problem],
    decoding: Decoding,
    settings: SampleSettings | EvaluateSettings,
    keep: Keep,
    task: Task | None = None,
    examples: Sequence[Problem] = (),
) -> PartFolder:
    """The finished parts of a stage, each with a table of `attempts`.

    `keep` gets all attempts of a part and returns those to write, with the part's counts. `task`
    judges (by default that of the run); `examples` stand before every problem. Raises
    ValueError where a prompt and its completion do not fit the model's context.
    """
    run, codec, each = stage.run, model.codec, decoding.num_generations
    name = stage.name if stage.round == 1 else f"{stage.name} {stage.round}"  # of the seeds
    judge = task or run.task
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
        kept, counts = keep(attempts_of(judge, codec, answers))
        return {"attempts": (kept, Attempt)}, counts

    def first_item(index: int) -> str:
        return problems[groups[index][0]].id

    folder = PartFolder(work / "parts", len(parts))
    sampler = engine_of(run).sampler(place_of(model, settings.precision))
    if sampler is not None:
        run.ranks.share(
            lambda: _by_sampler(run, stage.title, sampler, parts, folder, finish, first_item)
        )
        return folder
    network = model.network()
    models.fitting_prompts(network, prompts, settings.max_completion_length, stage.title)
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
    return build(run.settings.engine)


def place_of(model: models.LanguageModel, precision: str) -> ModelPlace:
    start = model.settings.model
    revision = start.revision if model.path == start.path else None
    return ModelPlace(model.path, revision, model.codec.end_ids, precision)


def _by_sampler(
    run: Run,
    title: str,
    loading: AbstractContextManager[Sampler],
    parts: Sequence[GenerationPart],
    folder: PartFolder,
    finish: Finish,
    first_item: FirstItem,
) -> None:
    """The missing parts, one after the other, by an engine of its own; on rank 0."""
    missing = folder.missing()
    if not missing:
        return
    done = folder.count - len(missing)
    say_goes_on(run, title, folder, missing, first_item(missing[0]))
    wanted = run.settings.trainer.progress_bar
    bar = Bar(title, folder.count, "parts", wanted=wanted, done=done)
    try:
        with stopped_between_parts(title, folder), loading as sampler:
            for number, index in enumerate(missing, start=done + 1):
                signals.check()
                tables, counts = finish(parts[index], sampler.complete(parts[index]))
                folder.write(index, tables, counts)
                bar.update(number)
    finally:
        bar.close()
