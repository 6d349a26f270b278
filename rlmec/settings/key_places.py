"""Where the configuration files of a run set a key, for error messages.

In: a dotted key and the folders of configuration files. Out: the file and the line. Within a Hydra
program only the files that this run has composed are looked at, because another file may well set
the same key in a way that is right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig

_PACKAGE = re.compile(r"^#\s*@package\s+(\S+)", re.MULTILINE)


def place_of(key: str, config_dirs: Sequence[Path], value: str | None = None) -> str:
    """` (conf/experiment/mine.yaml, line 3)` for the file that sets `key`, experiments first.

    With `value`, only a file that sets this value counts. Empty where no file does, as for a key
    from the command line.
    """
    names = re.sub(r"\[\d+\]", "", key).split(".")
    for path, folder in _files(config_dirs):
        line = _line_of(path, path.relative_to(folder).parent.parts, names, value)
        if line is not None:
            return f" ({path.relative_to(folder.parent)}, line {line})"
    return ""


def _files(config_dirs: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """The configuration files with their folder: those of this run, or all outside of Hydra."""
    chosen = _chosen_names() if HydraConfig.initialized() else None
    found = []
    for folder in config_dirs:
        if chosen is None:
            found += [(path, folder) for path in sorted(folder.rglob("*.yaml"))]
        else:
            paths = (folder / f"{name}.yaml" for name in chosen)
            found += [(path, folder) for path in paths if path.is_file()]

    # An experiment is merged last, so its value is the one in use.
    yield from sorted(found, key=lambda pair: "experiment" not in pair[0].parts)


def _chosen_names() -> list[str]:
    """The files that this run is composed of, as `group/option`, and the primary one."""
    hydra = HydraConfig.get()
    names = []
    for group, option in hydra.runtime.choices.items():
        options = [option] if isinstance(option, str) else list(option or ())
        names += [f"{str(group).partition('@')[0]}/{one}" for one in options]
    return [*names, str(hydra.job.config_name)]


def _line_of(path: Path, group: Sequence[str], names: list[str], value: str | None) -> int | None:
    """The line of a file on which the key is, if the file sets it."""
    try:
        text = path.read_text(encoding="utf-8")
        node: Any = yaml.compose(text)
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError):
        return None

    # The names of a file are below its package, which is its group unless the file says otherwise.
    header = _PACKAGE.search(text)
    package = list(group) if header is None else header.group(1).split(".")
    if package == ["_global_"]:
        package = []
    if names[: len(package)] != package:
        return None

    line = None
    for name in names[len(package) :]:
        if not isinstance(node, yaml.MappingNode):
            return None
        found = next(((k, v) for k, v in node.value if k.value == name), None)
        if found is None:
            return None
        line = found[0].start_mark.line + 1
        node = found[1]
    set_value = node.value if isinstance(node, yaml.ScalarNode) else None
    return line if value is None or set_value == value else None
