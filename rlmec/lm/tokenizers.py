"""Tokenizers: loaded, or trained on a task's own text; a `Codec` to the rest of the project."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rlmec.prompts import Codec

Encode = Callable[[str], list[int]]
Decode = Callable[[Any], str]

END = "<|end|>"
PAD = "<|pad|>"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
# Words keep their leading space, a newline stands alone; numbers are cut into runs of digits.
_PIECES = r"\n| ?\p{N}{1,%d}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|[^\S\n]+"


def train_tokenizer(texts: Iterable[str], vocabulary_size: int, digits: int = 1) -> Any:
    """A byte-level BPE tokenizer trained on `texts`, with the tokens END and PAD.

    A token holds at most `digits` digits (1: every digit stands alone). Decoding gives back any
    text exactly. Raises ValueError where `vocabulary_size` cannot hold the 256 bytes.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if vocabulary_size < 258:
        raise ValueError(f"vocabulary_size is {vocabulary_size}; bytes and 2 marks need 258")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES % digits), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[PAD, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(path: str | Path, revision: str | None = None) -> Any:
    """The tokenizer of a model directory or hub name.

    Raises FileNotFoundError where a local directory has none, ValueError where it has no end token.
    """
    from transformers import AutoTokenizer

    folder = Path(path)
    local = folder.is_absolute() or folder.exists()
    if local and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise FileNotFoundError(
            f"{folder}: no tokenizer here (expected one of {', '.join(TOKENIZER_FILES)})"
        )
    tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)
    if tokenizer.eos_token_id is None:
        raise ValueError(f"{path}: the tokenizer has no end-of-sequence token")
    return tokenizer


def tokenizer_digest(tokenizer: Any) -> str:
    """Hex digest of what decides a text's ids: vocabulary, merges, special tokens, template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        state: dict[str, Any] = {"vocabulary": sorted(tokenizer.get_vocab().items())}
    else:
        state = json.loads(backend.to_str())
        state.pop("truncation", None)
        state.pop("padding", None)
    state["ids"] = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    state["chat"] = getattr(tokenizer, "chat_template", None)
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def codec(tokenizer: Any, end_ids: Sequence[int] = ()) -> Codec:
    """A tokenizer as the functions the rest of the project uses, with a model's own end ids."""

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

    def encode_many(texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        several = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)
        return several["input_ids"]

    def encode_marked(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=False)

    decode = _decoder(tokenizer)

    def chat(system: str | None, user: str, earlier: Sequence[tuple[str, str]] = ()) -> str:
        turns = [{"role": "system", "content": system}] if system else []
        for asked, told in earlier:
            turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": told}]
        return tokenizer.apply_chat_template(
            [*turns, {"role": "user", "content": user}], tokenize=False, add_generation_prompt=True
        )

    spaced = _puts_a_space_first(encode, decode)
    plain, marked = (
        (_going_on(encode), _going_on(encode_marked)) if spaced else (encode, encode_marked)
    )
    start = tokenizer("a")["input_ids"]
    bos = tokenizer.bos_token_id
    pad = tokenizer.pad_token_id
    return Codec(
        encode=plain,
        encode_marked=marked,
        encode_start=encode_marked,
        decode=_decoding_on(plain, decode) if spaced else decode,
        prefix_ids=(bos,) if bos is not None and start[:1] == [bos] else (),
        eos_id=tokenizer.eos_token_id,
        end_ids=tuple(dict.fromkeys([tokenizer.eos_token_id, *end_ids])),
        pad_id=tokenizer.eos_token_id if pad is None else pad,
        digest=tokenizer_digest(tokenizer),
        vocabulary_size=len(tokenizer),
        marks=tuple(t.content for t in tokenizer.added_tokens_decoder.values() if t.special),
        chat=chat if getattr(tokenizer, "chat_template", None) else None,
        encode_many=_several_going_on(encode, encode_many) if spaced else encode_many,
    )


def _decoder(tokenizer: Any) -> Decode:
    """`tokenizer.decode` with special tokens and all spaces. Tokenizers that decode as the library
    does are asked below it: its look at the type of every id takes as long as the decoding."""
    from transformers import PreTrainedTokenizerFast

    kind, known = type(tokenizer), PreTrainedTokenizerFast
    if issubclass(kind, known) and (kind.decode, kind._decode) == (known.decode, known._decode):
        backend = tokenizer.backend_tokenizer
        return lambda ids: backend.decode(list(map(int, ids)), skip_special_tokens=False)

    def decode(ids: Any) -> str:
        return tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    return decode


_BEFORE = "\n"  # what stands before a text that goes on


def _puts_a_space_first(encode: Encode, decode: Decode) -> bool:
    """True for tokenizers (SentencePiece and its kin) that encode every text as if a space stood
    before it, and leave out the first space when they decode."""
    return decode([*encode(_BEFORE), *encode("a")]) != f"{_BEFORE}a"


def _going_on(encode: Encode) -> Encode:
    """`encode` without the space it puts before a text: the text is encoded behind a line break,
    whose own ids are taken off. Where they do not stand alone the plain ids are given."""
    before = encode(_BEFORE)

    def going_on(text: str) -> list[int]:
        ids = encode(_BEFORE + text)
        return ids[len(before) :] if ids[: len(before)] == before else encode(text)

    return going_on


def _several_going_on(
    encode: Encode, encode_many: Callable[[Sequence[str]], list[list[int]]]
) -> Callable[[Sequence[str]], list[list[int]]]:
    """As `_going_on`, for several texts."""
    before = encode(_BEFORE)

    def several(texts: Sequence[str]) -> list[list[int]]:
        found = encode_many([_BEFORE + text for text in texts])
        return [
            ids[len(before) :] if ids[: len(before)] == before else encode(text)
            for ids, text in zip(found, texts, strict=True)
        ]

    return several


def _decoding_on(going_on: Encode, decode: Decode) -> Decode:
    """`decode` with the first space kept."""
    before = going_on(_BEFORE)
    length = len(decode(before))

    def decoding_on(ids: Any) -> str:
        return decode([*before, *ids])[length:] if len(ids) else ""

    return decoding_on
