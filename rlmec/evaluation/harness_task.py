"""A task for lm-evaluation-harness whose problems are asked and judged as in this project.

In: the settings of a task, some of its problems, the prompt. Out: a folder with the description of
the task, the problems as JSON lines, and a module that the harness imports from there. It judges
with `HarnessTask`, so that this project must be installed next to the harness.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import yaml

from rlmec.evaluation.lenient_reading import judge_flexible
from rlmec.prompts import Templates, filled
from rlmec.records import Problem
from rlmec.settings.binding import build
from rlmec.store.atomic import atomic_write_json, atomic_write_text

PROBLEMS, TASK, MODULE = "problems.jsonl", "task.json", "rlmec_judge.py"
METRICS = ("accuracy", "accuracy_flexible")

_MODULE = '''"""What lm-evaluation-harness calls for this task. Needs the package rlmec."""

from pathlib import Path

from rlmec.evaluation.harness_task import HarnessTask

_task = HarnessTask(Path(__file__).parent)
problems = _task.problems
judge = _task.judge
'''


def write_harness_task(
    folder: Path,
    name: str,
    task: Mapping[str, Any],
    problems: Sequence[Problem],
    templates: Templates,
    completion_length: int,
) -> int:
    """Writes the task `name` into a folder; returns the number of its problems.

    `task` is the node of the settings that builds the task, from which the judge is built again.
    `completion_length` is the most tokens of a completion.
    """
    asked = [{**asdict(p), "prompt": filled(templates.policy, asdict(p))} for p in problems]
    lines = [json.dumps(row, ensure_ascii=False) for row in asked]
    atomic_write_text(folder / PROBLEMS, "".join(f"{line}\n" for line in lines))
    atomic_write_json(folder / TASK, dict(task))
    atomic_write_text(folder / MODULE, _MODULE)
    atomic_write_text(folder / f"{name}.yaml", _description(name, templates, completion_length))
    atomic_write_text(folder / "README.md", _readme(name, chat=templates.chat))
    return len(problems)


def _description(name: str, templates: Templates, completion_length: int) -> str:
    """The task as the harness reads it. It knows a function by a tag, which is no plain YAML."""
    module = MODULE.removesuffix(".py")
    plain: dict[str, Any] = {
        "task": name,
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{answer}}",
        # Without a text to stop at, the harness would stop at an empty line.
        "generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": completion_length},
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True}
            for metric in METRICS
        ],
    }
    if templates.chat and templates.system:
        plain["description"] = templates.system
    functions = f"custom_dataset: !function {module}.problems\n"
    functions += f"process_results: !function {module}.judge\n"
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True) + functions


def _readme(name: str, *, chat: bool) -> str:
    more = " --apply_chat_template" if chat else ""
    return (
        f"# {name}\n\n"
        "A task for lm-evaluation-harness, with the prompts and the judge of RLMEC. In an "
        "environment with `lm-eval` and `rlmec`:\n\n"
        f"```bash\nlm_eval --model hf --model_args pretrained=MODEL --include_path THIS_FOLDER "
        f"--tasks {name}{more}\n```\n\n"
        "`accuracy` reads an answer where the text states it, `accuracy_flexible` takes the last "
        "one otherwise. Decoding is greedy.\n"
    )


class HarnessTask:
    """The problems and the judge of a folder that `write_harness_task` wrote."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / PROBLEMS
        self._task = build(json.loads((folder / TASK).read_text(encoding="utf-8")))

    def problems(self, **kwargs: Any) -> dict[str, Any]:
        """The problems as a data set with the split `test`; the harness passes its metadata."""
        import datasets

        lines = self.path.read_text(encoding="utf-8").splitlines()
        return {"test": datasets.Dataset.from_list([json.loads(line) for line in lines])}

    def judge(self, row: Mapping[str, Any], completions: Sequence[str]) -> dict[str, float]:
        """The metrics of a problem's first completion: 1.0 where it is right."""
        problem = Problem(**{field.name: row[field.name] for field in fields(Problem)})
        verdicts = (
            self._task.judge(completions[0], problem),
            judge_flexible(self._task, completions[0], problem),
        )
        return dict(zip(METRICS, (float(v == "right") for v in verdicts), strict=True))
