"""Loading, making and saving networks.

In: a directory or hub name, or the shape of a new model. Out: a Hugging Face network, and what its
files tell (tokenizer, context length, end ids); or, of a network, a plain Hugging Face directory.
Weights are read from safetensors only, and code of a model's repository is never run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rlmec.lm.lora import (
    adapter_at,
    is_adapted,
    load_adapter,
    save_adapter,
)
from rlmec.lm.tokenizers import TOKENIZER_FILES, load_tokenizer


def new_network(shape: dict[str, Any], tokenizer: Any, attention: str, seed: int) -> Any:
    """A causal language model with random weights in float32.

    `shape` has the `model_type` (default: llama) and configuration keys of that architecture.
    Raises ValueError for a key that the configuration does not know; transformers would accept it
    and ignore it.
    """
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    keys = dict(shape)
    model_type = keys.pop("model_type", "llama")
    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"model.shape.model_type: {model_type!r} is not an architecture")
    known = set(CONFIG_MAPPING[model_type]().to_dict())
    if unknown := sorted(set(keys) - known):
        raise ValueError(f"model.shape: {', '.join(unknown)} unknown to {model_type}")

    make: Any = CONFIG_MAPPING[model_type]
    config = make(
        **keys,
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )

    # The weights depend on `seed` alone, and random numbers drawn later do not depend on them.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(
            config, attn_implementation=attention, dtype=torch.float32
        )


def load_network(
    path: str | Path,
    *,
    attention: str = "sdpa",
    revision: str | None = None,
    dtype: str = "float32",
    quantization: str | None = None,
    trainable: bool = False,
) -> Any:
    """A causal language model from safetensors, in eval mode.

    The directory of an adapter gives its base model with the adapter on it, not merged. `dtype` and
    `quantization` ("nf4", "int8") are those of the base model; an adapter is float32. `trainable`
    is whether the adapter is trained further. Raises FileNotFoundError for a local directory
    without a model, or with pickled weights only.
    """
    place = adapter_at(path)
    if place is not None:
        base = load_network(
            place.base,
            attention=attention,
            revision=place.revision,
            dtype=dtype,
            quantization=quantization,
        )
        return load_adapter(base, place, trainable=trainable).eval()
    from transformers import AutoModelForCausalLM

    _check_directory(Path(path))
    return AutoModelForCausalLM.from_pretrained(
        path,
        revision=revision,
        dtype=getattr(torch, dtype),
        attn_implementation=attention,
        trust_remote_code=False,
        use_safetensors=True,
        **_quantized(quantization, dtype),
    )


def _check_directory(folder: Path) -> None:
    """Raises FileNotFoundError if a local directory has no model that may be loaded."""
    local = folder.is_absolute() or folder.is_dir()
    if local and not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder}: no model here (config.json is missing)")
    if local and not any(folder.glob("*.safetensors")):
        pickled = sorted(p.name for p in (*folder.glob("*.bin"), *folder.glob("*.pt")))
        found = f" (found {', '.join(pickled)}: pickled weights can run code)" if pickled else ""
        raise FileNotFoundError(
            f"{folder}: no safetensors here{found}; save the model again with safetensors"
        )


def _quantized(quantization: str | None, dtype: str) -> dict[str, Any]:
    """Arguments of `from_pretrained` that quantize while loading, onto this process's device."""
    if quantization is None:
        return {}
    try:
        import bitsandbytes  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            f"model.quantization={quantization} needs the package bitsandbytes: "
            f"pip install 'rlmec[qlora]' or pip install bitsandbytes"
        ) from error

    from transformers import BitsAndBytesConfig

    kinds = {
        "nf4": {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": getattr(torch, dtype),
        },
        "int8": {"load_in_8bit": True},
    }
    # Quantized weights cannot be moved to another device later.
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
    return {
        "quantization_config": BitsAndBytesConfig(**kinds[quantization]),
        "device_map": {"": device},
    }


def enable_gradient_checkpointing(network: Any) -> None:
    """Makes the backward pass compute layers again: less memory, the same gradients."""
    # transformers 5.23 warns about the name that is the only one in 5.17.
    new_name = getattr(network, "activation_checkpointing_enable", None)
    (new_name or network.gradient_checkpointing_enable)({"use_reentrant": False})


def export_network(
    network: Any,
    tokenizer: Any,
    folder: Path,
    state: dict[str, torch.Tensor] | None = None,
    end_ids: Sequence[int] = (),
) -> None:
    """Writes a plain Hugging Face directory: safetensors, tokenizer, chat template.

    A network with an adapter gives the directory of the adapter. `state` has the weights if the
    network itself does not (they are gathered from shards). `end_ids` are further ids at which
    generation stops.
    """
    _stop_at(network, end_ids)
    if is_adapted(network):
        save_adapter(network, folder, state)
    elif state is None:
        network.save_pretrained(folder)
    else:
        network.save_pretrained(folder, state_dict=state)

    for name in ("is_local", "local_files_only"):  # how it was loaded here does not concern others
        tokenizer.init_kwargs.pop(name, None)
    tokenizer.save_pretrained(folder)


def _stop_at(network: Any, end_ids: Sequence[int]) -> None:
    """Adds ids to those at which the network's generation settings stop."""
    settings = getattr(network, "generation_config", None)
    if settings is None:
        return
    known = settings.eos_token_id
    own = known if isinstance(known, list) else [] if known is None else [known]
    if missing := [id_ for id_ in end_ids if id_ not in own]:
        settings.eos_token_id = [*own, *missing]


def tokenizer_of(path: str | Path, revision: str | None = None) -> Any:
    """The tokenizer of a model directory or hub name; of an adapter's directory without one, the
    tokenizer of the base model."""
    place = adapter_at(path)
    if place is None:
        return load_tokenizer(path, revision)
    if any((place.folder / name).is_file() for name in TOKENIZER_FILES):
        return load_tokenizer(place.folder)
    return load_tokenizer(place.base, place.revision)


def context_length(network: Any) -> int | None:
    """Positions the network was made for, None if its configuration does not say."""
    return _positions(network.config)


def context_of(path: str | Path, revision: str | None = None) -> int | None:
    """`context_length` of a model directory, adapter's directory or hub name. Only its
    configuration is read."""
    place = adapter_at(path)
    if place is not None:
        return context_of(place.base, place.revision)
    from transformers import AutoConfig

    return _positions(AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False))


def _positions(config: Any) -> int | None:
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def hub_commit(path: str, revision: str | None) -> str | None:
    """The commit of a hub model's configuration, from the cache or the hub."""
    from transformers.utils.hub import cached_file, extract_commit_hash

    config = cached_file(path, "config.json", revision=revision)
    return extract_commit_hash(str(config), None)


def end_ids(path: str, revision: str | None) -> tuple[int, ...]:
    """Ids at which a completion ends by the model's own settings; empty if they name none."""
    place = adapter_at(path)
    if place is not None:
        return end_ids(place.base, place.revision)
    from transformers.utils.hub import cached_file

    for name in ("generation_config.json", "config.json"):
        found = cached_file(
            path,
            name,
            revision=revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        text = "{}" if found is None else Path(found).read_text(encoding="utf-8")
        ids = json.loads(text).get("eos_token_id")
        if ids is not None:
            return tuple(ids) if isinstance(ids, list) else (ids,)
    return ()


def quiet() -> None:
    """Hides transformers' advice and loading bars. Warnings of this project are not affected."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
