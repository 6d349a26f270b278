"""Folders for use elsewhere: a plain Hugging Face directory of any model of this project.

In: a model directory (weights, or an adapter) and a model card. Out: a folder that loads with
transformers alone: safetensors, tokenizer and chat template, generation settings, README.md, and
`rlmec.json` where the model's prompts are known. A folder appears whole, by one rename.

    python -m rlmec.export.model_folder SOURCE DIR
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from rlmec.export.model_card import model_card
from rlmec.lm.loading import export_network, load_network, tokenizer_of
from rlmec.lm.lora import merged
from rlmec.prompts import Templates
from rlmec.store.atomic import atomic_write_json, atomic_write_text, sync

RECORD = "export.json"
DTYPES = ("float32", "bfloat16", "float16")


def check_target(target: Path) -> None:
    """Raises FileExistsError where something stands that an export would destroy: anything but an
    empty folder or the whole of an earlier export."""
    if not target.exists():
        return
    if not target.is_dir():
        raise FileExistsError(f"export: {target} is a file, not a folder")
    names = _names(target)
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
    if foreign := [name for name in names if name not in known]:
        raise FileExistsError(
            f"export: {target} holds {foreign[0]}, which the earlier export did not write; move it "
            "away or name another folder"
        )


def write_folder(
    target: Path, what: str, fill: Callable[[Path], Mapping[str, Any]]
) -> dict[str, Any]:
    """Has `fill` write into a new folder and puts that in the place of `target` when it is whole.

    `export.json` records what was written and what `fill` returns (counts, the source). Returns
    the record. Raises as `check_target` does.
    """
    check_target(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    own = f"{target.name}.{os.getpid()}"
    new, old = target.parent / f".{own}.tmp", target.parent / f".{own}.old"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    try:
        found = dict(fill(new))
        record = {"format": 1, "what": what, "files": _names(new), **found}
        atomic_write_json(new / RECORD, record)
        for name in _names(new):
            sync(new / name)
        if target.exists():
            target.rename(old)
        new.rename(target)
        sync(target.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    return record


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
    """Writes the model directory `source` to `target`, as `write_folder` does.

    An adapter is put into its base model, or with `merge` off copied as it is. `origin` (default:
    what the source says) tells its prompts. `dtype` is one of DTYPES, by default the one that is
    trained in (float32).
    """
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"export.dtype: {dtype!r} is none of {', '.join(DTYPES)}")

    def fill(folder: Path) -> Mapping[str, Any]:
        if not merge and is_adapter(source):
            shutil.copytree(source, folder, dirs_exist_ok=True)
        else:
            network, tokenizer = loaded_for_export(source)
            if dtype is not None:
                network.to(getattr(torch, dtype))
            export_network(network, tokenizer, folder)
        said = origin or read_origin(Path(source))
        if said is not None:
            write_origin(folder, said)
        atomic_write_text(folder / "README.md", card)
        return record or {}

    return write_folder(target, said_kind(origin, source), fill)


def said_kind(origin: Origin | None, source: str) -> str:
    """What a model is, as far as it is known."""
    found = origin or read_origin(Path(source))
    return found.kind if found else "model"


def is_adapter(source: str) -> bool:
    return (Path(source) / "adapter_config.json").is_file()


def loaded_for_export(source: str) -> tuple[Any, Any]:
    """The whole network and the tokenizer of a model directory; an adapter is merged here."""
    folder = Path(source)
    place = folder.resolve() if folder.exists() or folder.is_absolute() else source
    return merged(load_network(place)), tokenizer_of(source)


def _names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir())


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m rlmec.export.model_folder", description=__doc__
    )
    parser.add_argument("source", help="a model directory, or that of an adapter")
    parser.add_argument("target", type=Path, help="the folder to write")
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights (default: as trained)")
    given = parser.parse_args()
    try:
        card = model_card(Path(given.source).name)
        export_model(given.source, given.target, card=card, dtype=given.dtype)
    except (OSError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")
    print(f"{given.target}: written")


if __name__ == "__main__":
    main()


FILE = "rlmec.json"
FORMAT = 1


@dataclass(frozen=True)
class Origin:
    """What a model of this project was trained as (`kind`: policy or grm), with the templates of
    its prompts, its tokenizer's digest and the longest completion it was asked for."""

    kind: str
    templates: Templates
    tokenizer: str
    max_completion_length: int


def write_origin(folder: Path, origin: Origin) -> None:
    """Writes `rlmec.json` of a model directory."""
    atomic_write_json(folder / FILE, {"format": FORMAT, **asdict(origin)})


def read_origin(folder: Path) -> Origin | None:
    """What `rlmec.json` says, None where there is none; ValueError naming a file it cannot read."""
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
