"""Low-rank adapters (LoRA): put on a network, written, read back and merged into its weights.

In: a causal network, or an adapter's directory in peft's layout, which names the model it stands
on. Out: a network whose adapter alone is trained, in float32; with the adapter off it is the model
below. peft is imported when an adapter is asked for.
"""

from __future__ import annotations

import json
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True)
class AdapterPlace:
    """An adapter's directory and the model below it."""

    folder: Path
    base: str
    revision: str | None


def adapter_at(path: str | Path) -> AdapterPlace | None:
    """What `path` says where it is an adapter's directory, None where it is none.

    Raises ValueError where the directory names no model, or holds its weights pickled.
    """
    folder = Path(path)
    if not (folder / CONFIG).is_file():
        return None
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    base = config.get("base_model_name_or_path")
    if not base:
        raise ValueError(f"{folder / CONFIG} names no base_model_name_or_path")
    if config.get("peft_type", "LORA") != "LORA":
        raise ValueError(f"{folder}: an adapter of kind {config['peft_type']}, LORA is expected")
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"{folder}: no {WEIGHTS} here; pickled weights are not loaded")
    return AdapterPlace(folder, str(base), config.get("revision"))


def is_adapted(network: Any) -> bool:
    """Whether a network has an adapter of ours (or of peft) on it."""
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
    """The network with a new adapter, which changes nothing yet; all else is frozen.

    The adapter's weights are float32 and follow from `seed`; the generator is left alone. `base`
    and `revision` name the model in what is written. Raises ValueError where no module has a
    wanted name, or where the adapter would stand on a matrix that head and embedding share.
    """
    peft = _peft()
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
        made = peft.get_peft_model(network, config)
    own = made.peft_config["default"]
    own.base_model_name_or_path, own.revision = base, revision
    return made


def load_adapter(network: Any, place: AdapterPlace, *, trainable: bool) -> Any:
    """The base's network with the adapter of a directory on it, frozen or to be trained."""
    with _quiet():
        return _peft().PeftModel.from_pretrained(network, place.folder, is_trainable=trainable)


def same_lora(
    network: Any,
    *,
    r: int,
    alpha: float,
    dropout: float = 0.0,
    target_modules: list[str] | str = "all-linear",
    rslora: bool = False,
) -> bool:
    """Whether the network's adapter is one that `with_lora` would make with these settings."""
    own = network.peft_config["default"]
    names = _names(network.get_base_model(), target_modules)
    return set(own.target_modules or ()) == set(names) and (
        (own.r, own.lora_alpha, own.lora_dropout, own.use_rslora) == (r, alpha, dropout, rslora)
    )


def merged(network: Any) -> Any:
    """The plain network with the adapter added into its weights; one without an adapter as it is.

    The given network is used up. Its weights must not be quantized: load the base anew for that.
    """
    if not is_adapted(network):
        return network
    with torch.no_grad():
        return network.merge_and_unload()


def save_adapter(network: Any, folder: Path, state: dict[str, torch.Tensor] | None = None) -> None:
    """Writes the adapter alone in peft's layout: configuration and safetensors.

    `state` holds the weights where they are not in the network itself (gathered from shards).
    """
    given = {} if state is None else {"state_dict": state}
    network.save_pretrained(str(folder), save_embedding_layers=False, **given)
    (folder / "README.md").unlink(missing_ok=True)  # a form with nothing filled in
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config["target_modules"].sort()  # from a set: the same adapter has the same bytes
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _refuse_tied(network: Any, target_modules: list[str] | str) -> None:
    if isinstance(target_modules, str):
        return
    head, embedding = network.get_output_embeddings(), network.get_input_embeddings()
    if head is None or embedding is None or head.weight is not embedding.weight:
        return
    for name, module in network.named_modules():
        wanted = any(name == t or name.endswith(f".{t}") for t in target_modules)
        if wanted and module in (head, embedding):
            raise ValueError(
                f"lora.target_modules names {name}, whose matrix head and embedding share: an "
                f"adapter on one of them could not be merged"
            )


def _names(network: Any, target_modules: list[str] | str) -> list[str]:
    """The last names of the modules to adapt; "all-linear" is every matrix but the head's."""
    if target_modules != "all-linear":
        return [target_modules] if isinstance(target_modules, str) else sorted(target_modules)
    head, found = network.get_output_embeddings(), set()
    for name, module in network.named_modules():
        is_matrix = isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
        if is_matrix and module is not head and ".lora_" not in name:
            found.add(name.removesuffix(".base_layer").rpartition(".")[2])
    return sorted(found)


@contextmanager
def _quiet() -> Any:
    """Without peft's remarks on what it corrects by itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to")
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
        yield


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ImportError(
            "model.lora needs the package peft: pip install 'rlmec[lora]' or pip install peft"
        ) from error
    return peft
