"""What the settings name on disk or on the hub, by its content: an address depends on no place.

In: the plain settings of a stage. Out: the settings without places, the places, and the digest of
what is at each. The same content at another place gives the same address, and other content at the
same place gives another one.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlmec.lm.loading import hub_commit
from rlmec.lm.loading_checks import check_folder
from rlmec.lm.lora import BASE, CONFIG, adapter_at
from rlmec.store.fingerprint import directory_digest, file_digest
from rlmec.tasks.rows import PACKED, content_files, files_of

Settings = dict[str, Any]

MODELS = ("grm.model", "model.tokenizer")
"""Settings that name a model or a tokenizer: a directory or a hub name."""

IMPORTED = "sample.path"
"""The setting that names ready-made solutions."""

_PLACE_NAME = re.compile(r"(^|_)(path|file)$")
"""Keys whose value is a place if something has that name."""

_READS_ROWS = ("task", "warmup.task", "sample")
"""Nodes for which, and below which, a folder means the files of rows below it."""


@dataclass
class Contents:
    """Settings with None for every place, the places, and the digest of what is at each.

    `places` and `digests` are by dotted key, such as `task.path`; `digests` has one per split, such
    as `task.path.train`.
    """

    settings: Settings = field(default_factory=dict)
    places: Settings = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)


def contents(settings: Settings) -> Contents:
    """The settings of a stage, split into values and places.

    A place is what `grm.model`, `model.tokenizer` and `sample.path` name. The value of every other
    key `path`, `file`, `..._path` or `..._file` is a place if something has that name; otherwise it
    counts as it is written. Raises FileNotFoundError if what one of the three names does not exist.
    """
    found = Contents()
    found.settings = _split(settings, "", found)
    return found


def _split(node: Settings, above: str, found: Contents) -> Settings:
    """The node with None for its places, which are added to `found`."""
    out: Settings = {}
    for name, value in node.items():
        key = f"{above}.{name}" if above else name
        digests = _digests(key, value, node) if value else {}
        if digests:
            found.places[key] = value
            found.digests |= digests
            out[name] = None
        elif isinstance(value, dict):
            out[name] = _split(value, key, found)
        else:
            out[name] = value
    return out


def _digests(key: str, value: Any, node: Settings) -> dict[str, str]:
    """The digests of what the setting `key` of a node names; empty if it names no place."""
    above, _, name = key.rpartition(".")
    if key in MODELS:
        return {key: model_digest(value, None)}
    if not _PLACE_NAME.search(name):
        return {}
    if isinstance(value, str) and "revision" in node:  # a model, such as that of the local teacher
        return {key: model_digest(value, node["revision"])}
    if key == IMPORTED:
        files_of(value)  # raises FileNotFoundError

    places = {key: value}
    if isinstance(value, dict):
        places = {f"{key}.{split}": place for split, place in value.items()}
    found = {at: place_digest(place, rows=_reads_rows(above)) for at, place in places.items()}
    return {at: digest for at, digest in found.items() if digest is not None}


def _reads_rows(node: str) -> bool:
    """Whether a node, or one around it, reads rows (as `task.tasks.ecqa` of a mixture does)."""
    return any(node == known or node.startswith(f"{known}.") for known in _READS_ROWS)


def place_digest(place: Any, *, rows: bool = False) -> str | None:
    """The digest of a file, a folder, a pattern or a list of these; None for anything else.

    A name counts only as far as it tells how its file is read: the ending of a file, and the path
    of a file within its folder. With `rows` a folder means the files of rows below it, if there are
    any; otherwise it means all files that are not hidden.
    """
    folder = Path(place) if isinstance(place, str) and Path(place).is_dir() else None
    files = content_files(place) if rows or folder is None else []
    if not files:
        return None if folder is None else model_digest(str(place), None)

    named = [
        (_ending(file) if folder is None else Path(file).relative_to(folder).as_posix(), file)
        for file in files
    ]
    lines = "".join(f"{name}\0{file_digest(file)}\n" for name, file in named)
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def _ending(file: str) -> str:
    """The ending that tells how a file is read; how it is packed is seen in its bytes."""
    name = file.lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    return Path(name).suffix


def model_digest(path: str, revision: str | None) -> str:
    """What identifies the content of a model.

    For a local directory it is the digest of its files, for a hub name the commit. For an adapter's
    directory it is the digest of its files and the one of its base model, wherever that is. Raises
    FileNotFoundError for a path that is neither a directory nor like a hub name.
    """
    folder = Path(path)
    if folder.is_dir():
        place = adapter_at(folder)
        if place is None:
            return directory_digest(folder)
        return f"{_adapter_digest(folder)}+{model_digest(place.base, place.revision)}"

    check_folder(path)
    return f"{path}@{hub_commit(path, revision)}"


def _adapter_digest(folder: Path) -> str:
    """The digest of an adapter's files, without the place of its base model."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    for key in ("base_model_name_or_path", "revision"):
        config.pop(key, None)
    files = directory_digest(folder, without=(CONFIG, BASE))
    return hashlib.sha256((files + json.dumps(config, sort_keys=True)).encode()).hexdigest()
