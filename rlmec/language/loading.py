"""Networks: from a Hugging Face directory or hub name, from scratch by shape, and back to a plain directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def new_network(shape: dict[str, Any], tokenizer: Any, attention: str, seed: int) -> Any:
    """A causal language model of `shape` at random weights in float32.

    `shape` is the `model_type` and configuration keys of the architecture. Raises ValueError for a key that
    its configuration does not know (Hugging Face would take it in silence).
    """
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    keys = dict(shape)
    model_type = keys.pop("model_type", "llama")
    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"model.shape.model_type: {model_type!r} is not an architecture")
    known = set(CONFIG_MAPPING[model_type]().to_dict())
    if unknown := sorted(set(keys) - known):
        raise ValueError(f"model.shape: {', '.join(unknown)} unknown to {model_type}")
    config = CONFIG_MAPPING[model_type](
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
        network.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False}
        )
    return network


def export_network(network: Any, tokenizer: Any, folder: Path) -> None:
    """Writes a plain Hugging Face directory (safetensors, tokenizer, chat template)."""
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def context_length(network: Any) -> int | None:
    """Positions the network was made for, None where its configuration does not say."""
    config = network.config.get_text_config()
    return getattr(config, "max_position_embeddings", None)


def hub_commit(path: str, revision: str | None) -> str | None:
    """The commit of a hub model's configuration, from the cache or the hub."""
    from transformers.utils.hub import cached_file, extract_commit_hash

    config = cached_file(path, "config.json", revision=revision)
    return extract_commit_hash(str(config), None)


def quiet() -> None:
    """Leaves out the library's advice and loading bars; warnings of ours are unaffected."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
