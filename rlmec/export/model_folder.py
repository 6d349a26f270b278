"""Model folders for use elsewhere: plain Hugging Face directories, and what they record.

In: a model directory (weights, or an adapter) and a model card. Out: a folder that loads with
transformers alone: safetensors, tokenizer and chat template, generation settings, README.md, and
`rlmec.json`, which records the prompts that the model was trained with. A folder appears whole, by
one rename.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from rlmec.lm.loading import end_ids, export_network, load_network, tokenizer_of
from rlmec.lm.lora import merged
from rlmec.lm.tokenizers import codec
from rlmec.prompts import Templates
from rlmec.store.atomic import atomic_folder, atomic_write_json, atomic_write_text, sync_below

# --- what a model was trained as ---

FILE = "rlmec.json"
FORMAT = 1


@dataclass(frozen=True)
class Origin:
    """What a model of this project was trained as.

    `kind` is policy or grm. `templates` are those of its prompts, `tokenizer` is the digest of its
    tokenizer, and `max_completion_length` the longest completion that it was asked for.
    """

    kind: str
    templates: Templates
    tokenizer: str
    max_completion_length: int


def write_origin(folder: Path, origin: Origin) -> None:
    """Write `rlmec.json` into a model directory."""
    atomic_write_json(folder / FILE, {"format": FORMAT, **asdict(origin)})


def read_origin(folder: Path) -> Origin | None:
    """What `rlmec.json` of a directory says; None if there is no such file.

    Raises ValueError that names the file if it cannot be read.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.pop("format") != FORMAT:
            raise ValueError("it was written by another version of this project")
        return Origin(**(found | {"templates": Templates(**found["templates"])}))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"[:300]
        raise ValueError(f"{path} cannot be read: {reason!a}") from error


# --- folders ---

RECORD = "export.json"


def check_target(target: Path) -> None:
    """Raise FileExistsError if an export to `target` would destroy something.

    Only an empty folder and a whole earlier export may be replaced.
    """
    if not target.exists():
        return
    if not target.is_dir():
        raise FileExistsError(f"export: {target} is a file, not a folder")
    names = names_below(target)
    if not names:
        return

    record = target / RECORD
    if not record.is_file():
        raise FileExistsError(
            f"export: {target} is not empty and holds no earlier export; name another folder"
        )
    try:
        known = set(json.loads(record.read_text(encoding="utf-8"))["files"]) | {RECORD}
    except (ValueError, KeyError, TypeError) as error:
        raise FileExistsError(f"export: {record} cannot be read: {error}") from error

    foreign = [name for name in names if name not in known]
    if foreign:
        raise FileExistsError(
            f"export: {target} holds {foreign[0]}, which the earlier export did not write; move it "
            "away or name another folder"
        )


def write_folder(
    target: Path, what: str, fill: Callable[[Path], Mapping[str, Any]]
) -> dict[str, Any]:
    """Have `fill` write into a new folder, and put it in the place of `target`.

    `export.json` records the names of the files and what `fill` returns (counts, the source).
    Returns that record. Raises FileExistsError as `check_target` does. If `fill` raises an
    exception, the earlier folder stays.
    """
    check_target(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(target, replace=True) as folder:
        found = dict(fill(folder))
        record = {"format": 1, "what": what, "files": names_below(folder), **found}
        atomic_write_json(folder / RECORD, record)
        sync_below(folder)
    return record


def names_below(folder: Path) -> list[str]:
    """The relative paths of everything below a folder that is not a folder itself."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir())


# --- models ---

DTYPES = ("float32", "bfloat16", "float16")


def export_model(
    source: str,
    target: Path,
    *,
    card: str,
    origin: Origin | None = None,
    merge: bool = True,
    dtype: str | None = None,
    record: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the model directory `source` to `target`, as `write_folder` does.

    An adapter is merged into its base model; with `merge=False` it is copied as it is. `origin`
    names its prompts (default: what `source` says). `dtype` is one of DTYPES (default: float32, in
    which models are trained).
    """
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"export.dtype: {dtype!r} is none of {', '.join(DTYPES)}")
    found = origin or read_origin(Path(source))

    def fill(folder: Path) -> Mapping[str, Any]:
        if not merge and _is_adapter(source):
            shutil.copytree(source, folder, dirs_exist_ok=True)
        else:
            network, tokenizer = _load_whole(source)
            if dtype is not None:
                network.to(getattr(torch, dtype))
            export_network(network, tokenizer, folder, end_ids=_ends(source, tokenizer, found))
        if found is not None:
            write_origin(folder, found)
        atomic_write_text(folder / "README.md", card)
        return record or {}

    return write_folder(target, found.kind if found else "model", fill)


def _ends(source: str, tokenizer: Any, origin: Origin | None) -> tuple[int, ...]:
    """The ids at which a model that was trained as `origin` says ends a completion."""
    if origin is None:
        return ()
    return codec(tokenizer, end_ids(source, None), turns=origin.templates.chat).end_ids


def _is_adapter(source: str) -> bool:
    return (Path(source) / "adapter_config.json").is_file()


def _load_whole(source: str) -> tuple[Any, Any]:
    """The network and the tokenizer of a model directory; an adapter is merged."""
    folder = Path(source)
    # A local folder is loaded by its absolute path; a hub name must stay as it is.
    place = folder.resolve() if folder.exists() or folder.is_absolute() else source
    return merged(load_network(place)), tokenizer_of(source)
