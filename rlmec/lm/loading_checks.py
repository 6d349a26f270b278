"""Checks that a loaded model is what its files say, and that its files can be loaded at all.

In: the place of a model as the user named it, and what transformers reports of a loading. Out: an
error that names the place and what is wrong, or nothing. `check_model` reads names and headers of
files only, so it can run before anything costly.
"""

from __future__ import annotations

import difflib
import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")

_HARMLESS = re.compile(r"(^v_head\.)|((rotary_emb\.inv_freq|position_ids|masked_bias)$)")
"""Weights that a language model may leave out: value heads, and buffers that code computes."""

_WRAPPERS = {
    "_orig_mod.": "torch.compile",
    "module.": "DistributedDataParallel",
    "_fsdp_wrapped_module.": "FSDP",
    "_checkpoint_wrapped_module.": "a wrapper for gradient checkpointing",
    "base_model.model.": "peft, with the adapter still on the network",
}
_OTHER_HEADS = ("score.", "classifier.", "regression_head.", "value_head.", "reward_head.")

_ADVICE = (
    "LOAD REPORT",  # `check_keys` has the same, as an error
    "`tokenizer_class` is",  # the backend of tokenizer.json is used either way
    "clean_up_tokenization_spaces",  # `codec` never cleans up
    "with a model not initialized on GPU",  # the network is moved there after loading
)
"""Warnings of transformers while it loads that need not be passed on."""


# --- places ---


def is_local(path: str | Path) -> bool:
    """Whether a model's place is a path and not the name of a model on the hub.

    A hub name has at most one slash, and its first part is not a folder here.
    """
    text = str(path)
    parent = text.rpartition("/")[0]
    return (
        Path(text).is_absolute()
        or text.startswith((".", "~"))
        or text.count("/") > 1
        or Path(text).exists()
        or (parent != "" and Path(parent).is_dir())
    )


def check_folder(path: str | Path, what: str = "") -> None:
    """Raises FileNotFoundError if a place that `is_local` is no folder.

    The message begins with `what`, the setting that names the place, and ends with the nearest name
    that exists.
    """
    folder = Path(path)
    if not is_local(path) or folder.is_dir():
        return
    prefix = f"{what}: " if what else ""
    kind = "is a file, not a folder" if folder.exists() else "no such folder"
    raise FileNotFoundError(f"{prefix}{path}: {kind}{_nearest(folder)}")


def _nearest(path: Path) -> str:
    """A suggestion for a path that does not exist: the most similar name next to its first missing
    part."""
    missing = path.absolute()
    while not missing.parent.exists():
        missing = missing.parent
    folder = missing.parent
    if missing.exists() or not folder.is_dir():
        return ""

    names = [entry.name for entry in folder.iterdir() if entry.is_dir()]
    found = difflib.get_close_matches(missing.name, names, n=1)
    return f"; did you mean {folder / found[0]}?" if found else f"; {folder} has no {missing.name}"


def check_model(path: str | Path, revision: str | None = None, what: str = "") -> None:
    """Raises an error if there is no whole model at a place.

    A folder needs config.json, safetensors and a tokenizer; the folder of an adapter needs its two
    files. A hub name must be in the cache, or the hub must know it. Raises FileNotFoundError that
    names what is missing, and ValueError for a file of weights that is cut off.
    """
    check_folder(path, what)
    prefix = f"{what}: " if what else ""
    folder = Path(path)
    if not folder.is_dir():
        _check_hub_name(str(path), revision, prefix)
        return

    if (folder / "adapter_config.json").is_file():
        if not (folder / "adapter_model.safetensors").is_file():
            raise FileNotFoundError(
                f"{prefix}{folder}: no adapter_model.safetensors here; pickled weights are not "
                "loaded"
            )
        check_headers(folder)
        return

    check_weight_files(folder, prefix)
    check_tokenizer_files(folder, prefix)


def check_weight_files(folder: Path, prefix: str = "") -> None:
    """Raises FileNotFoundError if a folder has no configuration or not all of its safetensors, and
    ValueError if one of them is cut off."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{prefix}{folder}: no model here (config.json is missing)")

    if not any(folder.glob("*.safetensors")):
        pickled = sorted(p.name for p in (*folder.glob("*.bin"), *folder.glob("*.pt")))
        found = f" (found {', '.join(pickled)}: pickled weights can run code)" if pickled else ""
        raise FileNotFoundError(
            f"{prefix}{folder}: no safetensors here{found}; save the model again with safetensors"
        )

    index = folder / "model.safetensors.index.json"
    if index.is_file() and not (folder / "model.safetensors").is_file():
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        missing = sorted({name for name in named if not (folder / name).is_file()})
        if missing:
            raise FileNotFoundError(
                f"{prefix}{folder}: {missing[0]} is missing ({len(missing)} of {len(set(named))} "
                f"files that {index.name} names)"
            )
    check_headers(folder)


def check_headers(folder: Path) -> None:
    """Raises ValueError for a safetensors file of a folder whose size is not what its header says.
    No weights are read."""
    from safetensors import SafetensorError, safe_open

    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, "pt"):
                pass
        except SafetensorError as error:
            raise ValueError(
                f"{file} has {file.stat().st_size} bytes and is not whole ({error}); copy or "
                "download it again"
            ) from error


def check_tokenizer_files(folder: Path, prefix: str = "") -> None:
    """Raises FileNotFoundError if a folder has no file of a tokenizer."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise FileNotFoundError(
            f"{prefix}{folder}: no tokenizer here (expected one of {', '.join(TOKENIZER_FILES)})"
        )


def _check_hub_name(name: str, revision: str | None, prefix: str) -> None:
    """Raises FileNotFoundError if a hub name is neither in the cache nor known to the hub."""
    from huggingface_hub import constants, model_info, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        if isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
            return
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set and the model is not in the cache")
        # Not `cached_file`, which tries again for 20 seconds before it gives up.
        model_info(name, revision=revision, timeout=10)
    except Exception as error:  # every client library has its own kinds
        if isinstance(error, HFValidationError):
            reason = "it cannot be a hub name"
        else:
            reason = str(error).strip().partition("\n")[0][:200]
        raise FileNotFoundError(
            f"{prefix}{name}: there is no folder of this name here{_nearest_if_any(name)}, and it "
            f"cannot be had from the hub ({type(error).__name__}: {reason})"
        ) from error


def _nearest_if_any(name: str) -> str:
    found = _nearest(Path(name))
    return found if "did you mean" in found else ""


# --- what transformers reports ---


def check_keys(path: str | Path, report: Mapping[str, Any]) -> None:
    """Raises ValueError if a network and the weights in its files do not have the same names and
    shapes.

    `report` is the loading information of transformers, which leaves out tied weights and the
    buffers that an architecture names. A missing weight would be drawn at random.
    """
    missing = sorted(report["missing_keys"])
    unexpected = sorted(k for k in report["unexpected_keys"] if not _HARMLESS.search(k))
    mismatched = sorted(report["mismatched_keys"])
    if not (missing or unexpected or mismatched):
        return

    parts = []
    if missing:
        parts.append(f"{len(missing)} missing ({_first(missing)})")
    if unexpected:
        parts.append(f"{len(unexpected)} that belong to no layer ({_first(unexpected)})")
    if mismatched:
        shown = [f"{name} {list(found)}, not {list(own)}" for name, found, own in mismatched]
        parts.append(f"{len(mismatched)} of another shape ({_first(shown)})")
    raise ValueError(
        f"{path}: the weights are not those of the network in its configuration: "
        f"{'; '.join(parts)}. {_cause(missing, unexpected, mismatched)}"
    )


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _cause(missing: list[str], unexpected: list[str], mismatched: list[Any]) -> str:
    """What has probably happened, and what to do."""
    for prefix, wrapper in _WRAPPERS.items():
        if any(name.startswith(prefix) for name in unexpected):
            return (
                f"The names begin with {prefix}: the weights were saved from within {wrapper}. "
                "Save the network itself with save_pretrained."
            )
    if any(name.startswith(_OTHER_HEADS) for name in unexpected):
        return (
            "The model was probably saved for classification or as a reward model, without the "
            "head of a language model."
        )
    if missing and all("head" in name for name in missing):
        return (
            "The head is missing: the model was probably saved without it (as AutoModel, or as a "
            "classification or reward model)."
        )
    if mismatched:
        return "config.json is probably that of another model, or of before a resize."
    return (
        "A file is probably missing, or config.json is that of another model. Load the model where "
        "it was made, as AutoModelForCausalLM, and save it again with save_pretrained."
    )


def check_vocabulary(
    path: str | Path, tokenizer: Any, rows: int, always: Sequence[int] = ()
) -> None:
    """Raises ValueError for ids of a tokenizer that have no row in the network's embedding.

    `rows` is the number of rows. Only ids that can occur in a sequence count: those of ordinary
    tokens, which any text can have, and the ids `always`. Other special tokens occur only where a
    prompt names them.
    """
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    ids = {number for number in tokenizer.get_vocab().values() if number not in special}
    beyond = sorted(number for number in ids | set(always) if number >= rows)
    if not beyond:
        return
    shown = [f"{tokenizer.convert_ids_to_tokens(number)!r} (id {number})" for number in beyond]
    raise ValueError(
        f"{path}: {len(beyond)} tokens of the tokenizer have no row in the network's embedding, "
        f"which has {rows} rows: {_first(shown)}. Use the tokenizer that belongs to the model, or "
        "save the model after resize_token_embeddings"
    )


@contextmanager
def passing_on(path: str | Path) -> Iterator[None]:
    """Turns what transformers' logger warns of within the block into Python warnings.

    The verbosity of transformers does not matter. Advice without consequence is left out. If the
    loading fails, the error gets all of them as notes.
    """
    logger = logging.getLogger("transformers")
    heard = _Listener()
    level = logger.level
    handlers = logger.handlers
    propagate = logger.propagate

    logger.handlers = [heard]
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    try:
        yield
    except Exception as error:
        for text in heard.texts:
            error.add_note(text)
        raise
    finally:
        logger.handlers = handlers
        logger.propagate = propagate
        logger.setLevel(level)

    for text in heard.texts:
        if not any(advice in text for advice in _ADVICE):
            warnings.warn(f"{path}: {text}", stacklevel=3)


class _Listener(logging.Handler):
    """Keeps the texts of records."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
