"""Tokenizers: loaded, or trained on the text of a task; as a `Codec` for the rest of the project.

In: a model directory, a hub name, or texts. Out: a Hugging Face tokenizer, and the plain functions
(`prompts.Codec`) with which all other code turns text into ids and back.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from rlmec.lm.loading_checks import check_folder, check_tokenizer_files, passing_on
from rlmec.prompts import DEFAULT_DATE, Codec

Encode = Callable[[str], list[int]]
Decode = Callable[[Any], str]

END = "<|end|>"
PAD = "<|pad|>"
# Words keep their leading space, a newline is a piece of its own, numbers are cut into runs of
# at most as many digits as are filled in.
_PIECES = r"\n| ?\p{N}{1,%d}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|[^\S\n]+"


def train_tokenizer(texts: Iterable[str], vocabulary_size: int, digits: int = 1) -> Any:
    """A byte-level BPE tokenizer trained on `texts`, with the special tokens END and PAD.

    A token has at most `digits` digits (1: every digit is a token). Decoding gives back any text
    exactly. Raises ValueError if `vocabulary_size` cannot hold the 256 bytes and 2 special tokens.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if vocabulary_size < 258:
        raise ValueError(f"vocabulary_size is {vocabulary_size}: bytes and special tokens need 258")

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

    Raises FileNotFoundError if a local directory has no tokenizer, and ValueError if the tokenizer
    has no end-of-sequence token.
    """
    from transformers import AutoTokenizer

    check_folder(path)
    if Path(path).is_dir():
        check_tokenizer_files(Path(path))

    with passing_on(path):
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)
    if tokenizer.eos_token_id is None:
        raise ValueError(f"{path}: the tokenizer has no end-of-sequence token")
    return tokenizer


def tokenizer_digest(tokenizer: Any) -> str:
    """Hex digest of all that decides the ids of a text: vocabulary, merges, special tokens, chat
    template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        state: dict[str, Any] = {"vocabulary": sorted(tokenizer.get_vocab().items())}
    else:
        state = json.loads(backend.to_str())
        state.pop("truncation", None)  # these two change with use, and texts are never cut here
        state.pop("padding", None)
    state["ids"] = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    state["chat"] = getattr(tokenizer, "chat_template", None)
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def codec(tokenizer: Any, end_ids: Sequence[int] = (), *, turns: bool = False) -> Codec:
    """A tokenizer as the functions that the rest of the project uses.

    `end_ids` are the ids at which the model's own settings end a completion, besides the end token.
    With `turns`, prompts and completions are turns of a conversation: a completion then ends with
    the token that the chat template puts after an answer, if it has one. Text is encoded without
    special tokens, and the names of special tokens in a user's text are encoded as plain text; only
    `encode_marked` recognises them.
    """

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
    if _drops_first_space(encode, decode):
        continue_plain = _encode_after_break(encode)
        continue_marked = _encode_after_break(encode_marked)
        continue_many = _encode_many_after_break(encode, encode_many)
        continue_decode = _decode_after_break(continue_plain, decode)
    else:
        continue_plain = encode
        continue_marked = encode_marked
        continue_many = encode_many
        continue_decode = decode

    answer_end = turn_end(tokenizer) if turns else None
    end = tokenizer.eos_token_id if answer_end is None else answer_end

    start = tokenizer("a")["input_ids"]
    bos = tokenizer.bos_token_id
    pad = tokenizer.pad_token_id
    return Codec(
        encode=continue_plain,
        encode_marked=continue_marked,
        encode_start=encode_marked,
        decode=continue_decode,
        prefix_ids=(bos,) if bos is not None and start[:1] == [bos] else (),
        end_id=end,
        end_ids=tuple(dict.fromkeys([end, tokenizer.eos_token_id, *end_ids])),
        pad_id=tokenizer.eos_token_id if pad is None else pad,
        digest=tokenizer_digest(tokenizer),
        vocabulary_size=len(tokenizer),
        marks=tuple(t.content for t in tokenizer.added_tokens_decoder.values() if t.special),
        chat=_chat_of(tokenizer) if getattr(tokenizer, "chat_template", None) else None,
        encode_many=continue_many,
    )


def turn_end(tokenizer: Any) -> int | None:
    """The id of the token that the chat template puts after the text of an answer.

    None if there is no template, or if it has no answers, or ends them with plain text or nothing.
    """
    if not getattr(tokenizer, "chat_template", None):
        return None
    answer = "7391"
    turns = [{"role": "user", "content": "1"}, {"role": "assistant", "content": answer}]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    except TemplateError:  # a template for single questions refuses other turns
        return None

    # Some templates put a line break between the text and the token. The longest token counts,
    # because one may begin with another.
    rest = text[text.rfind(answer) + len(answer) :].lstrip()
    added = {token.content.strip(): id_ for id_, token in tokenizer.added_tokens_decoder.items()}
    found = [content for content in added if content and rest.startswith(content)]
    return added[max(found, key=len)] if found else None


def _decoder(tokenizer: Any) -> Decode:
    """`tokenizer.decode` that keeps special tokens and all spaces.

    If the class decodes as transformers does, its backend is called directly: transformers' check
    of the type of every id takes as long as the decoding itself.
    """
    from transformers import PreTrainedTokenizerFast

    kind = type(tokenizer)
    known = PreTrainedTokenizerFast
    if issubclass(kind, known) and (kind.decode, kind._decode) == (known.decode, known._decode):
        backend = tokenizer.backend_tokenizer
        return lambda ids: backend.decode(list(map(int, ids)), skip_special_tokens=False)

    def decode(ids: Any) -> str:
        return tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    return decode


# --- the chat template ---

# A chat template that shows the date asks transformers' `strftime_now` for it, which looks at the
# clock. This macro takes its place. It reads a mapping because transformers hands templates plain
# data only, never functions. Nothing of it is rendered.
_GIVEN_DATE = (
    "{%- macro strftime_now(format) -%}"
    "{%- set shown = namespace(text=format) -%}"
    "{%- for directive, text in rlmec_date.items() -%}"
    "{%- set shown.text = shown.text.replace(directive, text) -%}"
    "{%- endfor -%}"
    "{{- shown.text -}}"
    "{%- endmacro %}\n"
)
# What else gives another text at every call: a filter and a function of Jinja.
_DRAWN = re.compile(r"\|\s*random\b|\blipsum\s*\(")


def _chat_of(tokenizer: Any) -> Callable[..., str]:
    """`Codec.chat` of a tokenizer with a chat template: a function of its arguments alone.

    It raises ValueError if the template draws at random, refuses the turns, or does not read one of
    the `template_args`.
    """

    def chat(
        system: str | None,
        user: str,
        earlier: Sequence[tuple[str, str]] = (),
        *,
        date: str = DEFAULT_DATE,
        template_args: Mapping[str, Any] | None = None,
    ) -> str:
        turns = [{"role": "system", "content": system}] if system else []
        for question, answer in earlier:
            turns.append({"role": "user", "content": question})
            turns.append({"role": "assistant", "content": answer})
        turns.append({"role": "user", "content": user})

        template = tokenizer.get_chat_template()
        given = dict(template_args or {})
        _check_chat_template(template, given)
        if "strftime_now" in template:
            template = _GIVEN_DATE + template
            given["rlmec_date"] = _date_directives(date)
        try:
            return tokenizer.apply_chat_template(
                turns, chat_template=template, tokenize=False, add_generation_prompt=True, **given
            )
        except TemplateError as error:  # what a template raises by itself, such as for its system
            raise ValueError(f"the model's chat template refuses the prompt: {error}") from error

    return chat


def _check_chat_template(template: str, given: Mapping[str, Any]) -> None:
    if drawn := _DRAWN.search(template):
        raise ValueError(
            f"the chat template uses {drawn[0]!r}, which gives another text at every call; remove "
            "it from the model's chat template, or use prompt=plain"
        )
    for name in given:
        if not re.search(rf"\b{name}\b", template):
            raise ValueError(
                f"prompt.template_args.{name}: the model's chat template does not read {name!r}"
            )


@functools.cache
def _date_directives(date: str) -> dict[str, str]:
    """What each directive of strftime gives on an ISO date, at midnight.

    "%%" is set aside as a NUL character while the others are replaced. "%-d" and its like are the
    numbers without padding.
    """
    day = datetime.datetime.fromisoformat(date)
    letters = "aAbBcCdDeFgGhHIjmMpRSTuUVwWxXyY"
    plain = {f"%{letter}": day.strftime(f"%{letter}") for letter in letters}
    bare = {f"%-{letter}": str(int(plain[f"%{letter}"])) for letter in "deHIjmMSUVwWy"}
    return {"%%": "\0", **bare, **plain, "\0": "%"}


# --- tokenizers that put a space before every text ---

# SentencePiece and tokenizers like it encode every text as if a space came before it, and leave out
# the first space when they decode. A completion continues a prompt, so its text must be encoded and
# decoded as it is. Both are done after a line break, which is then taken off again.
_BEFORE = "\n"


def _drops_first_space(encode: Encode, decode: Decode) -> bool:
    """Whether the tokenizer puts a space before every text and drops it when decoding."""
    return decode([*encode(_BEFORE), *encode("a")]) != f"{_BEFORE}a"


def _encode_after_break(encode: Encode) -> Encode:
    """`encode` after a line break, whose ids are taken off.

    If the ids of the line break are not the first ones, they have merged with the text; then the
    text is encoded alone.
    """
    before = encode(_BEFORE)

    def encode_after_break(text: str) -> list[int]:
        ids = encode(_BEFORE + text)
        return ids[len(before) :] if ids[: len(before)] == before else encode(text)

    return encode_after_break


def _encode_many_after_break(
    encode: Encode, encode_many: Callable[[Sequence[str]], list[list[int]]]
) -> Callable[[Sequence[str]], list[list[int]]]:
    """As `_encode_after_break`, for several texts at once."""
    before = encode(_BEFORE)

    def encode_many_after_break(texts: Sequence[str]) -> list[list[int]]:
        several = encode_many([_BEFORE + text for text in texts])
        return [
            ids[len(before) :] if ids[: len(before)] == before else encode(text)
            for ids, text in zip(several, texts, strict=True)
        ]

    return encode_many_after_break


def _decode_after_break(encode_after_break: Encode, decode: Decode) -> Decode:
    """`decode` after a line break, whose text is taken off: the first space stays."""
    before = encode_after_break(_BEFORE)
    length = len(decode(before))

    def decode_after_break(ids: Any) -> str:
        return decode([*before, *ids])[length:] if len(ids) else ""

    return decode_after_break
