"""Places of tokens in their text, and token edits as edits of text: laws over any text."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import prompts

from rlmec.lm.token_texts import text_edits, token_spans
from rlmec.method.alignment import edit_script

CODEC = prompts().codec
TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
FEW = settings(max_examples=60, deadline=None)


@FEW
@given(TEXTS)
def test_spans_are_the_text_in_order_without_gap(text):
    ids = CODEC.encode(text)
    found, spans = token_spans(ids, CODEC.decode)
    assert found == text
    assert len(spans) == len(ids)
    ends = [0, *(end for _, end in spans)]
    assert [start for start, _ in spans] == ends[:-1]
    assert ends[-1] == len(text)


def test_spans_worked_by_hand():
    """An emoji is four bytes, of which no token is more than one here."""
    ids = CODEC.encode("a\U0001f600b")
    assert len(ids) == 6
    assert token_spans(ids, CODEC.decode)[1] == [(0, 1), (1, 1), (1, 1), (1, 1), (1, 2), (2, 3)]
    assert token_spans([], CODEC.decode) == ("", [])


def edits_of(old, new):
    ids, others = CODEC.encode(old), CODEC.encode(new)
    opcodes = edit_script(ids, others).opcodes
    (one, mine), (other, theirs) = (token_spans(x, CODEC.decode) for x in (ids, others))
    return text_edits(one, mine, other, theirs, opcodes)


@FEW
@given(TEXTS, TEXTS)
def test_kept_and_deleted_are_the_old_text_kept_and_inserted_the_new(old, new):
    edits = edits_of(old, new)
    assert "".join(e.text for e in edits if e.kind != "inserted") == old
    assert "".join(e.text for e in edits if e.kind != "deleted") == new
    for edit in edits:
        assert edit.text
        assert edit.text == (new if edit.kind == "inserted" else old)[slice(*edit.span)]
    kinds = [e.kind for e in edits]
    assert all(a != b for a, b in pairwise(kinds)), "neighbours are joined"


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("2+2=5", "2+2=4", [("kept", "2+2="), ("deleted", "5"), ("inserted", "4")]),
        ("12", "1", [("kept", "1"), ("deleted", "2")]),
        ("same", "same", [("kept", "same")]),
        ("", "7", [("inserted", "7")]),
        # two characters whose first three bytes are the same: one byte is edited, no text is kept
        ("\U0001f600", "\U0001f601", [("deleted", "\U0001f600"), ("inserted", "\U0001f601")]),
        # and two whose last byte is the same: the kept byte has another text on each side
        ("\U0001f600", "\U0001f640", [("deleted", "\U0001f600"), ("inserted", "\U0001f640")]),
    ],
)
def test_edits_worked_by_hand(old, new, wanted):
    assert [(e.kind, e.text) for e in edits_of(old, new)] == wanted
