"""`stage=export`: artifacts of the chain as a folder for use elsewhere.

In: `export.what` and `export.path`. Out: a folder, written whole: a model directory with its card,
or a table that other trainers read. What it needs is made first, as for every stage.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from rlmec.data.pairs import PairTable
from rlmec.evaluation.harness_task import write_harness_task
from rlmec.export import hub
from rlmec.export.model_card import model_card
from rlmec.export.model_folder import (
    check_target,
    export_model,
    write_folder,
)
from rlmec.export.preferences import (
    WRITERS,
    completions,
    preferences,
    text_columns,
    write_scores,
)
from rlmec.pipeline import models
from rlmec.pipeline.chain import Run, Stage, make
from rlmec.pipeline.pair_records import MAKERS, joined_pairs
from rlmec.prompts import Prompts
from rlmec.settings.binding import ConfigurationError
from rlmec.settings.schema import RunSettings, as_plain
from rlmec.stages import flow
from rlmec.stages.evaluate import judged_problems
from rlmec.store.artifacts import Artifact

Writer = Callable[[Run, Path], Mapping[str, Any]]
LAST = {"policy": "policy", "grm": "grm", "scores": "score"}
"""The last stage that a kind of export needs. Joined pairs need the stages whose corrections count;
`lm_eval_task` needs none."""

JOINED = ("pairs", "completions", "messages")
"""The kinds of export that are made from joined pairs, without their scores."""

NODES = ("task", "model", "sample", "teacher", "teach", "grm", "score", "policy")
"""The nodes of the configuration that a model card shows."""


def last_stage(settings: RunSettings) -> str | None:
    """The last stage of the chain that a run makes; for an export the last one that it needs (None
    if it needs none), for a plan the last one of all."""
    if settings.stage == "plan":
        return flow.STAGES[-1]
    if settings.stage != "export":
        return settings.stage
    if settings.export.what in JOINED:
        return MAKERS[settings.policy.corrections][-1]
    return LAST.get(settings.export.what)


def check_export(settings: RunSettings) -> None:
    """Raises an error for what cannot be written, before anything is made for it."""
    s = settings.export
    if s.path is None:
        raise ConfigurationError("export.path: name the folder to write")
    check_target(Path(s.path))
    if s.hub is not None:
        hub.check_hub(s.hub, dry_run=s.hub_dry_run)


def export(run: Run) -> None:
    """Makes what is exported, writes it to `export.path` and says what was written."""
    s = run.settings.export
    began = time.monotonic()
    target = Path(str(s.path))
    record = WRITE[s.what](run, target)

    counts = {k: v for k, v in record.items() if isinstance(v, int) and k != "format"}
    run.stages.append(
        {
            "name": "export",
            "variant": s.what,
            "made": True,
            "artifact": str(target),
            "rows": record.get("rows", 0),
            "seconds": round(time.monotonic() - began, 2),
            "metrics": counts,
        }
    )
    shown = "".join(f", {name} {value}" for name, value in counts.items())
    run.say(f"export ({s.what}): {target}{shown}")
    if s.hub is not None:
        _push(run, target, s.hub)


def _push(run: Run, target: Path, name: str) -> None:
    s = run.settings.export
    kind: hub.Kind = "model" if s.what in ("policy", "grm") else "dataset"
    if s.hub_dry_run:
        files = hub.shown(hub.files_to_push(target))
        run.say(f"export: would be pushed to the {kind} {name}:\n{files}")
    else:
        address = run.ranks.share(lambda: hub.push(target, name, kind, private=s.hub_private))
        run.say(f"export: pushed to {address}")


def _policy(run: Run, target: Path) -> Mapping[str, Any]:
    return _model(run, flow.rounds(run)[-1].policy, target)


def _grm(run: Run, target: Path) -> Mapping[str, Any]:
    return _model(run, flow.rounds(run)[-1].grm, target)


def _model(run: Run, stage: Stage, target: Path) -> Mapping[str, Any]:
    s = run.settings.export
    kind = stage.name
    artifact = make(stage)

    def write() -> Mapping[str, Any]:
        model = models.of_artifact(artifact, run.settings)
        return export_model(
            model.path,
            target,
            card=_card(run, kind, artifact, target.resolve().name),
            origin=models.origin_of(run.settings, model.codec, kind),
            merge=s.merge,
            dtype=s.dtype,
            record={"source": f"{kind}/{artifact.fingerprint}"},
        )

    return run.ranks.share(write)


def _card(run: Run, kind: str, artifact: Artifact, title: str) -> str:
    """The model card of a policy or a GRM, with the figures of the stages that it was made from."""
    s = run.settings
    plain = as_plain(s)
    figures = {entry["name"]: entry["metrics"] for entry in run.stages if not entry["variant"]}
    base_model = s.model.path
    prompt = s.prompt.policy
    nodes = NODES
    if kind == "policy":
        figures |= _evaluation(run, artifact)
    else:  # the GRM: its training ends before the scores
        base_model = s.grm.model or base_model
        prompt = s.prompt.rewrite
        nodes = NODES[: NODES.index("score")]

    return model_card(
        title,
        kind=kind,
        base_model=base_model,
        prompt=prompt,
        chat=s.prompt.chat,
        settings={name: plain[name] for name in nodes},
        figures=figures,
        overrides=run.overrides,
        versions=artifact.manifest.get("environment", {}).get("libraries"),
    )


def _evaluation(run: Run, policy: Artifact) -> dict[str, Any]:
    """The figures of the policy's evaluation, if it was made already."""
    stage = flow.evaluation(run)
    found = run.store.find(stage.name, stage.fingerprint({"policy": policy}))
    return {} if found is None else {"evaluate": found.metrics}


def _pairs(run: Run, target: Path) -> Mapping[str, Any]:
    as_turns = _as_turns(run)
    both = run.settings.export.right_and_wrong
    rows = partial(preferences, conversational=as_turns, right_and_wrong=both)
    return _rows(run, target, rows, text_columns(("prompt", "chosen", "rejected"), as_turns))


def _completions(run: Run, target: Path) -> Mapping[str, Any]:
    as_turns = _as_turns(run)
    rows = partial(completions, form="turns" if as_turns else "texts")
    return _rows(run, target, rows, text_columns(("prompt", "completion"), as_turns))


def _messages(run: Run, target: Path) -> Mapping[str, Any]:
    rows = partial(completions, form="messages")
    return _rows(run, target, rows, text_columns(("messages",), True))


def _rows(
    run: Run,
    target: Path,
    made: Callable[[PairTable, Prompts, Counter[str]], Iterator[dict[str, Any]]],
    columns: pa.Schema,
) -> Mapping[str, Any]:
    """The joined pairs as rows for another trainer, in a file named by what is exported."""
    s = run.settings.export
    prompts, table = _joined(run)

    def fill(folder: Path) -> Mapping[str, Any]:
        dropped = Counter[str]()
        rows = made(table, prompts, dropped)
        count = WRITERS[s.format](folder / f"{s.what}.{s.format}", rows, columns)
        return {"rows": count, "dropped": dict(dropped)}

    return run.ranks.share(lambda: write_folder(target, s.what, fill))


def _as_turns(run: Run) -> bool:
    wanted = run.settings.export.conversational
    return run.settings.prompt.chat if wanted is None else wanted


def _scores(run: Run, target: Path) -> Mapping[str, Any]:
    _, table = _joined(run)

    def fill(folder: Path) -> Mapping[str, Any]:
        count = write_scores(folder / "scores.parquet", table.pairs)
        return {"rows": count, "dropped": {why: n for why, n in table.dropped.items() if n}}

    return run.ranks.share(lambda: write_folder(target, "scores", fill))


def _lm_eval_task(run: Run, target: Path) -> Mapping[str, Any]:
    """The problems that `stage=evaluate` judges, as a task for lm-evaluation-harness."""
    s = run.settings

    def fill(folder: Path) -> Mapping[str, Any]:
        problems, _ = judged_problems(run, None, trained=False)
        name = f"rlmec_{run.task.name}"
        length = s.evaluate.completion_length
        texts = models.templates(s)
        return {"rows": write_harness_task(folder, name, s.task, problems, texts, length)}

    return run.ranks.share(lambda: write_folder(target, s.export.what, fill))


def _joined(run: Run) -> tuple[Prompts, PairTable]:
    """The pairs as policy training joins them, with its edit weights; from scores they have the
    rewards of its rule, too."""
    found = flow.rounds(run)[-1]
    read: dict[str, Stage] = {"sample": found.sample, "teach": found.teach}
    if last_stage(run.settings) == "score":
        read["score"] = found.score
    parents = {name: make(stage) for name, stage in (found.policy.source.parents | read).items()}
    prompts = found.policy.source.model(parents).prompts
    return prompts, joined_pairs(run, run.settings.policy, parents, prompts.codec.digest)


WRITE: dict[str, Writer] = {
    "policy": _policy,
    "grm": _grm,
    "pairs": _pairs,
    "completions": _completions,
    "messages": _messages,
    "scores": _scores,
    "lm_eval_task": _lm_eval_task,
}
