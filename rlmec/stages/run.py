"""Runs what was asked for: checks, the stages that are needed, the closing lines.

In: bound settings, the ranks, the run folder. Out: artifacts in the store, `summary.json` in the
run folder, and the value of the optimized metric for a sweep.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rlmec.lm.loading import quiet
from rlmec.lm.lora import look_for_bases_at
from rlmec.lm.tokenizers import tokenizer_digest
from rlmec.pipeline import models
from rlmec.pipeline.attempts import engine_of
from rlmec.pipeline.chain import Run, Stage, address_of, make
from rlmec.pipeline.disk_plan import Examples, check_disk, disk_line, row_files
from rlmec.pipeline.early_check import check_buildable, check_machine, precisions
from rlmec.pipeline.import_solutions import solution_file
from rlmec.pipeline.memory_plan import plan_memory
from rlmec.pipeline.run_logs import check_loggers
from rlmec.records import require_same_tokenizer
from rlmec.runtime.display import duration, say
from rlmec.runtime.ranks import Ranks
from rlmec.runtime.store_commands import PLAN, Named
from rlmec.settings.binding import ConfigurationError
from rlmec.settings.ranges import is_mixed
from rlmec.settings.schema import RunSettings, TrainerSettings, as_plain
from rlmec.stages import flow
from rlmec.stages.completion_length import decide_for_judging, decide_for_training, prompt_lengths
from rlmec.stages.evaluate import examples_before, judged_problems, judged_tasks
from rlmec.stages.evaluate_models import (
    check_judged,
    closing_tables,
    judge_all,
    judged_models,
    judgement_of,
)
from rlmec.stages.export import check_export, export, last_stage
from rlmec.stages.report_against import find_other
from rlmec.stages.report_pages import TOKENS_PAGE
from rlmec.stages.teach import check_teacher
from rlmec.stages.warmup import warmup_task
from rlmec.store.artifacts import Artifact
from rlmec.tasks.base import check_references

EXPORT = "export"
"""`stage=export` makes no artifact of its own: it writes what was made to another place."""

_QUIET = (
    r".*does not have many workers.*",
    r".*The number of training batches .* is smaller than the logging interval.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*your dataloader is not resumable.*",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
    r".*GPU available but not used.*",
    r".*Experiment logs directory .* exists.*",
    r".*You have overridden .* in `LightningDataModule`.*",
)


def train(settings: RunSettings, ranks: Ranks, run_dir: Path, overrides: list[str]) -> float | None:
    """Makes the stage that was asked for and everything it needs; returns the optimized metric.

    Before the weights of a finished model are loaded, it says how much memory they will need.
    """
    _check_stage(settings)
    check_loggers(settings)
    models.check_weights(settings)
    settings = ranks.share(lambda: models.with_converted(settings))
    run = _open(settings, ranks, run_dir, overrides)
    until = flow.stages_until(run, last_stage(settings))
    check_buildable(settings, until)
    ranks.share(lambda: models.check_places(settings, until))
    if line := decide_for_training(run):
        run.say(line)
    settings = run.settings

    for line in filter(None, (_not_read(settings, until), _slow_precision(settings, until))):
        run.say(line)
    if settings.model.path is not None or settings.stage == PLAN:
        ranks.share(lambda: _say_plan(run, until))
    if settings.stage == PLAN:
        return None

    if run.task.name in judged_tasks(run):
        raise ConfigurationError(
            f"evaluate.tasks: {run.task.name!r} is the task of training, which is judged anyway"
        )
    run.before_making = check_inputs
    if settings.stage == EXPORT:
        export(run)
        return _close(run)

    asked = flow.stage(run, settings.stage)
    run.asked = asked.title
    run.expect(asked)
    if settings.stage == "evaluate":
        run.expect(*(flow.evaluation(run, task) for task in judged_tasks(run)))
    artifact = make(asked)
    _show(run, artifact)
    return _close(run)


def evaluate(
    settings: RunSettings, ranks: Ranks, run_dir: Path, overrides: list[str]
) -> float | None:
    """Judges the model `evaluate.model`, or stored outputs, on one or several tasks."""
    check_loggers(settings)
    settings = ranks.share(lambda: models.with_converted(settings))
    run = _open(settings, ranks, run_dir, overrides)
    ranks.share(lambda: check_judged(settings.evaluate))
    run.before_making = lambda run: check_machine(run, ["evaluate"])
    if line := decide_for_judging(run, judged_models(run)):
        run.say(line)
    closing_tables(run, judge_all(run))
    return _close(run)


def addresses(settings: RunSettings) -> list[Named]:
    """The addresses of every artifact that the whole chain of a configuration has or will have.

    Parents come before what is made from them. Nothing is made and no artifact is read, but files
    and model directories that count in an address are. Raises FileNotFoundError for a file or a
    model that is not there, ValueError for one that cannot be read.
    """
    settings = models.with_converted(settings)
    _look_for_bases(settings)
    run = Run(settings, Ranks(), Path())
    decide_for_training(run)
    known: dict[tuple[str, str], tuple[Stage, str]] = {}
    address_of(flow.report(run), known)
    return [Named(stage.title, stage.name, address) for stage, address in known.values()]


def _say_plan(run: Run, until: list[str]) -> None:
    """Prints the memory and the disk space that the stages `until` the asked one will need.

    A plan needs neither the problems nor the tokenizer: without them rows count as `max_length`.
    """
    try:
        prompts = prompt_lengths(run)
    except (OSError, ValueError) as error:
        first = str(error).partition("\n")[0] or type(error).__name__
        say(f"the plan counts rows of max_length tokens, because prompts are not known: {first}")
        prompts = None

    s = run.settings
    if s.stage == PLAN:
        run.expect(flow.stage(run, flow.STAGES[-1]))
        for line in artifact_lines(run):
            say(line)
    planned = plan_memory(s, run.ranks.world, until, prompts)
    examples = _examples(run)
    rows = None if examples is None else row_files(s, run.ranks.world, examples, prompts)
    if line := disk_line(planned, s, rows):
        say(line)


def artifact_lines(run: Run) -> list[str]:
    """Which artifacts the stages in `run.order` would reuse, continue or make, and in what time."""
    if not run.expected:
        return ["which artifacts would be made is not known: stage=status says why"]
    lines = ["this run would"]
    for stage in run.order:
        found = run.expected[stage.key]
        time = "unknown time" if found.seconds is None else f"about {duration(found.seconds)}"
        shown = f"{found.what:8}  {stage.title}"
        lines.append(f"  {shown}" if found.what == "reuse" else f"  {shown}, {time}")
    return lines


def _examples(run: Run) -> Examples | None:
    """The numbers of problems and attempts that the fits learn from.

    None if the problems or the imported solutions cannot be read. Imported solutions are counted
    for `stage=plan` alone, because a run reads a million of them in 10 s.
    """
    if run.settings.sample.path is not None and run.settings.stage != PLAN:
        return None
    try:
        return _counted_examples(run)
    except (OSError, ValueError):
        return None


def _counted_examples(run: Run) -> Examples:
    s = run.settings
    learned = 0
    if s.has_warmup:
        learned = len(warmup_task(run).problems("train")[: s.warmup.max_problems])
    problems = run.task.problems("train")[: s.sample.max_problems]
    attempts = len(problems) * s.sample.num_generations
    if s.sample.path is None:
        return Examples(learned, attempts)
    imported = solution_file(run, problems).found().solutions
    return Examples(learned, max(imported, attempts) if s.rounds > 1 else imported)


def _check_stage(settings: RunSettings) -> None:
    """Raises ConfigurationError for a stage that this run cannot have."""
    if settings.stage == EXPORT:
        check_export(settings)
    if settings.sample.fresh and settings.rounds > 1 and settings.sample.max_problems is None:
        raise ConfigurationError(
            "sample.fresh: say with sample.max_problems how many problems each round is to have"
        )
    asked = settings.teach.rounds
    if settings.grm.later_steps is not None and asked is not None and asked < settings.rounds:
        raise ConfigurationError(
            f"grm.later_steps trains the GRM on the teacher's corrections of each round, but the "
            f"teacher corrects in the first {asked} alone (teach.rounds)"
        )
    if settings.stage == "warmup" and not settings.has_warmup:
        raise ConfigurationError(
            "stage=warmup: the model is a finished one; fine-tune it first with warmup=always"
        )


def check_inputs(run: Run) -> None:
    """Looks at what the run will read only later, before anything is made.

    Raises an error for devices or a precision that this machine does not have, an empty split, an
    engine that cannot run here, a finished model whose files do not hold all of its weights, a
    token that a network does not know, a teacher without its key, a chat template that refuses the
    prompt's settings, a GRM with another tokenizer than the policy's, problems to be judged that
    were trained on, and too few problems for few-shot examples. Says where a finished model was
    trained with another prompt.
    """
    s = run.settings
    until = flow.stages_until(run, last_stage(s))
    check_machine(run, until)

    _check_prompt(run)
    if "report" in until:
        find_other(run)

    samples = s.sample.path is None or s.rounds > 1
    if "sample" in until and ("sample", "") not in run.made and samples:
        engine_of(run).check()

    fits = [name for name in ("warmup", "grm", "policy") if name in until]
    check_disk(s, run.ranks.world, [name for name in fits if (name, "") not in run.made])

    _check_problems(run, until)
    run.say_left_out(run.task)

    # A reference that contradicts its gold answer teaches the GRM and the policy what is wrong.
    for line in check_references(run.task, run.task.problems("train")).lines():
        run.say(line)

    if s.model.path is not None:
        _check_finished(run, s.model.path, "model.path")

    if "teach" in until:
        check_teacher(run, [each.teach for each in flow.rounds(run)])

    if "evaluate" in until:
        for name in (None, *judged_tasks(run)):
            problems, _ = judged_problems(run, name, trained=True)
            examples_before(run, name, problems)

    if "grm" in until and s.grm.model is not None:
        start = models.start_tokenizer(s, warmup_task(run).problems("train"))
        _check_finished(run, s.grm.model, "grm.model")
        found = models.LanguageModel(s.grm.model, s).codec.digest
        require_same_tokenizer(tokenizer_digest(start), found, f"grm.model ({s.grm.model})")


def _check_problems(run: Run, until: list[str]) -> None:
    """Raises ValueError for an empty split, and for too few problems for rounds on fresh ones."""
    s = run.settings
    for split in _splits(s, until):
        run.task.problems(split)  # raises if it is empty
    if s.sample.fresh and s.sample.max_problems is not None:
        needed = s.rounds * s.sample.max_problems
        found = len(run.task.problems("train"))
        if needed > found:
            raise ValueError(
                f"sample.fresh: {s.rounds} rounds of {s.sample.max_problems} problems need "
                f"{needed} train problems, and there are {found}"
            )


def _check_finished(run: Run, path: str, what: str) -> None:
    model = models.LanguageModel(path, run.settings)
    for line in models.check_start(model, run.task.problems("train")[0], what):
        run.say(f"  {line}")


def _check_prompt(run: Run) -> None:
    """Says where a finished model was trained with another prompt than this run's.

    Raises ValueError if the model's chat template is missing or refuses the prompt's settings.
    """
    s = run.settings
    for key, path in (("model.path", s.model.path), ("grm.model", s.grm.model)):
        differing = "" if path is None else models.other_prompt_keys(path, s.prompt)
        if differing:
            run.say(
                f"{key}: {path} was trained with another prompt than this run's: {differing} differ"
            )
    if s.model.path is not None:
        _ = models.LanguageModel(s.model.path, s).prompts  # renders a prompt


def _splits(s: RunSettings, until: list[str]) -> list[str]:
    """The splits of the task that the stages up to the last one read."""
    splits = ["train"]
    validates_warmup = s.has_warmup and s.warmup.val_problems
    validates_policy = "policy" in until and s.policy.val_problems
    if validates_warmup or validates_policy:
        splits.append("dev")
    if "evaluate" in until:
        splits.append(s.evaluate.split)
    return splits


def _open(settings: RunSettings, ranks: Ranks, run_dir: Path, overrides: list[str]) -> Run:
    """The job: quiet libraries, its threads, and marks on the artifacts that its settings name."""
    for pattern in _QUIET:
        warnings.filterwarnings("ignore", pattern)
    _quiet_libraries()
    _look_for_bases(settings)

    # Ranks on one machine share its processors.
    threads = settings.trainer.threads
    if threads is None and ranks.world > 1 and settings.trainer.accelerator == "cpu":
        threads = max(1, (os.cpu_count() or 1) // ranks.world)
    if threads is not None:
        torch.set_num_threads(threads)
    run = Run(settings, ranks, run_dir, overrides, torch.get_num_threads())
    if line := _idle_gpu(settings.trainer):
        run.say(line)
    run.uses.hold_mentioned(json.dumps(as_plain(settings), default=str))
    return run


def _idle_gpu(trainer: TrainerSettings) -> str:
    """What to say of a GPU that the run does not use; empty if there is none."""
    if trainer.accelerator != "cpu" or not torch.cuda.is_available():
        return ""
    name = torch.cuda.get_device_name(0)
    return f"this run uses the CPU, not the GPU ({name}): trainer=gpu or trainer=auto takes it"


def _not_read(settings: RunSettings, until: Sequence[str]) -> str:
    """What to say of stages before the policy that are left out; empty without any."""
    missing = [name for name in ("teach", "grm", "score") if name not in until]
    if "policy" not in until or not missing:
        return ""
    line = f"not made, because this method reads nothing of it: {', '.join(missing)}"
    share = settings.teach.share
    if "teach" in until and share < 1:
        line += (
            f"; {1 - share:.0%} of the problems are left uncorrected only to judge a GRM: "
            "teach.share=1 corrects all"
        )
    return line


def _slow_precision(settings: RunSettings, stages: Sequence[str]) -> str:
    """What to say of a finished model in float32 on a CPU that is made for bfloat16, else empty.

    The precision is never changed by itself: results would depend on the machine.
    """
    on_cpu = settings.trainer.accelerator == "cpu" and settings.model.path is not None
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    if not (on_cpu and capabilities.get("amx_bf16")):
        return ""
    found = precisions(settings, stages)  # the score's follows the policy's
    names = [name for name in stages if name in found and name != "score"]
    slow = [name for name in names if not is_mixed(found[name][0])]
    if not slow:
        return ""
    changes = " ".join(f"{name}.precision=bf16-mixed" for name in slow)
    return f"this CPU (AMX) multiplies matrices several times as fast in bfloat16: {changes}"


def _look_for_bases(settings: RunSettings) -> None:
    """An adapter whose base model was moved may find it at `model.path`."""
    if settings.model.path is not None:
        look_for_bases_at(settings.model.path, settings.model.revision)


def _quiet_libraries() -> None:
    quiet()
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _show(run: Run, artifact: Artifact) -> None:
    """The closing table of a report, or the tables of an evaluation."""
    if run.settings.stage == "report":
        run.say_markdown("\n" + artifact.file("table.md").read_text(encoding="utf-8"))
        run.say(f"report: {artifact.file('index.html')}")
        if (page := artifact.path / TOKENS_PAGE).exists():
            run.say(f"token rewards: {page}")
    if run.settings.stage == "evaluate":
        stages = [flow.evaluation(run, task) for task in (None, *judged_tasks(run))]
        judged = [judgement_of(make(stage), flow.MAIN, stage.label) for stage in stages]
        closing_tables(run, judged)


def _close(run: Run) -> Any:
    """Says what was made, writes the summary, and returns the optimized metric."""
    made = [entry for entry in run.stages if entry["made"]]
    if made:
        run.say(
            f"made {len(made)} of {len(run.stages)} artifacts; summary: {run.run_dir}/summary.json"
        )
    elif run.made:
        run.say(f"nothing to do: all {len(run.stages)} artifacts are there already")
    run.write_summary()
    reports = [artifact.path for artifact in run.made.values() if artifact.stage == "report"]
    pictures = [picture for folder in reports for picture in sorted(folder.glob("*.png"))]
    run.logs.log_results(run.stages, pictures)
    return run.metric(run.settings.optimized_metric)
