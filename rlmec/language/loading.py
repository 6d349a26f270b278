"""Networks: from a directory or hub name, from scratch by shape, and back to a plain directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch


def new_network(shape: dict[str, Any], tokenizer: Any, attention: str, seed: int) -> Any:
    """A causal language model of `shape` at random weights in float32.

    `shape` is the `model_type` and configuration keys of the architecture. Raises ValueError for a
    key that its configuration does not know (Hugging Face would take it in silence).
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
    gradient_checkpointing: bool = False,
) -> Any:
    """A causal language model from safetensors in float32, in eval mode; remote code is never run.

    Raises FileNotFoundError for a local directory without a configuration.
    """
    from transformers import AutoModelForCausalLM

    folder = Path(path)
    if folder.is_absolute() and not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder}: no model here (config.json is missing)")
    network = AutoModelForCausalLM.from_pretrained(
        path,
        revision=revision,
        dtype=torch.float32,
        attn_implementation=attention,
        trust_remote_code=False,
        use_safetensors=True,
    )
    if gradient_checkpointing:
        enable_gradient_checkpointing(network)
    return network


def enable_gradient_checkpointing(network: Any) -> None:
    """Layers are computed again on the way back: less memory, the same gradients."""
    # transformers 5.23 has renamed method and argument, 5.17 knows the old name only
    new_name = getattr(network, "activation_checkpointing_enable", None)
    (new_name or network.gradient_checkpointing_enable)({"use_reentrant": False})


def export_network(network: Any, tokenizer: Any, folder: Path) -> None:
    """Writes a plain Hugging Face directory (safetensors, tokenizer, chat template)."""
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def context_length(network: Any) -> int | None:
    """Positions the network was made for, None where its configuration does not say."""
    return _positions(network.config)


def context_of(path: str | Path, revision: str | None = None) -> int | None:
    """`context_length` of a model directory or hub name, read from its configuration alone."""
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
    """Ids at which the model's own settings end a completion, none where they name none."""
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
    """Leaves out the library's advice and loading bars; warnings of ours are unaffected."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
