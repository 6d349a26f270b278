"""Records refuse what does not fit where they are made, with the id and both numbers."""

from dataclasses import FrozenInstanceError, dataclass, replace

import numpy as np
import pytest

from rlmec.records import (
    VERDICTS,
    Alternatives,
    Attempt,
    Correction,
    Pair,
    Problem,
    Score,
    by_id,
    columns,
    hash_share,
    require_same_tokenizer,
)

ATTEMPT = Attempt("a1", "p1", [1, 2], [3, 4, 5], [-1.0, -2.0, -3.0], "t", "right", False, "d")
CORRECTION = Correction("a1", "p1", [3, 4], "t", "right", 0.3, "accepted", "oracle", "d")


def pair(**changes):
    arrays = {"old_logprobs": 3, "token_rewards": 3, "edit_weights": 2}
    made = {name: np.zeros(n, dtype=np.float32) for name, n in (arrays | changes).items()}
    return Pair(ATTEMPT, [3, 9], **made)


def test_a_problem_needs_an_id_and_a_question():
    assert Problem("p", "q?", "1").solution is None
    for id_, question in (("", "q?"), ("p", ""), ("p", " \n")):
        with pytest.raises(ValueError, match="an id and a question are needed"):
            Problem(id_, question, "1")


def test_a_record_does_not_change():
    with pytest.raises(FrozenInstanceError):
        ATTEMPT.verdict = "wrong"  # type: ignore[misc]


# --- attempts ---


@pytest.mark.parametrize("verdict", ["Right", "", "correct"])
def test_an_unknown_verdict_is_refused(verdict):
    with pytest.raises(ValueError, match=rf"attempt 'a1': verdict '{verdict}' is none of right, w"):
        replace(ATTEMPT, verdict=verdict)


def test_a_right_attempt_was_judged_right_and_not_clipped():
    assert [v for v in VERDICTS if replace(ATTEMPT, verdict=v).is_right] == ["right"]
    assert not replace(ATTEMPT, clipped=True).is_right


def test_a_logprob_for_every_token_or_none():
    assert replace(ATTEMPT, logprobs=[]).logprobs == []
    with pytest.raises(ValueError, match=r"attempt 'a1': .* completion_ids has 3, logprobs has 2"):
        replace(ATTEMPT, logprobs=[-1.0, -2.0])


def test_an_empty_completion_is_refused():
    with pytest.raises(ValueError, match="attempt 'a1': the completion has no token"):
        replace(ATTEMPT, completion_ids=[], logprobs=[])


# --- corrections, scores, pairs ---


@pytest.mark.parametrize("reason", ["no_proposal", "not_right", "clipped", "too_many_edits", ""])
def test_only_accepted_corrections_are_accepted(reason):
    assert CORRECTION.accepted
    assert not replace(CORRECTION, reason=reason).accepted


def test_a_score_has_both_logprobs_of_every_token():
    Score("a1", [-1.0, -2.0], [-1.0, -2.0], "d")
    with pytest.raises(ValueError, match=r"'a1': .* grm_logprobs has 2, old_logprobs has 1"):
        Score("a1", [-1.0, -2.0], [-1.0], "d")


def test_alternatives_have_equally_many_tokens_for_every_place():
    Alternatives("a1", [0, 4], [5, 6, 7, 8], [-1.0] * 4, "d")
    Alternatives("a1", [], [], [], "d")
    with pytest.raises(ValueError, match=r"'a1': 3 ids for 2 places"):
        Alternatives("a1", [0, 4], [5, 6, 7], [-1.0] * 3, "d")
    with pytest.raises(ValueError, match=r"'a1': .* ids has 2, logprobs has 1"):
        Alternatives("a1", [0], [5, 6], [-1.0], "d")


@pytest.mark.parametrize(
    ("name", "count", "told"),
    [
        ("old_logprobs", 2, "completion_ids has 3, old_logprobs has 2, token_rewards has 3"),
        ("token_rewards", 4, "completion_ids has 3, old_logprobs has 3, token_rewards has 4"),
        ("edit_weights", 3, "target_ids has 2, edit_weights has 3"),
    ],
)
def test_a_pair_has_credit_for_every_token_of_its_own_side(name, count, told):
    assert pair().corrected_by == ""
    with pytest.raises(ValueError, match=f"pair of attempt 'a1': .* differ in length: {told}"):
        pair(**{name: count})


# --- tokenizers, columns, ids ---


def test_records_of_another_tokenizer_are_refused_with_both_digests():
    require_same_tokenizer("a" * 64, "a" * 64, "a table")
    with pytest.raises(ValueError, match=r"made with tokenizer b{12}, but a{12} is in use"):
        require_same_tokenizer("a" * 64, "b" * 64, "a table")


def test_the_columns_of_an_attempt():
    assert columns(Attempt) == {
        "id": "string",
        "problem_id": "string",
        "prompt_ids": "list<int32>",
        "completion_ids": "list<int32>",
        "logprobs": "list<float32>",
        "text": "string",
        "verdict": "string",
        "clipped": "bool",
        "tokenizer": "string",
        "source": "string",
        "label": "bool",
    }
    assert columns(Correction)["edit_ratio"] == "float64"


def test_a_field_without_a_column_type_is_named():
    @dataclass
    class Odd:
        seen: complex

    with pytest.raises(TypeError, match=r"field 'seen' of type .*complex.* has no column type"):
        columns(Odd)


def test_records_by_their_id():
    other = replace(ATTEMPT, id="a2")
    assert by_id([ATTEMPT, other]) == {"a1": ATTEMPT, "a2": other}
    assert list(by_id([other, ATTEMPT])) == ["a2", "a1"]
    assert by_id([CORRECTION], "attempt_id") == {"a1": CORRECTION}
    with pytest.raises(ValueError, match="two Attempt records with problem_id 'p1'"):
        by_id([ATTEMPT, other], "problem_id")


# --- the hash ---


def test_a_hash_is_fixed():
    """The first six bytes of sha256(b"1/copy/a"), so the same on every machine."""
    assert hash_share(1, "copy", "a") == 0x5D14966324B6 / 2**48


def test_a_hash_is_even():
    shares = np.array([hash_share(1, "teach", f"p{i}") for i in range(3000)])
    assert 0 <= shares.min() < shares.max() < 1
    counts = np.histogram(shares, bins=10, range=(0, 1))[0]
    assert abs(counts - 300).max() < 4 * (3000 * 0.1 * 0.9) ** 0.5


@pytest.mark.parametrize(("seed", "what"), [(2, "teach"), (1, "grm"), (3, "copy")])
def test_one_choice_says_nothing_about_another(seed, what):
    """Of the half chosen for one purpose a tenth is chosen for another, not all of it or none."""
    ids = [f"train-{i:04d}" for i in range(3000)]
    half = [i for i in ids if hash_share(1, "teach", i) < 0.5]
    both = [i for i in half if hash_share(seed, what, i) < 0.1]
    assert abs(len(both) - 150) < 4 * (3000 * 0.05 * 0.95) ** 0.5
