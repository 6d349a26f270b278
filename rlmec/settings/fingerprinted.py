"""Which settings count in the fingerprint of which stage.

In: the bound settings of a run and the name of a stage. Out: the plain values that can change the
stage's artifact. Defaults of signatures count like values of YAML, because binding adds them to the
node of their target.
"""

from __future__ import annotations

import functools
from typing import Any

from rlmec.settings.schema import RunSettings, as_plain

# The format of weights that are not trained counts wherever a network is used.
WEIGHTS = ("model.dtype", "model.quantization")


# The nodes whose values count in each stage's fingerprint; its parents' nodes count in theirs.
STAGE_NODES = {
    "warmup": ("task", "prompt", "model", "warmup"),
    "sample": ("task", "prompt", "sample", "engine", *WEIGHTS),
    "teach": ("task", "teacher", "teach"),
    "grm": ("prompt", "grm", *WEIGHTS),
    "score": ("prompt", "score", *WEIGHTS),
    "policy": ("policy", "model.lora", *WEIGHTS),
    "evaluate": ("task", "prompt", "evaluate", "engine", *WEIGHTS),
    "report": ("report",),
}


# Keys that change no artifact: hardware, display, places. A judged model counts by its digest. Each
# of several judged tasks counts in its own artifact only. A key that STAGE_NODES names by itself
# counts only there.
IGNORED = (
    "trainer",
    "callbacks",
    "logger",
    "paths",
    "security",
    "seed",
    "stage",
    "resume",
    "ckpt_path",
    "run_name",
    "tags",
    "optimized_metric",
    *("rounds", "warmup.when", "grm.later_steps", "report.each_round"),  # they select artifacts
    *("sample.fresh", "teach.rounds", "policy.imitated_rounds"),  # stages say what they come to
    "evaluate.model",
    "evaluate.attempts",
    "evaluate.against",
    "evaluate.tasks",
    "report.against",  # by the fingerprint of the report that it names
    *("evaluate.text_field", "evaluate.question_field"),
    "export",
    "prune",
    *("engine.tensor_parallel_size", "engine.gpu_memory_utilization"),
    *("engine.max_model_len", "engine.enforce_eager"),
    "model.max_completion_length",  # counts in the stages that take it over
    "model.lora",
    *WEIGHTS,
)


# Keys that count only when they are on. When off, they leave the address of an artifact unchanged.
SWITCHES = {
    "grm": {"label_weight": 0.0},
    "score": {"labels": False, "rewrite_corrected": False},
    "policy": {"corrections": "both"},
}


# Keys of this project's own teachers that change how they ask, not what they answer. The budget is
# not among them, because it decides which attempts get a correction.
ASKING = ("api_key_env", "cache", "max_concurrency", "max_retries", "max_failures")
ASKING += ("timeout", "backoff", "max_wait", "device")


def stage_settings(settings: RunSettings, stage: str) -> dict[str, Any]:
    """The plain values that count in the fingerprint of `stage`, by node."""
    tree = as_plain(settings)
    nodes = {
        name: functools.reduce(lambda at, part: at[part], name.split("."), tree)
        for name in STAGE_NODES[stage]
    }
    for node, _, key in (dotted.partition(".") for dotted in IGNORED):
        if key and node in nodes:
            nodes[node] = {k: v for k, v in nodes[node].items() if k != key}
    for node in SWITCHES.keys() & nodes:
        nodes[node] = {k: v for k, v in nodes[node].items() if SWITCHES[node].get(k, ...) != v}
    if str((nodes.get("teacher") or {}).get("_target_")).startswith("rlmec.teachers."):
        nodes["teacher"] = {k: v for k, v in nodes["teacher"].items() if k not in ASKING}
    return nodes
