"""Loading, making and saving networks.

In: a directory or hub name, or the shape of a new model. Out: a Hugging Face network, and what its
files tell (tokenizer, context length, end ids); or, of a network, a plain Hugging Face directory.
Weights are read from safetensors only, and code of a model's repository is never run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rlmec.lm.loading_checks import (
    TOKENIZER_FILES,
    check_folder,
    check_keys,
    check_vocabulary,
    check_weight_files,
    passing_on,
)
from rlmec.lm.lora import (
    adapter_at,
    is_adapted,
    load_adapter,
    save_adapter,
)
from rlmec.lm.tokenizers import codec, load_tokenizer
from rlmec.prompts import Codec


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
        vocab_size=max(len(tokenizer), *(i + 1 for i in tokenizer.get_vocab().values())),
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
    without a model, or with pickled weights only, and ValueError for weights that are not whole or
    not those of the network (`check_keys`).
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
    network = _loaded(
        path,
        revision=revision,
        dtype=getattr(torch, dtype),
        attn_implementation=attention,
        **_quantized(quantization, dtype),
    )
    if quantization is not None:
        without_packing(network)
    return network


def without_packing(network: Any) -> None:
    """Keeps 4-bit weights in the layout that has a gradient.

    On a CPU with bfloat16 instructions, bitsandbytes (0.50) packs them for inference in the first
    pass in eval mode, and training steps afterwards pass no gradient through them: that of an
    adapter then misses all layers above it, without an error.
    """
    for module in network.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def usual_device() -> str:
    """The device of a network that one process uses by itself: the GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_loadable(path: str | Path, revision: str | None = None, what: str = "") -> None:
    """Raises the errors that `load_network` would raise; no weights are read.

    The message begins with `what`, the setting that names the place.
    """
    place = adapter_at(path)
    if place is not None:
        base = _loaded(place.base, what, revision=place.revision, device_map="meta")
        load_adapter(base, place, trainable=False)
        return
    _loaded(path, what, revision=revision, device_map="meta")


def _loaded(path: str | Path, what: str = "", **arguments: Any) -> Any:
    """The network of a directory or hub name, if its files hold exactly its weights."""
    from transformers import AutoModelForCausalLM

    check_folder(path)
    if Path(path).is_dir():
        check_weight_files(Path(path))

    with passing_on(path):
        # Shapes that differ would raise an error that refers to a hidden log: `check_keys` names
        # them instead.
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **arguments,
        )
    network, report = loaded
    check_keys(f"{what}: {path}" if what else path, report)
    return network


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


def vocabulary_rows(path: str | Path, revision: str | None = None) -> int | None:
    """Rows of the embedding of a model directory, adapter's directory or hub name: ids below it are
    known to the network.

    Only the configuration is read. None if it does not say.
    """
    place = adapter_at(path)
    if place is not None:
        return vocabulary_rows(place.base, place.revision)
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
    return getattr(config.get_text_config(), "vocab_size", None)


def codec_of(
    path: str | Path,
    revision: str | None = None,
    tokenizer: Any = None,
    *,
    turns: bool = False,
    more_end_ids: Sequence[int] = (),
) -> Codec:
    """The codec of a model directory, adapter's directory or hub name, for use with its network.

    `tokenizer` is that of the place, if it is loaded already. `turns` is that of `codec`, and
    `more_end_ids` end completions besides the ids that the model's own settings name. A pad token
    beyond the network's embedding is replaced by the end token. Raises ValueError for any other id
    that sequences can have and that the embedding lacks (`check_vocabulary`).
    """
    own = tokenizer_of(path, revision) if tokenizer is None else tokenizer
    rows = vocabulary_rows(path, revision)
    found = codec(own, (*end_ids(str(path), revision), *more_end_ids), turns=turns)
    if rows is None:
        return found

    check_vocabulary(path, own, rows, [*found.prefix_ids, *found.end_ids])
    # Padding is masked, so that any id that the network knows gives the same.
    return found if found.pad_id < rows else replace(found, pad_id=found.end_id)


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
    """Hides transformers' advice and loading bars.

    What it warns of while it loads a model or a tokenizer is not hidden (`passing_on`).
    """
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
