"""The model card of an exported model, from what its artifacts say.

In: settings, figures, the command, library versions. Out: Markdown with the front matter that the
hub reads. Places on this machine are left out: of a path its last name stays. A licence is for the
user to choose.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

SAID = {
    "policy": "A policy trained with token-level rewards and minimum-edit corrections.",
    "grm": "A generative reward model: it rewrites a wrong solution with few edits, and its "
    "probability of a solution's tokens is their reward.",
    "model": "A model directory written by RLMEC.",
}
_PATH = re.compile(r"(?<![\w./<])(?:~|\.{1,2})?(?:/[^\s/'\",;{}\[\]()`|]+)+/?")
_HIDDEN = ("paths.", "hydra.", "export.path", "trainer.progress_bar")


def model_card(
    title: str,
    *,
    kind: str = "model",
    base_model: str | None = None,
    prompt: str | None = None,
    settings: Mapping[str, Any] | None = None,
    figures: Mapping[str, Mapping[str, Any]] | None = None,
    overrides: Sequence[str] | None = None,
    versions: Mapping[str, str] | None = None,
) -> str:
    """The text of README.md. `figures` are metrics by stage, of which the numbers are shown;
    `settings` is a nested dict; `overrides` are those of the command line."""
    parts = [_front(base_model), f"# {title}", SAID[kind]]
    parts.append(
        "Method: [arXiv 2401.06081](https://arxiv.org/abs/2401.06081), in the independent "
        "implementation RLMEC. It loads with transformers alone."
    )
    if base_model:
        parts.append(f"Base model: `{placeless(base_model)}`")
    if prompt:
        parts.append(f"## Prompt\n\nFields stand in braces.\n\n```text\n{prompt}\n```")
    if shown := _figures(figures or {}):
        parts.append(f"## Figures\n\n{shown}")
    if settings:
        lines = [f"{key} = {value}" for key, value in _flat(settings)]
        parts.append("## Settings\n\n```text\n" + "\n".join(lines) + "\n```")
    if overrides is not None:
        parts.append(f"## Command\n\n```bash\n{command_line(overrides)}\n```")
    if versions:
        lines = [f"{name} {version}" for name, version in versions.items()]
        parts.append("## Made with\n\n" + ", ".join(lines))
    parts.append("## Licence\n\nNot stated. That of the base model and of the data applies.")
    return "\n\n".join(parts) + "\n"


def command_line(overrides: Sequence[str]) -> str:
    """The command that made the run, without places and without what changes no result."""
    kept = [placeless(o) for o in overrides if not o.lstrip("+~").startswith(_HIDDEN)]
    return shlex.join(["python", "train.py", *kept])


def placeless(text: str) -> str:
    """Paths in a text, absolute or beginning with a dot or ~, cut to their last name. A hub name
    (`owner/name`) stays."""

    def last(match: re.Match[str]) -> str:
        return PurePosixPath(match[0]).name

    key, mark, value = text.partition("=")
    plain = value.strip("'\"") if mark else text
    if plain.startswith(("/", "~/", "./", "../")) and plain.count("\n") == 0:
        return f"{key}={PurePosixPath(plain).name}" if mark else PurePosixPath(plain).name
    return _PATH.sub(last, text)


def _front(base_model: str | None) -> str:
    lines = ["library_name: transformers", "pipeline_tag: text-generation", "tags: [rlmec]"]
    if base_model and re.fullmatch(r"[\w.-]+/[\w.-]+", base_model):
        lines.append(f"base_model: {base_model}")
    return "---\n" + "\n".join(lines) + "\n---"


def _figures(figures: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        f"| {stage} | `{name}` | {value:.4g} |"
        for stage, metrics in figures.items()
        for name, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    return "\n".join(["| stage | figure | value |", "|---|---|---|", *rows]) if rows else ""


def _flat(node: Any, key: str = "") -> list[tuple[str, str]]:
    if isinstance(node, Mapping) and node:
        return [line for k, v in node.items() for line in _flat(v, f"{key}.{k}" if key else str(k))]
    return [(key, placeless(repr(placeless(node) if isinstance(node, str) else node)))]
