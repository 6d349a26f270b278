"""The model card of an exported model.

In: settings, figures, the command, versions of libraries. Out: Markdown with the front matter that
the Hugging Face hub reads. Folders of this machine are left out: only the last name of a path is
shown. The card names no licence, because the user must choose one.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from rlmec.runtime.display import markdown_table

DESCRIPTIONS = {
    "policy": "A policy trained with token-level rewards and minimum-edit corrections.",
    "grm": "A generative reward model. It rewrites a wrong solution with few edits, and the "
    "probability that it gives to each token of a solution is the basis of the token's reward.",
    "model": "A model directory written by RLMEC.",
}
# A path that begins with "/", "~", "." or "..", but not the part of a URL or a fraction.
_PATH = re.compile(r"(?<![\w./<])(?:~|\.{1,2})?(?:/[^\s/'\",;{}\[\]()`|]+)+/?")
KEY_FIGURES = {
    "evaluate": {
        r"eval/(?P<task>[^/]+)/accuracy": "accuracy on {task}",
        r"eval/(?P<task>[^/]+)/accuracy_low": "accuracy on {task}, lower end of its 95 % interval",
        r"eval/(?P<task>[^/]+)/accuracy_high": "accuracy on {task}, upper end",
        r"eval/(?P<task>[^/]+)/problems": "problems of {task}",
    },
    "sample": {"sample/accuracy": "right attempts of the start policy, share"},
    "teach": {"teach/accepted": "accepted corrections of the teacher"},
    "grm": {"grm/rewrite_right": "right rewrites of the reward model on its dev problems, share"},
    "score": {"score/accepted": "accepted corrections of the reward model"},
    "policy": {
        "policy/rows": "rows that the policy was trained on",
        "dev/accuracy": "accuracy on dev",
    },
}
"""The figures that a reader looks for, by stage: a pattern of the name, and the figure in words."""

CITATION = """@inproceedings{chen2024rlmec,
  title = {Improving Large Language Models via Fine-grained Reinforcement Learning with Minimum Editing Constraint},
  author = {Chen, Zhipeng and Zhou, Kun and Zhao, Wayne Xin and Wan, Junchen and Zhang, Fuzheng and Zhang, Di and Wen, Ji-Rong},
  booktitle = {Findings of ACL},
  year = {2024},
  note = {arXiv:2401.06081}
}"""  # noqa: E501
"""The paper whose method it is."""

_HIDDEN = ("paths.", "hydra.", "export.path", "trainer.progress_bar", "report.against=")


def model_card(
    title: str,
    *,
    kind: str = "model",
    base_model: str | None = None,
    prompt: str | None = None,
    chat: bool = False,
    settings: Mapping[str, Any] | None = None,
    figures: Mapping[str, Mapping[str, Any]] | None = None,
    overrides: Sequence[str] | None = None,
    versions: Mapping[str, str] | None = None,
) -> str:
    """The text of README.md; a section is left out if its argument is not given.

    `kind` is policy, grm or model. `prompt` is the template of its prompt, as the user's turn of a
    conversation if `chat`. `figures` are metrics by stage: those of KEY_FIGURES are shown in words,
    and all numbers in a section that is folded. `settings` is a nested dict. `overrides` are those
    of the command line.
    """
    parts = [_front_matter(base_model), f"# {title}", DESCRIPTIONS[kind]]
    parts.append(
        "Method: [arXiv 2401.06081](https://arxiv.org/abs/2401.06081), in the independent "
        "implementation RLMEC. The model loads with transformers alone."
    )
    if base_model:
        parts.append(f"Base model: `{placeless(base_model)}`")
    if prompt:
        parts.append(f"## Prompt\n\nNames in braces stand for fields.\n\n```text\n{prompt}\n```")
    if prompt or kind == "grm":
        parts.append(f"## Usage\n\n```python\n{_usage(title, kind, prompt or '', chat)}\n```")
    key = _key_figures(figures or {})
    if key:
        parts.append(f"## Figures\n\n{markdown_table(['figure', 'value'], key)}".rstrip("\n"))
    table = _figures_table(figures or {})
    if table:
        parts.append(f"<details><summary>All figures</summary>\n\n{table}\n\n</details>")
    if settings:
        lines = [f"{key} = {value}" for key, value in _flat(settings)]
        parts.append("## Settings\n\n```text\n" + "\n".join(lines) + "\n```")
    if overrides is not None:
        parts.append(f"## Command\n\n```bash\n{command_line(overrides)}\n```")
    if versions:
        lines = [f"{name} {version}" for name, version in versions.items()]
        parts.append("## Versions\n\n" + ", ".join(lines))
    parts.append(f"## Citation\n\n```bibtex\n{CITATION}\n```")
    parts.append("## Licence\n\nNone is given. The licences of the base model and the data apply.")
    return "\n\n".join(parts) + "\n"


def command_line(overrides: Sequence[str], program: Sequence[str] = ("python", "train.py")) -> str:
    """The command that made the run, without folders and without what does not change a result."""
    kept = [placeless(o) for o in overrides if not o.lstrip("+~").startswith(_HIDDEN)]
    return shlex.join([*program, *kept])


def placeless(text: str) -> str:
    """A text in which every path is cut to its last name.

    A path is absolute or begins with a dot or `~`. A hub name (`owner/name`) stays.
    """
    key, equals, value = text.partition("=")
    whole = value.strip("'\"") if equals else text

    # A value that is one path may contain spaces, so it is not searched for paths.
    if whole.startswith(("/", "~/", "./", "../")) and "\n" not in whole:
        name = PurePosixPath(whole).name
        return f"{key}={name}" if equals else name
    return _PATH.sub(lambda match: PurePosixPath(match[0]).name, text)


def _front_matter(base_model: str | None) -> str:
    lines = ["library_name: transformers", "pipeline_tag: text-generation", "tags: [rlmec]"]
    if base_model and re.fullmatch(r"[\w.-]+/[\w.-]+", base_model):
        lines.append(f"base_model: {base_model}")
    return "---\n" + "\n".join(lines) + "\n---"


def _usage(title: str, kind: str, prompt: str, chat: bool) -> str:
    """Python that uses the model, whose folder is named `title`."""
    if kind == "grm":
        return (
            "import rlmec\n\n"
            f'scored = rlmec.score("{title}", question, attempt, solution=reference)\n'
            "print(list(zip(scored.tokens, scored.probabilities)))"
        )
    asked = f"{prompt!r}.replace('{{question}}', question)"
    if chat:
        asked = f"[{{'role': 'user', 'content': {asked}}}]"
    return (
        "from transformers import pipeline\n\n"
        f'generate = pipeline("text-generation", "{title}")\n'
        f"prompt = {asked}\n"
        'print(generate(prompt, return_full_text=False)[0]["generated_text"])'
    )


def _key_figures(figures: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Rows of KEY_FIGURES, the evaluation first."""
    rows = []
    for stage, patterns in KEY_FIGURES.items():
        for name, value in figures.get(stage, {}).items():
            for pattern, words in patterns.items():
                match = re.fullmatch(pattern, name)
                if match and isinstance(value, int | float):
                    rows.append([words.format(**match.groupdict()), f"{value:.4g}"])
    return rows


def _figures_table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [stage, f"`{name}`", f"{value:.4g}"]
        for stage, metrics in figures.items()
        for name, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    return markdown_table(["stage", "figure", "value"], rows).rstrip("\n") if rows else ""


def _flat(node: Any, key: str = "") -> list[tuple[str, str]]:
    """The leaves of a nested dict with their dotted keys."""
    if isinstance(node, Mapping) and node:
        return [
            leaf
            for name, value in node.items()
            for leaf in _flat(value, f"{key}.{name}" if key else str(name))
        ]
    value = placeless(node) if isinstance(node, str) else node
    return [(key, placeless(repr(value)))]
