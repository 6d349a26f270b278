"""Texts of single tokens: joined they are the completion's text, whatever tokenizer made it."""

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from small_models import tokenizer
from tokenizers import Tokenizer, decoders, models

from rlmec.lm.token_texts import TokenTexts, lines_of
from rlmec.lm.tokenizers import codec

LETTERS = ["\u2581", "\u2581a", "a", "b", "\u2581the", "\n", "</s>"]
BYTES = [f"<0x{n:02X}>" for n in range(256)]


def byte_level():
    c = codec(tokenizer())
    return TokenTexts(c.decode, c.encode("a")[0]), c.decode, c.vocabulary_size


def sentencepiece_like():
    """Metaspace with byte fallback and a dropped leading space, as in LLaMA's tokenizers."""
    made = Tokenizer(models.BPE({p: i for i, p in enumerate([*LETTERS, *BYTES])}, []))
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])

    def decode(ids):
        return made.decode(list(ids), skip_special_tokens=False)

    return TokenTexts(decode, LETTERS.index("a")), decode, len(LETTERS) + 256


KINDS = {"byte_level": byte_level(), "sentencepiece_like": sentencepiece_like()}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_texts_joined_are_the_whole_text_of_any_ids(kind, data):
    texts, decode, size = KINDS[kind]
    ids = data.draw(st.lists(st.integers(0, size - 1), max_size=14))
    found = texts(ids)
    assert len(found) == len(ids)
    assert "".join(found) == decode(ids)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=12))
def test_a_character_of_several_tokens_stands_at_the_last_of_them(text):
    texts, _, _ = KINDS["byte_level"]
    c = codec(tokenizer())
    ids = c.encode(text)
    found = texts(ids)
    assert "".join(found) == text
    assert all("\ufffd" not in piece for piece in found) or "\ufffd" in text


def test_bytes_of_one_character_by_hand(monkeypatch):
    monkeypatch.setattr(TokenTexts, "_by_prefixes", None)  # windows are enough, and linear in time
    texts, _, _ = KINDS["sentencepiece_like"]
    euro = [len(LETTERS) + b for b in "€".encode()]
    the, a = LETTERS.index("\u2581the"), LETTERS.index("a")
    # "the" loses its space at the start and keeps it inside; the euro sign's third byte has it
    assert texts([the, *euro, the, a]) == ["the", "", "", "€", " the", "a"]
    # bytes that are never finished are what decoding makes of each
    assert texts([a, *euro[:2]]) == ["a", "\ufffd", "\ufffd"]
    assert texts([]) == []


def test_lines_are_counted_where_a_token_begins():
    assert lines_of(["a", "\n", "b\n\nc", "d"]) == [0, 0, 1, 3]
