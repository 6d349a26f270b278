"""`evaluate.py`: models and stored outputs on one or several tasks, side by side.

In: `evaluate.model` or `evaluate.attempts`, `evaluate.against`, `evaluate.tasks`. Out: one artifact
per model and task, so that another task or model makes nothing again; and in the run folder
`table.md`, `table.json`, `accuracy.png`, and per model `results.json` in the layout of
lm-evaluation-harness.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlmec.evaluation.readings import figures
from rlmec.evaluation.stored_outputs import (
    is_stored,
    path_and_field,
    read_stored,
    write_per_problem,
)
from rlmec.lm.loading import check_loadable
from rlmec.lm.loading_checks import check_model
from rlmec.pipeline.chain import Run, make
from rlmec.pipeline.sources import ModelSource
from rlmec.records import Attempt
from rlmec.report.figures import Bar, accuracy_figure, write_png
from rlmec.report.harness_results import harness_results
from rlmec.report.tables import (
    Judgement,
    accuracy_table,
    comparison_table,
    comparisons,
    plain,
    warning_lines,
)
from rlmec.settings.binding import ConfigurationError
from rlmec.settings.schema import EvaluateSettings, as_plain
from rlmec.stages.evaluate import (
    EvaluateStage,
    judged_task,
    judged_tasks,
)
from rlmec.store.artifacts import Artifact
from rlmec.store.atomic import atomic_write_json, atomic_write_text
from rlmec.store.tables import read_table


def judge_all(run: Run) -> list[Judgement]:
    """Judges `evaluate.model` or `evaluate.attempts`, and `evaluate.against`, on every task.

    Raises ConfigurationError if nothing is named, and for stored outputs with several tasks.
    """
    s = run.settings.evaluate
    first = _listed(s.model or s.attempts)
    subjects = [*first, *_listed(s.against)]
    if not first:
        raise ConfigurationError(
            "evaluate.model: name a model directory or hub name to judge, or stored outputs with "
            "evaluate.attempts=FILE"
        )
    tasks: list[str | None] = [*judged_tasks(run)] or [None]
    run.expect(
        *(
            EvaluateStage(ModelSource(run, path=path), name if at else "", task)
            for at, (path, name) in enumerate(zip(subjects, short_names(subjects), strict=True))
            if not is_stored(path)
            for task in tasks
        )
    )
    out = []
    for at, (path, name) in enumerate(zip(subjects, short_names(subjects), strict=True)):
        if s.model is None and at < len(first):
            path_and_field(path)  # refuses what is no file of outputs
        if not is_stored(path):
            out += _judge_model(run, path, name, name if at else "", tasks)
        elif len(tasks) == 1:
            out.append(_judge_stored(run, path, name, tasks[0]))
        else:
            raise ConfigurationError(
                f"{path} holds outputs at one task; evaluate.tasks names {len(tasks)}"
            )
    return out


def check_judged(settings: EvaluateSettings) -> None:
    """Raises an error for a model to be judged that is not there or not whole.

    No weights are read.
    """
    for key, named in (("evaluate.model", settings.model), ("evaluate.against", settings.against)):
        for path in _listed(named):
            if not is_stored(path):
                check_model(path, what=key)
                check_loadable(path, what=key)


def _judge_model(
    run: Run, path: str, name: str, variant: str, tasks: Sequence[str | None]
) -> list[Judgement]:
    """The judgements of a model directory or hub name; says where its prompt is not the run's."""
    source = ModelSource(run, path=path)
    if note := source.prompt_note:
        run.say(f"  {name}: {note}")
    stages = [EvaluateStage(source, variant, task) for task in tasks]
    return [judgement_of(make(stage), name, stage.label) for stage in stages]


def judged_models(run: Run) -> list[str]:
    """The directories and hub names among what is judged; the rest are stored outputs."""
    s = run.settings.evaluate
    named = [*_listed(s.model or s.attempts), *_listed(s.against)]
    return [path for path in named if not is_stored(path)]


def judgement_of(artifact: Artifact, model: str, task: str) -> Judgement:
    """The judgement of a model on a task, from the artifact of its evaluation."""
    prefix = f"eval/{task}/"
    own = {k.removeprefix(prefix): v for k, v in artifact.metrics.items() if k.startswith(prefix)}
    return Judgement(model, task, own, read_table(artifact.file("attempts.parquet"), Attempt))


def _judge_stored(run: Run, path: str, name: str, task_name: str | None) -> Judgement:
    s, task = run.settings.evaluate, judged_task(run, task_name)
    problems = task.problems(s.split)[: s.num_problems]
    run.say_left_out(task)
    passed_over: list[str] = []
    outputs = read_stored(path, task, problems, s.text_field, s.question_field, passed_over)
    if passed_over:
        run.say(
            f"  {name}: {len(passed_over)} rows of other problems are left out, the first: "
            f"{passed_over[0]}"
        )
    tried = len({output.problem_id for output in outputs})
    if tried < len(problems):
        run.say(
            f"  {name}: outputs at {tried} of the {len(problems)} problems; the rest is left out"
        )
    found = figures(outputs, problems, task, s.modes)
    label = task_name or task.name

    shown = run.run_dir / f"outputs_{name.replace('/', '_')}.jsonl"
    run.ranks.share(lambda: write_per_problem(shown, outputs, problems, task))
    run.say(f"  {name}: per problem: {shown}")

    judgement = Judgement(name, label, found, outputs)
    run.stages.append(
        {
            "name": "evaluate",
            "variant": name,
            "round": 1,
            "made": False,
            "artifact": path,
            "rows": len(outputs),
            "seconds": 0.0,
            "metrics": {f"eval/{label}/{key}": value for key, value in found.items()},
            "warnings": warning_lines([judgement]),
        }
    )
    return judgement


def closing_tables(run: Run, judged: Sequence[Judgement]) -> None:
    """Prints the tables and writes them, with the picture and the results files, to the run folder.

    Raises ValueError if two models were judged on other problems of the same task.
    """
    run.ranks.share(lambda: _write(run, judged))


def _write(run: Run, judged: Sequence[Judgement]) -> None:
    """Writes and prints everything; for rank 0."""
    found = comparisons(judged)
    folder = run.run_dir

    text = accuracy_table(judged)
    if found:
        text += "\n" + comparison_table(found)
    text += "".join(f"\n{line}\n" for line in warning_lines(judged))
    run.say_markdown("\n" + text)

    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_text(folder / "table.md", text)
    atomic_write_json(folder / "table.json", plain(judged, found))
    write_png(accuracy_figure(panels_of(judged)), folder / "accuracy.png")

    config = as_plain(run.settings.evaluate)
    for at, model in enumerate(dict.fromkeys(j.model for j in judged)):
        results = harness_results(
            [j for j in judged if j.model == model], run.settings.evaluate.num_fewshot, config
        )
        name = f"results_{model.replace('/', '_')}.json" if at else "results.json"
        atomic_write_json(folder / name, results)

    if len(judged) == 1:
        for name, value in judged[0].figures.items():
            run.say(f"  {name:36} {value:.4g}")
    for entry in run.stages:
        if entry["name"] == "evaluate" and Path(entry["artifact"]).is_dir():
            run.say(f"per problem: {entry['artifact']}/attempts.parquet")
    run.say(f"table, picture and results: {folder}")


def panels_of(judged: Sequence[Judgement]) -> dict[str, list[Bar]]:
    """The bars of the accuracy picture, one panel per task."""
    out: dict[str, list[Bar]] = {}
    for j in judged:
        ends = (j.figures["accuracy_low"], j.figures["accuracy_high"])
        bar = Bar(j.model, j.figures["accuracy"], *ends, int(j.figures["problems"]))
        out.setdefault(j.task, []).append(bar)
    return out


def _listed(value: str | list[str] | None) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else value


def short_names(paths: Sequence[str]) -> list[str]:
    """A short name for each path, different from all others.

    It is the last part of the path that tells something: an artifact's `model` folder is named by
    its stage, FILE:FIELD by the field. A name that occurs again is numbered.
    """
    out: list[str] = []
    for path in paths:
        parts = [part for part in Path(path).parts if part not in ("/", ".")]
        name = "/".join(parts[-3:-1]) if parts[-1] in ("model", "attempts.parquet") else ""
        if is_stored(path) and (field := path_and_field(path)[1]):
            name = field
        name = name or parts[-1]
        taken = sum(other == name or other.startswith(f"{name} (") for other in out)
        out.append(f"{name} ({taken + 1})" if taken else name)
    return out
