"""Low-rank adapters (LoRA): added to a network, saved, loaded, and merged into its weights.

In: a causal network, or an adapter's directory in peft's layout, which names its base model. Out: a
network of which only the adapter is trained, in float32; with the adapter disabled it is the base
model. peft is imported only when an adapter is asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from torch import nn

from rlmec.lm.loading_checks import check_keys, is_local
from rlmec.store.fingerprint import file_digest

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
BASE = "base_model.json"
"""File next to an adapter that records the content of its base model, and its place relative to
the adapter."""

_OTHER_PLACES: dict[tuple[str, str | None], None] = {}
"""Where else base models may be, in the order in which they were named."""


@dataclass(frozen=True)
class AdapterPlace:
    """An adapter's directory, and the name or path of its base model."""

    folder: Path
    base: str
    revision: str | None


def adapter_at(path: str | Path) -> AdapterPlace | None:
    """The adapter whose directory `path` is, None if it is not an adapter's directory.

    The base model is found by its content (`base_digest`): where the adapter names it, at the same
    place relative to the adapter, or at a place of `look_for_bases_at`. An adapter that records no
    content has its base model where it names it. Raises ValueError if the directory names no base
    model, if no place has its content, or if the adapter is of another kind than LoRA, and
    FileNotFoundError if it has no safetensors.
    """
    folder = Path(path)
    if not (folder / CONFIG).is_file():
        return None
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    base = config.get("base_model_name_or_path")
    if not base:
        raise ValueError(f"{folder / CONFIG} names no base_model_name_or_path")
    if config.get("peft_type", "LORA") != "LORA":
        raise ValueError(f"{folder}: an adapter of kind {config['peft_type']}, not LORA")
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"{folder}: no {WEIGHTS} here; pickled weights are not loaded")
    return AdapterPlace(folder, *_found_base(folder, str(base), config.get("revision")))


def look_for_bases_at(path: str, revision: str | None = None) -> None:
    """Adds a place at which `adapter_at` looks for the base models of adapters, in this process.

    A model at such a place is used only if it has the content that an adapter records.
    """
    _OTHER_PLACES[path, revision] = None


def base_digest(place: str, revision: str | None = None) -> str | None:
    """The sha256 of the names and contents of a base model's configuration and weights.

    None if there is no model at the place, or if a hub model is not in the cache. A process reads a
    file only once, as long as it stays the same.
    """
    folder = Path(place)
    if not folder.is_dir():
        cached = None
        if not is_local(place):
            cached = try_to_load_from_cache(place, "config.json", revision=revision)
        if not isinstance(cached, str):
            return None
        folder = Path(cached).parent

    weights = sorted(folder.glob("*.safetensors"))
    if not weights or not (folder / "config.json").is_file():
        return None
    files = [folder / "config.json", *weights]
    lines = "".join(f"{file.name}\0{file_digest(file)}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _found_base(folder: Path, named: str, revision: str | None) -> tuple[str, str | None]:
    """Place and revision of the base model of the adapter in `folder`, which names it `named`."""
    if not (folder / BASE).is_file():
        return named, revision
    record = json.loads((folder / BASE).read_text(encoding="utf-8"))

    places = [(named, revision)]
    if record["relative"] is not None:
        places.append((os.path.normpath(folder.resolve() / record["relative"]), None))
    places += _OTHER_PLACES
    for place in places:
        if base_digest(*place) == record["digest"]:
            return place

    if not is_local(named):
        return named, revision  # the hub has it, at the recorded commit
    state = "is there with other content" if base_digest(named) else "is not there"
    tried = [place for place, _ in _OTHER_PLACES]
    other = f", and {', '.join(tried)} is not it" if tried else ""
    raise ValueError(
        f"{folder} is an adapter of the base model {named}, which {state}{other}: set model.path "
        "to the place of its base model"
    )


def is_adapted(network: Any) -> bool:
    """Whether a network has an adapter of peft."""
    return hasattr(network, "peft_config") and hasattr(network, "merge_and_unload")


def with_lora(
    network: Any,
    *,
    r: int,
    alpha: float,
    dropout: float = 0.0,
    target_modules: list[str] | str = "all-linear",
    rslora: bool = False,
    seed: int = 0,
    base: str | None = None,
    revision: str | None = None,
) -> Any:
    """The network with a new adapter, which changes no output yet; all other weights are frozen.

    The adapter's weights are float32 and depend on `seed` only; torch's random state is left as it
    is. `base` and `revision` name the base model in a saved adapter. Raises ValueError if no module
    has a wanted name, or if the adapter would change a matrix that head and embedding share.
    """
    peft = _import_peft()
    _refuse_tied(network, target_modules)
    config = peft.LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=_names(network, target_modules),
        use_rslora=rslora,
        fan_in_fan_out=any(type(m).__name__ == "Conv1D" for m in network.modules()),
        task_type="CAUSAL_LM",
    )

    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(seed)
        adapted = peft.get_peft_model(network, config)

    own = adapted.peft_config["default"]
    own.base_model_name_or_path = base
    own.revision = revision
    return adapted


def load_adapter(network: Any, place: AdapterPlace, *, trainable: bool) -> Any:
    """The network of the base model with the adapter of a directory, frozen or trainable.

    Raises ValueError if the names or shapes of its weights are not those of an adapter with its
    settings on this network.
    """
    peft = _import_peft()
    try:
        with _quiet():
            adapted = peft.PeftModel.from_pretrained(network, place.folder, is_trainable=trainable)
            # peft only warns of missing weights and leaves out unexpected ones. To load them again
            # gives the names of both; an adapter is small.
            weights = peft.load_peft_weights(str(place.folder), device="cpu")
            result = peft.set_peft_model_state_dict(adapted, weights)
    except RuntimeError as error:
        if "size mismatch" not in str(error):
            raise
        reason = str(error).partition("size mismatch for ")[2].partition("\n")[0]
        raise ValueError(
            f"{place.folder}: its weights have another shape than {place.base} needs: {reason}"
        ) from error

    missing = [name for name in result.missing_keys if ".lora_" in name]
    check_keys(
        place.folder,
        {
            "missing_keys": missing,
            "unexpected_keys": result.unexpected_keys,
            "mismatched_keys": [],
        },
    )

    # If it is saved again, it names the place at which its base model was found.
    own = adapted.peft_config["default"]
    own.base_model_name_or_path = place.base
    own.revision = place.revision
    return adapted


def same_lora(
    network: Any,
    *,
    r: int,
    alpha: float,
    dropout: float = 0.0,
    target_modules: list[str] | str = "all-linear",
    rslora: bool = False,
) -> bool:
    """Whether the network's adapter has the settings that `with_lora` would give it."""
    own = network.peft_config["default"]
    names = _names(network.get_base_model(), target_modules)
    same_modules = set(own.target_modules or ()) == set(names)
    settings = (own.r, own.lora_alpha, own.lora_dropout, own.use_rslora)
    return same_modules and settings == (r, alpha, dropout, rslora)


def merged(network: Any) -> Any:
    """The plain network with its adapter added into the weights; without an adapter, the network
    itself.

    The given network cannot be used afterwards. Its weights must not be quantized.
    """
    if not is_adapted(network):
        return network
    with torch.no_grad():
        return network.merge_and_unload()


def save_adapter(network: Any, folder: Path, state: dict[str, torch.Tensor] | None = None) -> None:
    """Writes the adapter alone, in peft's layout, and a record of its base model (BASE).

    `state` has the weights if the network itself does not (they are gathered from shards).
    """
    given = {} if state is None else {"state_dict": state}
    network.save_pretrained(str(folder), save_embedding_layers=False, **given)
    (folder / "README.md").unlink(missing_ok=True)  # peft's form, with nothing filled in

    # peft writes a set in any order; the same adapter must have the same bytes.
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config["target_modules"].sort()
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    _record_base(folder, config.get("base_model_name_or_path"), config.get("revision"))


def _record_base(folder: Path, base: str | None, revision: str | None) -> None:
    """Writes the content of an adapter's base model, and its place relative to the adapter."""
    digest = None if base is None else base_digest(base, revision)
    if base is None or digest is None:
        return
    # A store that is moved as a whole keeps its relative places.
    relative = os.path.relpath(Path(base).resolve(), folder.resolve()) if is_local(base) else None
    record = {"digest": digest, "relative": relative}
    (folder / BASE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _refuse_tied(network: Any, target_modules: list[str] | str) -> None:
    """Raises ValueError if the adapter would change a matrix that head and embedding share."""
    if isinstance(target_modules, str):
        return
    head = network.get_output_embeddings()
    embedding = network.get_input_embeddings()
    if head is None or embedding is None or head.weight is not embedding.weight:
        return

    for name, module in network.named_modules():
        wanted = any(name == t or name.endswith(f".{t}") for t in target_modules)
        if wanted and module in (head, embedding):
            raise ValueError(
                f"lora.target_modules names {name}, whose matrix head and embedding share: an "
                f"adapter of one of them could not be merged"
            )


def _names(network: Any, target_modules: list[str] | str) -> list[str]:
    """Last parts of the names of modules to adapt; "all-linear" is all matrices but the head."""
    if target_modules != "all-linear":
        return [target_modules] if isinstance(target_modules, str) else sorted(target_modules)

    head = network.get_output_embeddings()
    found = set()
    for name, module in network.named_modules():
        is_matrix = isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
        if is_matrix and module is not head and ".lora_" not in name:
            found.add(name.removesuffix(".base_layer").rpartition(".")[2])
    return sorted(found)


@contextmanager
def _quiet() -> Any:
    """Hides warnings about what peft corrects by itself, and about what is checked here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to")
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
        # `load_adapter` raises an error instead.
        warnings.filterwarnings("ignore", "Found missing adapter keys")
        # `check_loadable` wants the names alone.
        warnings.filterwarnings("ignore", "for .*: copying from a non-meta parameter")
        yield


def _import_peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ImportError(
            "model.lora needs the package peft: pip install 'rlmec[lora]' or pip install peft"
        ) from error
    return peft
