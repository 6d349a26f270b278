"""Which option an answer names: by text, by letter, by both, or not at all."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlmec.answers.options import (
    LETTERS,
    judge_option,
    options_of,
    read_option,
    with_options,
)

OPTIONS = ("pleasure", "Bloody mess", "cake", "St. Louis")


@pytest.mark.parametrize(
    "answer",
    [
        *("B", "(B)", "B.", "option B", "b", "[b]", "Option (B)", "choice B", "B)"),
        *("bloody mess", "BLOODY  MESS.", '"Bloody mess"', "\u201cbloody mess.\u201d"),
        *("a bloody mess", "A bloody mess", "the bloody mess"),
        *(
            "(B) bloody mess",
            "B. bloody mess",
            "B: bloody mess",
            "B bloody mess",
            "B - Bloody mess",
        ),
        *("B. It is red.", "(B), because it is red", "bloody mess. A person sees it"),
        *(r"\text{Bloody mess}", r"$\text{(B)}$", "$B$", r"\mathbf{B}"),
        "(B), since (C) is sweet",
        *("B \u2013 bloody mess", "B (bloody mess)", "B!", "**B**!", "{B}", "letter B", "<b>B</b>"),
        *("therefore B", "most likely (B)", "clearly a bloody mess", "then, (B)"),
        *("B rather than C", "B instead of (A)", "B (not A)", "(B), not (C)"),
        *("therefore: B", "B, not A, not C", "B (but not C)", "not A but B", "(B)!"),
    ],
)
def test_an_option_is_named(answer):
    assert read_option(answer, OPTIONS) == 1


@pytest.mark.parametrize(
    "answer",
    [
        *("A or B", "B or C", "(A) or (B)", "B, C", "B and C", "option B or C", "B/C"),
        *("bloody mess or cake", "bloody mess, cake", "(A) bloody mess", "a. bloody mess"),
        *("B. It is no cake", "B. Or A", "(B) as well as (C)", "bloody mess. Or option C"),
        *("not bloody mess", "bloody", "a bloody", "E", "", "ab", "is B", "(B) is wrong"),
        *(r"\text{B} or \text{C}", "5"),
        *("likely", "not B", "B (cake)", "B (not A) or C", "B (not A). Actually, C"),
        *("B rather than C, or maybe A", "either B, because it is red, or C"),
    ],
)
def test_no_option_or_several_are_named(answer):
    assert read_option(answer, OPTIONS) is None


def test_the_article_is_no_letter():
    assert judge_option("The answer is a bloody mess", "pleasure", OPTIONS) == "wrong"
    assert judge_option("The answer is a bloody mess", "bloody mess", OPTIONS) == "right"
    assert judge_option("The answer is a mess", "pleasure", OPTIONS) == "wrong"


def test_the_words_of_an_option_are_no_adverbs_and_no_second_thoughts():
    options = ("then have", "clearly drawn", "not tall but broad", "broad")
    for index, option in enumerate(options):
        assert read_option(option, options) == index
        assert read_option(f"most likely {option}", options) == index


def test_a_long_answer_is_read_at_once():
    text = ("\\boxed{likely B, since. " * 9000)[-200_000:]
    start = time.process_time()
    assert judge_option(text, "bloody mess", OPTIONS) != "right"
    assert time.process_time() - start < 2


def test_a_text_beats_a_letter():
    options = ("A", "~A", "B", "~B")
    assert read_option("B", options) == 2
    assert read_option("C", options) == 2  # no text: the letter of the third
    assert read_option("~B", options) == 3


def test_options_that_are_numbers_are_compared_as_numbers():
    assert read_option("840000", ("800,000", "840,000")) == 1
    assert read_option("$4.50", ("4.5", "5.4")) == 0
    assert read_option("0.5", ("1/2", "0.50")) is None  # two texts, one number
    assert read_option("3.6", ("2", "3")) is None


def test_options_that_differ_in_case_alone_are_told_apart():
    options = ("AA", "Aa", "aa")
    assert [read_option(o, options) for o in ("AA", "Aa", "aa", "aA")] == [0, 1, 2, None]


def test_options_with_the_same_words_count_as_one():
    options = ("energy", "food", "energy.")
    assert judge_option("The answer is (C)", "energy", options) == "right"
    assert judge_option("The answer is (B)", "energy", options) == "wrong"


def test_verdicts():
    assert judge_option("#### (B)", "bloody mess", OPTIONS) == "right"
    assert judge_option("#### (B)", "B", OPTIONS) == "right"
    assert judge_option("Correct option: B", "bloody mess", OPTIONS) == "right"
    assert judge_option("The best answer choice is (B)", "bloody mess", OPTIONS) == "right"
    assert judge_option("The answer could be B.", "bloody mess", OPTIONS) == "no_answer"
    assert judge_option("The answer is not A but B", "bloody mess", OPTIONS) == "right"
    assert judge_option("it is B", "bloody mess", OPTIONS) == "no_answer"
    assert judge_option("#### B", "a mess", OPTIONS) == "unparsable"


@given(st.lists(st.text(max_size=12), min_size=2, max_size=8), st.text(max_size=40))
@settings(max_examples=200, derandomize=True)
def test_any_text_names_one_option_or_none(options, answer):
    index = read_option(answer, options)
    assert index is None or 0 <= index < len(options)


@given(st.lists(st.sampled_from(["xyz", "uvw", "kind", "of", "blue"]), min_size=2, unique=True))
@settings(max_examples=50, derandomize=True)
def test_every_letter_names_its_own_option(options):
    for i in range(len(options)):
        assert read_option(f"({LETTERS[i]})", options) == i
        assert read_option(options[i], options) == i


def test_a_question_shows_its_options():
    question = with_options("What?\nAnd why?", ("first\nline", "b"))
    assert question == "What?\nAnd why?\nOptions:\nfirst line\nb"
    assert options_of(question) == ("first line", "b")
    assert options_of("What?") == ()


@pytest.mark.parametrize("letter", ["\u0130", "\u0131", "\u017f", "\u212a", "\uff22"])
def test_a_sign_that_unicode_folds_onto_a_letter_is_none(letter):
    """The dotted I, the dotless i, the long s, the Kelvin sign, the wide B."""
    assert read_option(letter, OPTIONS) is None
    assert read_option(f"({letter}) cake", OPTIONS) is None
    assert judge_option(f"The answer is {letter}", "cake", OPTIONS) == "wrong"
