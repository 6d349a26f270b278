"""Figures in the layout of the results files of lm-evaluation-harness, for tools that read those.

In: the judgements of one model. Out: plain values with the keys `results`, `n-shot`, `n-samples`,
`higher_is_better` and `configs`. `accuracy` is reported as the harness' strict-match, and
`accuracy_flexible` as its flexible-extract. Prompts, stopping and normal forms are those of this
project, so the values are comparable in kind but need not be equal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rlmec.report.tables import Judgement

NAMES = {
    "gsm8k": "gsm8k_cot_zeroshot",
    "math": "hendrycks_math",
    "arc": "arc_easy",
    "openbookqa": "openbookqa",
    "mmlu": "mmlu",
}
"""Names of tasks in the harness, by the names in this project."""
FEW_SHOT_NAMES = {"gsm8k": "gsm8k"}
FILTERS = {"accuracy": "strict-match", "accuracy_flexible": "flexible-extract"}


def harness_name(task: str, num_fewshot: int = 0) -> str:
    """The name of a task in lm-evaluation-harness, or its own name if the harness has none."""
    few_shot = FEW_SHOT_NAMES.get(task) if num_fewshot else None
    return few_shot or NAMES.get(task, task)


def harness_results(
    judged: Sequence[Judgement], num_fewshot: int, config: Mapping[str, Any]
) -> dict[str, Any]:
    """The results file of one model's judgements, as plain values.

    The standard error is that of a mean of n verdicts, sqrt(p (1 - p) / (n - 1)), as in the
    harness; it is "N/A" for a single problem.
    """
    out: dict[str, Any] = {"results": {}, "n-shot": {}, "n-samples": {}, "higher_is_better": {}}
    out["configs"] = {}
    for j in judged:
        name = harness_name(j.task, num_fewshot)
        count = int(j.figures["problems"])

        row: dict[str, Any] = {"alias": name}
        for figure, kind in FILTERS.items():
            share = j.figures.get(figure)
            if share is not None:
                row[f"exact_match,{kind}"] = share
                row[f"exact_match_stderr,{kind}"] = _standard_error(share, count)

        original = count + int(j.figures["unparsable"])
        out["results"][name] = row
        out["n-shot"][name] = num_fewshot
        out["n-samples"][name] = {"original": original, "effective": count}
        out["higher_is_better"][name] = {"exact_match": True}
        out["configs"][name] = {"task": name, "num_fewshot": num_fewshot, "rlmec_task": j.task}
    return {**out, "model_name": judged[0].model, "config": dict(config)}


def _standard_error(share: float, count: int) -> float | str:
    return math.sqrt(share * (1 - share) / (count - 1)) if count > 1 else "N/A"
