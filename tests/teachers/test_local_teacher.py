"""A model directory as a teacher: the same two questions, asked in batches of the model itself."""

import pytest
from small_models import SHAPES, chat_tokenizer, network, prompts, tokenizer

from rlmec.lm.generation import Decoding, generate
from rlmec.lm.loading import export_network, new_network
from rlmec.records import Problem
from rlmec.teachers import local, sampling
from rlmec.teachers.base import WrongAttempt, as_batch_teacher
from rlmec.teachers.local import LocalTeacher
from rlmec.teachers.steps import StepPrompts, rewritten

PROMPTS = StepPrompts(
    locate="{question}\n{solution}\n{attempt}\nWhich?",
    locate_answer_only="{question}\n{answer}\n{attempt}\nWhich?",
    rewrite="{question}\n{solution}\n{attempt}\nFrom [{step}]:",
    rewrite_answer_only="{question}\n{answer}\n{attempt}\nFrom [{step}]:",
    system="Correct.",
)
LONG = 10
PROBLEMS = [Problem(f"p{i}", f"Ann has {i} pens.", str(i)) for i in range(5)]
ATTEMPTS = [WrongAttempt(p, f"{p.id} one\ntwo\nthree") for p in PROBLEMS[:4]]
ATTEMPTS += [WrongAttempt(PROBLEMS[4], "one line")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("model")
    export_network(network(), tokenizer(), found)
    return str(found)


def correct(teacher):
    ticks = []
    found = teacher.correct_all(ATTEMPTS, spent={}, tick=lambda: ticks.append(1))
    assert len(found) == len(ticks) == len(ATTEMPTS)
    return found


def teacher(folder, **changes):
    return LocalTeacher(folder, PROMPTS, **({"max_completion_length": LONG} | changes))


def answer(question):
    """The model's own greedy answer to a question, asked alone."""
    codec = prompts().codec
    ids = codec.encode(question + "\n")
    decoding = Decoding(LONG)
    (done,) = generate(network(), [ids], decoding, end_ids=codec.end_ids, pad_id=codec.pad_id)
    return codec.text(done.ids), done.clipped


def test_each_attempt_gets_the_models_own_answers(folder, monkeypatch):
    found = correct(teacher(folder))
    for (problem, text), proposals in zip(ATTEMPTS, found, strict=True):
        said, clipped = answer(PROMPTS.asks_to_rewrite(problem, text, 0))  # it names no step
        assert list(proposals.texts) == [(rewritten(text, 0, said), clipped)]
    assert [p.counts["unlocated"] for p in found] == [1, 1, 1, 1, 0]
    assert [p.counts["calls"] for p in found] == [2, 2, 2, 2, 1]
    replies = []
    monkeypatch.setattr(local, "located_step", lambda reply, steps: replies.append(reply) or 1)
    for (problem, text), proposals in zip(ATTEMPTS[:4], correct(teacher(folder)), strict=False):
        said, clipped = answer(PROMPTS.asks_to_rewrite(problem, text, 1))
        assert list(proposals.texts) == [(rewritten(text, 1, said), clipped)]
        assert proposals.texts[0].text.startswith(f"{problem.id} one\n")
    assert replies == [answer(PROMPTS.asks_to_locate(*attempt))[0] for attempt in ATTEMPTS[:4]]


def test_what_is_asked_at_once_does_not_matter(folder):
    one, all_ = (correct(teacher(folder, batch_size=size)) for size in (1, 32))
    assert [p.texts for p in one] == [p.texts for p in all_]


def test_samples_differ_and_come_again(folder):
    several = {"num_proposals": 3, "temperature": 1.0, "top_p": 0.9}
    first, again = (correct(teacher(folder, **several)) for _ in range(2))
    assert [p.texts for p in first] == [p.texts for p in again]
    assert all(len(set(p.texts)) > 1 for p in first)
    other = correct(teacher(folder, **several, seed=2))
    assert [p.texts for p in other] != [p.texts for p in first]
    with pytest.raises(ValueError, match="at temperature 0"):
        teacher(folder, num_proposals=2)


def test_a_chat_template_is_used(tmp_path, monkeypatch):
    chat, asked = chat_tokenizer(), []
    export_network(new_network(SHAPES["llama"], chat, "sdpa", 0), chat, tmp_path)
    monkeypatch.setattr(sampling, "generate", lambda net, ids, *a, **k: asked.extend(ids) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        correct(teacher(str(tmp_path)))
    shown = chat.decode(asked[0])
    assert shown.startswith("<|system|>Correct.<|end|><|user|>Ann has 0 pens.\n0\n[0] p0 one\n")
    assert shown.endswith("Which?<|end|><|assistant|>")


def test_a_question_without_room_for_an_answer_has_none(folder):
    found = correct(teacher(folder, max_completion_length=250))
    assert {(p.reason, len(p.texts)) for p in found} == {("failed", 0)}
    with pytest.raises(FileNotFoundError, match=r"teacher\.path: .*nowhere: no such folder"):
        teacher(folder + "/nowhere").check()


def test_what_is_no_teacher_is_refused():
    with pytest.raises(TypeError, match="Problem is no teacher"):
        as_batch_teacher(PROBLEMS[0])
