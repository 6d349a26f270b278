"""The policy's own continuations as corrections: the latest cut with a right one is taken."""

import contextlib
import re

import pytest
from small_models import network, prompts

from rlmec.lm.generation import Completion
from rlmec.records import Problem
from rlmec.teachers import sampling
from rlmec.teachers.base import Policy, WrongAttempt, as_batch_teacher
from rlmec.teachers.continuation import ContinuationTeacher

PROBLEM = Problem("p", "Ann has 3 pens and buys 4 more.", "7")
ATTEMPT = "one\ntwo\nthree\nThe answer is 8."
LIMIT = 40


class Task:
    """A text is right if it holds "right"."""

    name = "words"

    def problems(self, split):
        return [PROBLEM]

    def final_answer(self, text):
        return text

    def judge(self, text, problem):
        return "right" if "right" in text else "wrong"


def policy(load=network):
    return Policy(prompts(), LIMIT, None, load, contextlib.nullcontext)


@pytest.fixture
def written(monkeypatch):
    """Continuations are "right" behind the beginnings named here; all asked ones are noted."""

    class Written:
        right_behind = ""
        asked: list[list[str]] = []  # noqa: RUF012
        seeds: list[int] = []  # noqa: RUF012

    state = Written()
    state.asked, state.seeds = [], []
    codec = prompts().codec
    start = codec.text(prompts().policy(PROBLEM))

    def generate(network, asked, decoding, *, end_ids, pad_id, seed):
        del network, end_ids, pad_id
        texts = [codec.text(ids).removeprefix(start) for ids in asked]
        state.asked.append(texts)
        state.seeds.append(seed)
        done = []
        for text in texts:
            right = state.right_behind is not None and text == state.right_behind
            for number in range(decoding.num_generations):
                said = "right" if right and number else f"w{number} and so on"
                done.append(Completion([*codec.encode(said), 1], [], False))
        return done

    monkeypatch.setattr(sampling, "generate", generate)
    return state


def corrected(teacher, attempts=None):
    ticks = []
    asked = attempts or [WrongAttempt(PROBLEM, ATTEMPT)]
    found = teacher.correct_all(asked, spent={}, tick=lambda: ticks.append(1))
    assert len(found) == len(ticks) == len(asked)
    return found


def made(**changes):
    return ContinuationTeacher(task=Task(), policy=policy(), **({"num_proposals": 2} | changes))


def test_it_is_a_teacher_of_batches():
    assert as_batch_teacher(made()).name == "continuation"


@pytest.mark.parametrize(
    ("behind", "asked"),
    [
        ("one\ntwo\n", ["one\ntwo\n"]),
        ("one\n", ["one\ntwo\n", "one\n"]),
        ("", ["one\ntwo\n", "one\n", ""]),
        (None, ["one\ntwo\n", "one\n", ""]),
    ],
)
def test_the_search_goes_back_line_by_line_until_it_is_right(written, behind, asked):
    written.right_behind = behind
    (found,) = corrected(made())
    assert written.asked == [[text] for text in asked]
    rights = [p.text for p in found.texts if "right" in p.text]
    assert rights == ([] if behind is None else [f"{behind}right"])
    assert found.counts["calls"] == 2 * len(asked)


def test_the_answer_line_is_not_guessed_alone_unless_that_is_wanted(written):
    written.right_behind = None
    corrected(made(min_lines=1))
    assert written.asked[0] == ["one\ntwo\nthree\n"]


def test_an_attempt_of_one_line_is_written_anew(written):
    written.right_behind = None
    corrected(made(), [WrongAttempt(PROBLEM, "The answer is 8.")])
    assert written.asked == [[""]]


def test_attempts_leave_the_search_when_they_are_right(written):
    written.right_behind = "one\n"
    other = WrongAttempt(PROBLEM, "a\nb\nThe answer is 9.")
    corrected(made(), [WrongAttempt(PROBLEM, ATTEMPT), other])
    assert written.asked == [["one\ntwo\n", "a\n"], ["one\n", ""]]
    assert len(set(written.seeds)) == 2


def test_a_text_over_the_limit_of_the_policys_completions_is_clipped(written):
    codec = prompts().codec
    long = "one\n" * 40 + "x\nThe answer is 8."
    (found,) = corrected(made(), [WrongAttempt(PROBLEM, long)])
    for text, clipped in found.texts:
        assert clipped == (len(codec.encode(text)) + 1 > LIMIT)
    assert {p.clipped for p in found.texts} == {True, False}
    assert len(written.asked[0][0]) > len(written.asked[1][0])


def test_a_real_network_gives_the_same_again():
    first, again = (corrected(made(num_proposals=3)) for _ in range(2))
    assert [p.texts for p in first] == [p.texts for p in again]
    other = corrected(made(num_proposals=3, seed=2))
    assert [p.texts for p in first] != [p.texts for p in other]


def test_several_proposals_need_a_temperature():
    with pytest.raises(ValueError, match=re.compile("num_proposals is 2.*temperature", re.S)):
        made(temperature=0.0)


def test_without_a_policy_it_says_so():
    teacher = ContinuationTeacher(task=Task())
    with pytest.raises(ValueError, match="policy"):
        corrected(teacher)
