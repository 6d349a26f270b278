"""Proposals become corrections: carried ids, edit ratios and reasons, worked by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlmec.method.acceptance import (
    REASONS,
    best_of,
    count_reasons,
    edit_ratio,
    judge_proposal,
    proposal_ids,
)
from rlmec.records import Attempt, Correction, Problem

PROBLEM = Problem("p", "One and one?", "2")
EOS = 0


def encode(text: str) -> list[int]:
    return [ord(character) for character in text]


def decode(ids: list[int]) -> str:
    """Characters by code point; codes above 1000 are a character and a newline."""
    return "".join("" if i == EOS else chr(i) if i < 1000 else chr(i - 1000) + "\n" for i in ids)


def attempt(ids: list[int], verdict: str = "wrong", clipped: bool = False) -> Attempt:
    return Attempt("a", "p", [], ids, [], decode(ids), verdict, clipped, "tok")


def judge(text: str, problem: Problem) -> str:
    return "right" if text.endswith(f"A: {problem.answer}") else "wrong"


def proposal(ids: list[int] | None, text: str | None, wrong: Attempt, **changes) -> Correction:
    settings_ = {"max_edit_ratio": 0.5, "source": "says", "tokenizer": "tok"} | changes
    return judge_proposal(PROBLEM, wrong, ids, text, judge=judge, **settings_)


def test_edit_ratio_is_the_distance_over_the_longer_length():
    assert edit_ratio([1, 2, 3], [1, 9, 3, 4]) == pytest.approx(2 / 4)
    assert edit_ratio([], []) == 0
    assert edit_ratio([], [1]) == 1


WRONG = attempt([*encode("x\nA: 3"), EOS])  # 7 tokens


@pytest.mark.parametrize(
    ("text", "changes", "reason", "ratio"),
    [
        ("x\nA: 2", {}, "accepted", 1 / 7),
        ("x\nA: 2", {"max_edit_ratio": 1 / 7}, "accepted", 1 / 7),
        ("x\nA: 2", {"max_edit_ratio": 0.14}, "too_many_edits", 1 / 7),
        ("x\nA: 4", {}, "not_right", 1 / 7),
        ("x\nA: 3", {}, "unchanged", 0.0),
        ("x\nA: 2", {"clipped": True}, "clipped", 1 / 7),
    ],
)
def test_reasons(text, changes, reason, ratio):
    correction = proposal([*encode(text), EOS], text, WRONG, **changes)
    assert correction.reason == reason
    assert correction.edit_ratio == pytest.approx(ratio)
    assert correction.accepted is (reason == "accepted")
    assert (correction.attempt_id, correction.problem_id) == ("a", "p")
    assert (correction.source, correction.tokenizer) == ("says", "tok")
    assert correction.text == text
    assert correction.completion_ids == [*encode(text), EOS]


def test_no_proposal():
    correction = proposal(None, None, WRONG)
    assert (correction.reason, correction.completion_ids, correction.text) == (
        "no_proposal",
        [],
        "",
    )
    assert (correction.edit_ratio, correction.verdict) == (1.0, "no_answer")


def test_a_right_answer_that_was_cut_off_may_be_corrected_and_a_right_one_not():
    cut = attempt(encode("x\nA: 2"), verdict="right", clipped=True)
    assert proposal([*encode("x\nA: 2"), EOS], "x\nA: 2", cut).reason == "accepted"
    with pytest.raises(ValueError, match="'a' is right"):
        proposal([1], "y", attempt([1], verdict="right"))


def test_records_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="tokenizer tok, its proposal with other"):
        proposal([1], "y", WRONG, tokenizer="other")
    stray = Attempt("a", "q", [], [1], [], "y", "wrong", False, "tok")
    with pytest.raises(ValueError, match="answers problem 'q', not 'p'"):
        proposal([1], "y", stray)


def test_shared_leading_lines_keep_the_attempts_own_ids():
    # the attempt's "b\n" is one token, which encode never makes
    wrong = attempt([*encode("a\n"), 1000 + ord("b"), *encode("A: 3"), EOS])
    text = "a\nb\nA: 2"
    ids = proposal_ids(wrong, text, encode, decode, EOS)
    assert ids == [*encode("a\n"), 1000 + ord("b"), *encode("A: 2"), EOS]


def test_a_line_that_ends_within_a_token_is_tokenised_again():
    # "c\n" is shared as text, but the attempt's token holds the line break after it as well
    wrong = attempt([*encode("a\nc"), 1000 + ord("\n"), *encode("A: 3"), EOS])
    assert wrong.text == "a\nc\n\nA: 3"
    ids = proposal_ids(wrong, "a\nc\nA: 2", encode, decode, EOS)
    assert ids == [*encode("a\nc\nA: 2"), EOS]


def test_ids_that_do_not_decode_to_the_text_are_not_used():
    wrong = attempt([*encode("a\nA: 3"), EOS])

    def blank_first(text: str) -> list[int]:
        return encode(text if text.startswith("a") else " " + text)

    text = "a\nA: 2"
    ids = proposal_ids(wrong, text, blank_first, decode, None)
    assert decode(ids) == text == "a\nA: 2"


@given(
    st.lists(st.sampled_from([97, 98, 10, 32, 1097, 1098, 1010]), min_size=1, max_size=30),
    st.text(alphabet="ab \n", max_size=30),
    st.integers(0, 30),
)
@settings(max_examples=300, derandomize=True)
def test_the_ids_of_any_proposal_decode_to_its_text(ids, tail, keep):
    wrong = attempt([*ids, EOS])
    text = wrong.text[:keep] + tail
    found = proposal_ids(wrong, text, encode, decode, EOS)
    assert found[-1] == EOS
    assert decode(found) == text


def test_of_several_proposals_the_accepted_one_with_the_fewest_edits_is_taken():
    def judged(*texts, limit=0.5):
        ids = [proposal_ids(WRONG, text, encode, decode, EOS) for text in texts]
        some = [
            proposal(i, t, WRONG, max_edit_ratio=limit) for i, t in zip(ids, texts, strict=True)
        ]
        return best_of(some).text, best_of(some).reason

    # edits of WRONG, "x\nA: 3" and the end: y\nA: 2 two of 7, x\nA: 2 one of 7, the long ones more
    assert judged("A: 4", "y\nA: 2", "x\nA: 2", "z\nA: 2") == ("x\nA: 2", "accepted")
    assert judged("y\nA: 2", "z\nA: 2") == ("y\nA: 2", "accepted")  # of equals the first
    assert judged("A: 4", "yyyyyyy\nA: 2", "yyyyyy\nA: 2", limit=0.1) == (
        "yyyyyy\nA: 2",
        "too_many_edits",
    )
    assert judged("x\nA: 4", "x\nA: 3") == ("x\nA: 4", "not_right")


def test_why_a_teacher_had_nothing_is_counted_where_it_occurs():
    none = proposal(None, None, WRONG, without="over_budget")
    assert (none.reason, none.completion_ids, none.verdict) == ("over_budget", [], "no_answer")
    assert count_reasons([none, none])["over_budget"] == 2
    assert "over_budget" not in count_reasons([])


def test_counts_have_every_reason():
    corrections = [
        proposal(None, None, WRONG),
        *[proposal([*encode("x\nA: 2"), EOS], "x\nA: 2", WRONG)] * 2,
    ]
    counts = count_reasons(corrections)
    assert set(counts) == set(REASONS)
    assert (counts["accepted"], counts["no_proposal"], sum(counts.values())) == (2, 1, 3)
    strange = Correction("a", "p", [], "", "wrong", 1.0, "bored", "says", "tok")
    with pytest.raises(ValueError, match="'bored'"):
        count_reasons([strange])
