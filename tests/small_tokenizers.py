"""Tokenizers of the kinds that users' models have, trained on a handful of words."""

from __future__ import annotations

import json
from functools import cache

from small_models import CHAT, PROBLEMS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from rlmec.lm.tokenizers import train_tokenizer

SPACE = "\u2581"  # SentencePiece writes a space so, and cannot tell the two apart
_TEXTS = [text for p in PROBLEMS for text in (p.question, p.solution or "")]
_BYTES = [f"<0x{i:02X}>" for i in range(256)]
_MARKS = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


def byte_level(texts: list[str], size: int = 320) -> PreTrainedTokenizerFast:
    """Byte-level BPE whose pad token is its end token."""
    made = train_tokenizer(texts, size)
    made.pad_token = made.eos_token
    return made


def sentencepiece(texts: list[str], size: int = 420, *, kind: str = "bpe", scheme: str = "always"):
    """What SentencePiece models become in transformers: spaces as marks, one put before every text
    and taken off when it is decoded, unknown characters as bytes, a start token, no pad token.

    Line breaks are no pieces of their own, as in Llama 2: they are bytes.
    """
    lines = [line for text in texts for line in text.split("\n")]
    special = ["<unk>", "<s>", "</s>", *_BYTES]
    if kind == "bpe":
        made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    else:
        made = Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(
            vocab_size=size, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    made.train_from_iterator(lines, trainer)
    state = json.loads(made.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] not in _BYTES]
    state["model"]["byte_fallback"] = True
    made = Tokenizer.from_str(json.dumps(state))
    made.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    made.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", made.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, clean_up_tokenization_spaces=False, **_MARKS
    )


def with_chat(tokenizer):
    """The tokenizer with marks for the speakers and a chat template."""
    tokenizer.add_tokens(["<|system|>", "<|user|>", "<|assistant|>"], special_tokens=True)
    tokenizer.chat_template = CHAT.replace("<|end|>", "{{ eos_token }}")
    return tokenizer


KINDS = {
    "byte_level": lambda: byte_level(_TEXTS),
    "byte_level_chat": lambda: with_chat(byte_level(_TEXTS)),
    "sentencepiece_bpe": lambda: sentencepiece(_TEXTS),
    "sentencepiece_bpe_chat": lambda: with_chat(sentencepiece(_TEXTS)),
    "sentencepiece_unigram": lambda: sentencepiece(_TEXTS, kind="unigram", scheme="first"),
    "sentencepiece_unigram_chat": lambda: with_chat(
        sentencepiece(_TEXTS, kind="unigram", scheme="first")
    ),
}


@cache
def small_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    return KINDS[kind]()
