"""What was trained on is not judged; what nearly was is named."""

import json
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlmec.evaluation.train_overlap import (
    NEAR_WORDS,
    apply_choice,
    find_overlap,
    words,
)
from rlmec.records import Problem

FIXED = settings(derandomize=True, deadline=None, max_examples=50)
WORDS = ["ann", "has", "seven", "green", "pens", "and", "12", "red", "ones"]
SENTENCE = st.lists(st.sampled_from(WORDS), min_size=1)


def problem(id_, question):
    return Problem(id_, question, "1")


def same(train, test):
    pair = find_overlap([problem("t", train)], [problem("x", test)])
    return pair.same == [("x", "t")]


@FIXED
@given(SENTENCE, st.sampled_from([str.upper, str.title, str.lower]), st.sampled_from(" \n\t"))
def test_case_blanks_and_sentence_punctuation_do_not_tell_questions_apart(sentence, case, blank):
    dressed = case(f" {blank.join(sentence)}?! ")
    assert same(" ".join(sentence), dressed)
    assert same(dressed, ", ".join(sentence) + ".")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 7 - 2?", "What is 7 2?"),
        ("What is 7 - 2?", "What is 7 + 2?"),
        ("Is it -3?", "Is it 3?"),
        ("It costs 1.5 dollars", "It costs 15 dollars"),
        ("Add 1, 5", "Add 15"),
        ("x_1^2", "x_1 2"),
        (r"\frac{1}{2}", r"frac12"),
        ("(2 + 3) * 4", "2 + 3 * 4"),
        ("How many apples?", "How many apples now?"),
    ],
)
def test_what_changes_the_question_is_kept(one, other):
    assert not same(one, other)
    assert same(one, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Don't stop", "dont stop."),
        ("a well-known man", "a well known man"),
        ("1,000 “x”", "1,000 x"),
    ],
)
def test_what_does_not_is_left_out(one, other):
    assert same(one, other)


def test_a_long_shared_passage_is_near_and_a_shorter_one_is_not():
    shared = [f"w{chr(97 + i)}" for i in range(NEAR_WORDS)]
    test = [
        problem("long", " ".join(["How", *shared, "much"])),
        problem("short", " ".join(["How", *shared[1:], "much"])),
        problem("same", "One " + " ".join(shared).upper() + "."),
    ]
    found = find_overlap([problem("t", " ".join(["one", *shared]))], test)
    assert found.near == [("long", "t")]
    assert found.same == [("same", "t")]
    assert "1 were trained on (first 'same'" in found.summary
    assert "1 share a long passage (first 'long'" in found.summary
    assert find_overlap([problem("t", "A b")], [problem("x", "c d")]).summary == "none"


def test_what_is_done_about_it():
    train = [problem("t1", "How many\n apples?"), problem("t2", "How many pears?")]
    test = [problem("x1", "How many nuts?"), problem("x2", " how many apples")]
    found = find_overlap(train, test)
    with pytest.raises(ValueError, match=r"1 problems .*'x2'.*'t1' in train"):
        apply_choice("refuse", found, test)
    assert apply_choice("drop", found, test) == test[:1]
    assert apply_choice("allow", found, test) == test
    assert apply_choice("refuse", find_overlap(train, test[:1]), test[:1]) == test[:1]
    with pytest.raises(ValueError, match="all 1 problems"):
        apply_choice("drop", found, test[1:])
    with pytest.raises(ValueError, match=r"'dropp'.*refuse, drop, allow"):
        apply_choice("dropp", found, test)


def test_it_is_quick_at_the_size_of_gsm8k():
    """7,473 questions against 1,319 of 46 words: seconds of processor time, not minutes."""
    draw = random.Random(0)
    vocabulary = [f"{a}{b}" for a in "bcdfg" for b in "aeiou"]

    def some(n, name):
        return [problem(f"{name}{i}", " ".join(draw.choices(vocabulary, k=46))) for i in range(n)]

    train, test = some(7473, "t"), some(1319, "x")
    began = time.process_time()
    found = find_overlap(train, [*test, problem("last", train[-1].question)])
    assert time.process_time() - began < 10.0
    assert found.same == [("last", "t7472")]


def test_the_real_sets(data):
    """Train and validation parts do not overlap; one OpenBookQA question shares a long passage."""

    def read(path):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return [problem(f"{path.parent.name}{i}", r["problem"]) for i, r in enumerate(rows)]

    near = {}
    for name in ("ecqa", "qasc", "openbookqa", "arc"):
        train, judged = (read(data / name / f"{s}_part.jsonl") for s in ("train", "validation"))
        found = find_overlap(train, judged)
        assert found.same == []
        near[name] = len(found.near)
        again = find_overlap([*train, judged[7]], judged)
        assert [id_ for id_, _ in again.same] == [judged[7].id]
    assert near == {"ecqa": 0, "qasc": 0, "openbookqa": 1, "arc": 0}
    assert words("Which of 2.5 (cm)?") == ["which", "of", "2.5", "(", "cm", ")"]
