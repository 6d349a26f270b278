"""GGUF files as plain model folders.

In: a GGUF file, or one inside an installed package (`pkg://PACKAGE/FILE`). Out: a Hugging Face
folder with float32 weights, made once per content of the file.

Transformers reads the file with the package `gguf`. What it loads is marked as quantized and cannot
be saved as it is, so the weights are copied into a new network of the same configuration.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from rlmec.lm.loading import export_network
from rlmec.store.atomic import atomic_folder, sync_below
from rlmec.store.fingerprint import file_digest

PACKAGE = "pkg://"
FOLDER = "converted"
"""Folder of a store that holds converted models."""


def gguf_file(name: str) -> Path:
    """The file that `model.gguf_file` names.

    Raises FileNotFoundError if the file or the package that should hold it is missing.
    """
    if not name.startswith(PACKAGE):
        path = Path(name).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"model.gguf_file: {path}: no such file")
        return path

    package, _, inside = name.removeprefix(PACKAGE).partition("/")
    found = importlib.util.find_spec(package)
    folders = (found.submodule_search_locations or []) if found else []
    for folder in map(Path, folders):
        if (folder / inside).is_file():
            return folder / inside
    distribution = package.replace("_", "-")
    missing = f"the package {package} has no {inside}" if found else f"no package {package}"
    raise FileNotFoundError(
        f"model.gguf_file={name}: {missing}; pip install gguf, then pip install --no-deps "
        f"{distribution} (its file alone is needed, not what it depends on)"
    )


def converted(name: str, store: Path) -> Path:
    """The plain model folder of a GGUF file, below the store; converted now if it is not there.

    The name of the folder holds the digest of the file. Raises FileNotFoundError as `gguf_file`
    does, ImportError if the package `gguf` is missing.
    """
    file = gguf_file(name)
    folder = store / FOLDER / f"{file.stem}-{file_digest(file)[:12]}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(folder) as work:
            convert(file, work)
            sync_below(work)
    return folder


def convert(file: Path, folder: Path) -> None:
    """Writes the model of a GGUF file as a Hugging Face folder."""
    if importlib.util.find_spec("gguf") is None:
        raise ImportError(f"{file} needs the package gguf: pip install gguf")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(
        file.parent, gguf_file=file.name, trust_remote_code=False
    )
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        dtype=torch.float32,
        trust_remote_code=False,
        use_safetensors=True,
    )
    config = loaded.config
    del config.quantization_config
    config.name_or_path = ""

    with torch.device("meta"):  # no weights are drawn that would be thrown away
        network: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    network.load_state_dict(loaded.state_dict(), assign=True)
    network.tie_weights()
    network.generation_config = loaded.generation_config
    export_network(network, tokenizer, folder)
    for written in ("config.json", "generation_config.json"):
        _drop_version(folder / written)


def _drop_version(path: Path) -> None:
    """Removes the version of transformers, which would change the digest of the folder."""
    content = json.loads(path.read_text(encoding="utf-8"))
    content.pop("transformers_version", None)
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
