"""Tokenizers: exact text back, digits alone, a digest of what decides the ids, clear refusals."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_models import PROBLEMS, chat_tokenizer, tokenizer
from small_tokenizers import KINDS, small_tokenizer

from rlmec.data.collate import collate
from rlmec.data.row import Row
from rlmec.lm.tokenizers import (
    END,
    PAD,
    codec,
    load_tokenizer,
    tokenizer_digest,
    train_tokenizer,
)

FIXED = settings(derandomize=True, deadline=None, max_examples=200)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))  # lone surrogates are no text


@FIXED
@given(TEXT)
@example("a  b\n\n\tc \r\n")
@example("x½²٣ 𝟗९")
@example(f"{END}{PAD} {END}")
@example("e\u0301 \u00e9 \ufeff\u200b👩‍👩‍👧")
def test_any_text_comes_back(text):
    made = codec(tokenizer())
    assert made.decode(made.encode(text)) == text


@pytest.mark.parametrize("kind", KINDS)
def test_several_texts_at_once_have_the_ids_they_have_alone(kind):
    made = codec(small_tokenizer(kind))
    texts = [
        "Ann has 3 pens.",
        "",
        " 1 + 2",
        "\n\n",
        "x½² 👩‍👩‍👧",
        "<|end|></s> <s>",
        "3\r\n4",
        "pens",
    ]
    assert made.completions(texts) == [made.completion(text) for text in texts]
    assert made.completions([]) == []


@pytest.mark.parametrize("kind", KINDS)
def test_ids_have_the_text_that_the_library_gives_them(kind):
    made, own = codec(small_tokenizer(kind)), small_tokenizer(kind)
    before = made.encode("\n")  # the library leaves out a first space
    for text in ["Ann has 3 pens.", " 1  + 2", "</s><|end|> x½² 👩‍👩‍👧", "a ,b .", ""]:
        ids = made.completion(text)
        asked = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        expected = own.decode([*before, *ids], **asked)
        assert made.decode(np.array([*before, *ids])) == expected
        assert made.decode(torch.tensor(ids)) == made.decode(ids)


def test_every_digit_is_one_token():
    made = codec(tokenizer(400))
    for text in ("7", "40", "365", "12345678901234567890"):
        assert len(made.encode(text)) == len(text)
    tokens = tokenizer(400).get_vocab()
    assert [t for t in tokens if sum(c.isdigit() for c in t) > 1] == []


def test_training_joins_frequent_words_and_never_across_lines():
    made = codec(train_tokenizer(["pens\npens\n" * 20], 300))
    assert len(made.encode("pens")) == 1
    assert len(made.encode("pens\npens\n")) == 4


def test_the_vocabulary_has_bytes_and_marks_and_no_more_than_asked():
    assert len(train_tokenizer(["pens and pencils " * 9], 270)) == 270
    assert len(train_tokenizer([], 300)) == 258  # nothing to join
    with pytest.raises(ValueError, match="vocabulary_size is 257"):
        train_tokenizer([], 257)


# --- digest ---


def test_the_digest_knows_vocabulary_and_chat_template():
    base = tokenizer_digest(tokenizer())
    other = train_tokenizer([p.solution for p in PROBLEMS], 300)
    chat = train_tokenizer([text for p in PROBLEMS for text in (p.question, p.solution)], 300)
    assert tokenizer_digest(chat) == base
    chat.chat_template = "{{ messages[0]['content'] }}"
    again = chat_tokenizer()
    assert len({base, *(tokenizer_digest(t) for t in (other, chat, again))}) == 4


def test_the_digest_knows_the_end_token():
    made = train_tokenizer(["a"], 260)
    before = tokenizer_digest(made)
    made.eos_token = PAD
    assert tokenizer_digest(made) != before


def test_the_digest_does_not_see_padding_and_truncation():
    made = train_tokenizer(["a b c"], 260)
    before = tokenizer_digest(made)
    assert made(["a", "a b c"], padding=True, truncation=True, max_length=2)["input_ids"]
    state = made.backend_tokenizer
    assert state.padding is not None
    assert state.truncation is not None
    assert tokenizer_digest(made) == before


@pytest.mark.parametrize("make", [tokenizer, chat_tokenizer])
def test_a_saved_tokenizer_has_the_same_digest_and_ids(make, tmp_path):
    make().save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert tokenizer_digest(loaded) == tokenizer_digest(make())
    text = "Ann has 12 pens.\n"
    assert codec(loaded).encode(text) == codec(make()).encode(text)
    assert codec(loaded).decode(codec(loaded).encode(" ,  .")) == " ,  ."


# --- loading ---


def test_a_directory_without_a_tokenizer_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}: no tokenizer here"):
        load_tokenizer(tmp_path)


def test_a_directory_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path / 'none'}: no such folder"):
        load_tokenizer(tmp_path / "none")


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path):
    made = train_tokenizer(["a"], 260)
    made.eos_token = None
    made.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path}: the tokenizer has no end-of-sequence token"):
        load_tokenizer(tmp_path)


# --- codec ---


def test_without_a_pad_token_the_end_token_pads_and_stays_in_the_masks():
    made = train_tokenizer(["a b a"], 260)
    made.pad_token = None
    coded = codec(made)
    assert coded.pad_id == coded.end_id == made.eos_token_id
    prompt = coded.encode("a")
    rows = [
        Row.likelihood("short", [*prompt, *coded.completion("a")], len(prompt)),
        Row.likelihood("long", [*prompt, *coded.completion("a b a b")], len(prompt)),
    ]
    batch = collate(rows, coded.pad_id, 1.0, 1.0)
    assert (batch["sources"] // 6).bincount().tolist() == [
        2,
        5,
    ]  # "a", end; "a", " b" x2, " a", end
    assert batch["attention_mask"].sum(1).tolist() == [3, 6]


def test_only_a_tokenizer_that_starts_texts_with_a_mark_has_a_prefix():
    from tokenizers.processors import TemplateProcessing

    assert codec(tokenizer()).prefix_ids == ()
    made = train_tokenizer(["a"], 260)
    made.add_special_tokens({"bos_token": "<|start|>"})
    assert codec(made).prefix_ids == ()
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|start|> $A", special_tokens=[("<|start|>", made.bos_token_id)]
    )
    assert codec(made).prefix_ids == (made.bos_token_id,)
    assert made.bos_token_id not in codec(made).encode("a")


def test_a_codec_carries_the_tokenizers_facts():
    base, made = chat_tokenizer(), codec(chat_tokenizer())
    assert (made.pad_id, made.end_id) == (0, 1)
    assert made.vocabulary_size == base.backend_tokenizer.get_vocab_size(False) + 3  # the speakers
    assert max(made.encode_marked("<|assistant|>")) == made.vocabulary_size - 1
    assert set(made.marks) == {END, PAD, "<|system|>", "<|user|>", "<|assistant|>"}
    assert made.chat is not None
    assert codec(tokenizer()).chat is None
