"""What a model says at the end of a turn: found in its chat template, written behind every
completion of ours, and never an edit, whichever end token the attempt has."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from small_models import PROBLEMS, TEMPLATES, network, tokenizer

from rlmec.data.grm_rows import grm_rows, rewriting_row
from rlmec.data.pairs import join_pairs
from rlmec.lm.generation import Completion
from rlmec.lm.loading import end_ids, export_network
from rlmec.lm.tokenizers import codec, train_tokenizer, turn_end
from rlmec.method.acceptance import judge_proposal, proposal_ids
from rlmec.method.rewards import edit_labels
from rlmec.pipeline.judges import correction_of
from rlmec.pipeline.models import LanguageModel
from rlmec.prompts import Prompts
from rlmec.records import Attempt, Score

PROBLEM = PROBLEMS[3]  # 3 + 5 = 8


def template(ending):
    """A chat template that puts `ending` after every turn."""
    return "{% for m in messages %}{{ m['content'] }}" + ending + "{% endfor %}"


def with_template(chat, *tokens, special=True):
    made = train_tokenizer([text for p in PROBLEMS for text in (p.question, p.solution)], 320)
    made.add_tokens(list(tokens), special_tokens=special)
    made.chat_template = chat
    return made


def gemma(**changes):
    """A tokenizer whose turns end with <turn_end> while its eos is <|end|>, id 1."""
    return with_template(template("<turn_end>\n"), "<turn_end>", **changes)


REFUSING = "{% if messages|length > 1 %}{{ raise_exception('one question') }}{% endif %}"


@pytest.mark.parametrize(
    ("chat", "tokens", "wanted"),
    [
        (template("<turn_end>\n"), ["<turn_end>"], "<turn_end>"),
        (template("\n <turn_end>"), ["<turn_end>"], "<turn_end>"),  # a break before the token
        (template("<turn_end><turn_end2>"), ["<turn_end>", "<turn_end2>"], "<turn_end>"),
        (template("<turn_end2>"), ["<turn_end>", "<turn_end2>"], "<turn_end2>"),  # the longest
        (template("<|end|>"), [], "<|end|>"),  # the tokenizer's own end
        (template("\nUser:"), ["<turn_end>"], None),  # plain text
        (template(" stop <turn_end>"), ["<turn_end>"], None),  # text before the token
        (template(""), ["<turn_end>"], None),
        (REFUSING, ["<turn_end>"], None),
        (None, ["<turn_end>"], None),
    ],
)
@pytest.mark.parametrize("special", [True, False])
def test_the_end_of_a_turn_is_the_token_behind_an_answer(chat, tokens, wanted, special):
    made = with_template(chat, *tokens, special=special)
    found = turn_end(made)
    assert found == (None if wanted is None else made.convert_tokens_to_ids(wanted))


def test_completions_end_as_turns_do_where_prompts_are_turns():
    made = gemma()
    turn = made.convert_tokens_to_ids("<turn_end>")
    chat, plain = codec(made, [7], turns=True), codec(made, [7])
    assert (chat.end_id, chat.end_ids) == (turn, (turn, 1, 7))
    assert (plain.end_id, plain.end_ids) == (1, (1, 7))
    assert chat.completion("3") == [*chat.encode("3"), turn]
    assert chat.completions(["3", "4"]) == [chat.completion("3"), chat.completion("4")]
    assert Prompts(TEMPLATES, chat).located(2)[-1] == turn


def test_one_end_token_stays_the_only_one():
    for made in (tokenizer(), with_template(template("<|end|>"))):
        assert codec(made, [1], turns=True).end_ids == codec(made, [1]).end_ids == (1,)


def stops_of(folder):
    return json.loads((folder / "generation_config.json").read_text())["eos_token_id"]


def test_a_saved_model_stops_where_its_turns_end(tmp_path):
    made = gemma()
    chat = codec(made, turns=True)
    export_network(network(), made, tmp_path / "m", end_ids=chat.end_ids)
    assert stops_of(tmp_path / "m") == [1, chat.end_id]
    assert codec(made, end_ids(str(tmp_path / "m"), None)).end_ids == (1, chat.end_id)

    export_network(network(), tokenizer(), tmp_path / "one", end_ids=[1])
    assert (
        json.loads((tmp_path / "one" / "generation_config.json").read_text())["eos_token_id"] == 1
    )


# --- an attempt that ends with A, a correction written with B ---

CHAT = codec(gemma(), turns=True)
TURN, EOS = CHAT.end_ids
WRONG, RIGHT = "3 + 5 = 9\nThe answer is 9.", "3 + 5 = 8\nThe answer is 8."


def attempt(text, end, verdict="wrong"):
    ids = [*CHAT.encode(text), *([] if end is None else [end])]
    prompt = Prompts(TEMPLATES, CHAT).policy(PROBLEM)
    known = {"logprobs": [], "clipped": False, "tokenizer": CHAT.digest}
    return Attempt(f"{text}/{end}", PROBLEM.id, prompt, ids, text=text, verdict=verdict, **known)


def taught(wrong):
    """The teacher's correction, as the stage makes it."""
    end = CHAT.end_of(wrong.completion_ids)
    ids = proposal_ids(wrong, RIGHT, CHAT.encode, CHAT.decode, end)
    known = {"judge": lambda *_: "right", "max_edit_ratio": 1.0, "source": "t"}
    return judge_proposal(PROBLEM, wrong, ids, RIGHT, tokenizer=CHAT.digest, **known)


def rewritten(wrong, end):
    """The GRM's rewrite, which ends with `end`."""
    done = Completion([*CHAT.encode(RIGHT), *([] if end is None else [end])], [], end is None)
    return correction_of(lambda *_: "right", CHAT, PROBLEM, wrong, done, 1.0)


@pytest.mark.parametrize("end", [TURN, EOS])
@pytest.mark.parametrize("written", ["teacher", TURN, EOS])
def test_the_end_is_never_an_edit(end, written):
    wrong = attempt(WRONG, end)
    found = taught(wrong) if written == "teacher" else rewritten(wrong, written)
    assert found.completion_ids[-1] == end
    assert found.edit_ratio == pytest.approx(2 / len(wrong.completion_ids))  # two digits

    score = Score(wrong.id, [0.0] * len(wrong.completion_ids), [0.0] * len(wrong.completion_ids),
                  CHAT.digest)  # fmt: skip
    table = join_pairs([PROBLEM], [wrong], [found], [score], tokenizer=CHAT.digest,
                       reward=edit_labels, edited_weight=1.0, kept_weight=0.5)  # fmt: skip
    (pair,) = table.pairs
    assert (pair.token_rewards[-1], pair.edit_weights[-1]) == (0.0, 0.5)
    assert (pair.token_rewards < 0).sum() == (pair.edit_weights == 1.0).sum() == 2


def test_an_attempt_without_an_end_is_corrected_to_the_turns_end():
    cut = attempt(WRONG, None)
    assert taught(cut).completion_ids[-1] == rewritten(cut, EOS).completion_ids[-1] == TURN
    assert rewritten(cut, None).completion_ids == CHAT.encode(RIGHT)


@pytest.mark.parametrize("end", [TURN, EOS])
def test_the_grm_reads_and_learns_one_end(end):
    """What it is trained to write ends as what it is asked the probability of."""
    prompts = Prompts(TEMPLATES, CHAT)
    wrong, right = attempt(WRONG, end), attempt(RIGHT, end, "right")
    rows = grm_rows(
        prompts, {PROBLEM.id: PROBLEM}, [wrong, right], [taught(wrong)], copy=1, locate=1, seed=1
    )
    rows = sorted(rows, key=lambda item: item.place)
    assert [item.task for item in rows] == ["rewrite", "copy", "locate"]
    scored = rewriting_row(prompts, PROBLEM, wrong.completion_ids, wrong.completion_ids, "s")
    assert {int(row.targets[-1]) for row in [*(item.row for item in rows), scored]} == {TURN}
    assert len(scored.targets) == len(wrong.completion_ids)


def test_an_end_that_the_model_does_not_name_is_reported(tmp_path):
    """Its own settings name 1. Its turns end with another token; plain prompts have no turns."""
    gemma().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": 1}))
    model = SimpleNamespace(path=None, revision=None)
    for chat, expected in ((True, ["<turn_end>"]), (False, [])):
        settings: Any = SimpleNamespace(prompt=SimpleNamespace(chat=chat), model=model)
        assert LanguageModel(str(tmp_path), settings).added_ends == expected
