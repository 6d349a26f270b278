"""Where tokens of a prompt end and those of a completion begin, for the tokenizers users have."""

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_models import PROBLEMS, TEMPLATES
from small_tokenizers import KINDS, SPACE, small_tokenizer

from rlmec.data.collate import collate
from rlmec.data.row import Row
from rlmec.lm.tokenizers import codec, load_tokenizer, tokenizer_digest
from rlmec.method.acceptance import proposal_ids
from rlmec.prompts import Prompts
from rlmec.records import Attempt

FIXED = settings(derandomize=True, deadline=None, max_examples=30)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=SPACE), max_size=24)
SOLID = TEXT.filter(lambda text: text.strip())
ENDS = st.sampled_from(["", " ", "  ", "\n", "\n\n", " \n", "\t", "\n "])

pytestmark = pytest.mark.parametrize("kind", KINDS)


def prompts_of(kind: str, end: str = "\n") -> Prompts:
    texts = replace(TEMPLATES, policy="{question}" + end, chat=kind.endswith("chat"))
    return Prompts(texts, codec(small_tokenizer(kind)))


@FIXED
@given(TEXT)
@example(" Ann")
@example("  two\n\n four ")
@example("e\u0301 \u00e9 \ufeff\u200b👩‍👩‍👧 日本\x00")
def test_any_text_comes_back(kind, text):
    made = codec(small_tokenizer(kind))
    assert made.decode(made.encode(text)) == text
    assert made.text(made.completion(text)) == text


@FIXED
@given(SOLID, TEXT, ENDS)
def test_prompt_and_completion_say_their_texts_and_nothing_between(kind, question, text, end):
    """Whatever the prompt ends in: its ids give its text, the completion's ids give theirs, and
    both together give the one text after the other."""
    made = prompts_of(kind, end)
    raw, coded = small_tokenizer(kind), made.codec
    prompt = made.policy(replace(PROBLEMS[0], question=question))
    completion = coded.completion(text)
    asked = question + end
    if made.templates.chat:  # what the tokenizer's own chat call gives, its spaces included
        turns = [{"role": "user", "content": asked}]
        own = raw.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        assert prompt == own
    else:
        start = raw.bos_token if coded.prefix_ids else ""
        assert coded.decode(prompt).removeprefix(start).removeprefix(" ") == asked.removeprefix(" ")
    whole = coded.decode([*prompt, *completion])
    assert whole == coded.decode(prompt) + text + raw.eos_token


@FIXED
@given(st.data())
def test_an_attempt_stands_in_the_rewriting_prompt_id_for_id(kind, data):
    made = prompts_of(kind)
    coded = made.codec
    ids = st.integers(0, coded.vocabulary_size - 1).filter(lambda i: i not in coded.end_ids)
    attempt = data.draw(st.lists(ids, min_size=1, max_size=12))
    before, after = made.templates.rewrite.split("{attempt}")
    found = made.rewrite(PROBLEMS[1], [*attempt, coded.end_id])
    tail = coded.encode_marked(after)
    if made.templates.chat:
        tail = coded.encode_marked(f"{after}{small_tokenizer(kind).eos_token}<|assistant|>")
    assert found[len(found) - len(tail) :] == tail
    assert found[len(found) - len(tail) - len(attempt) : len(found) - len(tail)] == attempt
    head = coded.decode(found[: len(found) - len(tail) - len(attempt)])
    shown = before.replace("{question}", PROBLEMS[1].question)
    assert head.endswith(shown.replace("{solution}", PROBLEMS[1].solution or ""))


@FIXED
@given(st.lists(st.tuples(SOLID, TEXT), min_size=1, max_size=4))
def test_a_padded_batch_asks_for_the_completions_tokens_only(kind, texts):
    made = prompts_of(kind)
    rows, wanted = [], []
    for number, (question, text) in enumerate(texts):
        prompt = made.policy(replace(PROBLEMS[0], question=question))
        completion = made.codec.completion(text)
        rows.append(Row.likelihood(str(number), [*prompt, *completion], len(prompt)))
        wanted += completion
    batch = collate(rows, made.codec.pad_id, 1.0, 1.0)
    assert batch["targets"].tolist() == wanted
    width = batch["input_ids"].shape[1]
    following = batch["input_ids"].flatten()[batch["sources"] + 1]
    assert following.tolist() == wanted
    assert (
        batch["sources"] % width < batch["attention_mask"].sum(1)[batch["sources"] // width]
    ).all()


@FIXED
@given(st.lists(TEXT, min_size=2, max_size=4), st.integers(0, 3), TEXT)
def test_kept_lines_keep_their_ids(kind, lines, changed, other):
    """A correction that shares its first lines with the attempt begins with the attempt's ids,
    also where encoding the lines again would cut them otherwise."""
    coded = codec(small_tokenizer(kind))
    lines = [line.replace("\r", "").strip("\x85\u2028\u2029") or "x" for line in lines]
    lines = ["".join(line.splitlines()) or "x" for line in lines]
    at = changed % len(lines)
    ids = [i for line in lines for i in coded.encode(line + "\n")]
    text = coded.decode(ids)
    proposal = "\n".join([*lines[:at], "".join(other.splitlines()) + "?", *lines[at + 1 :]])

    attempt = Attempt("a", "p", [], ids, [], text, "wrong", False, coded.digest)
    found = proposal_ids(attempt, proposal, coded.encode, coded.decode, coded.end_id)
    assert coded.text(found) == proposal
    kept = [i for line in lines[:at] for i in coded.encode(line + "\n")]
    assert found[: len(kept)] == kept


def test_a_saved_tokenizer_is_the_same(kind, tmp_path):
    made = small_tokenizer(kind)
    made.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert tokenizer_digest(loaded) == tokenizer_digest(made)
    ours, theirs = codec(made), codec(loaded)
    text = " Ann has 12 pens.\n\n日本 "
    assert ours.encode(text) == theirs.encode(text)
    assert theirs.decode(theirs.encode(text)) == text
    assert (ours.pad_id, ours.end_ids, ours.prefix_ids) == (
        theirs.pad_id,
        theirs.end_ids,
        theirs.prefix_ids,
    )
    assert ours.pad_id == ours.end_id
    assert bool(ours.prefix_ids) == kind.startswith("sentence")
