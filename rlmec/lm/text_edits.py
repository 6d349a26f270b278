"""Where each token of a completion stands in its text, and token edits as edits of text.

In: token ids and the tokenizer's decoder. Out: the text, and one range of characters a token. The
ranges follow one another without gap or overlap. Of the tokens that share one character (bytes of
an emoji) the last has it, the others are empty, as is a token that ends the sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

Span = tuple[int, int]


@dataclass(frozen=True)
class Edit:
    """Text that is "kept", "deleted" or "inserted": `span` lies in the attempt, of an insertion in
    the rewrite. Kept and deleted texts in order are the attempt, kept and inserted the rewrite."""

    kind: str
    text: str
    span: Span


def token_spans(
    ids: Sequence[int], decode: Callable[[Sequence[int]], str]
) -> tuple[str, list[Span]]:
    """The text of `ids` and the range [start, end) of each id in it; together they are all of it.

    A token ends where the text of all ids up to it agrees with the whole text. One decoding a
    token, so the work grows with the square of the length: for solutions, not for books.
    """
    text = decode(ids)
    spans: list[Span] = []
    at = 0
    for count in range(1, len(ids)):
        end = max(at, _agreeing(decode(ids[:count]), text, at))
        spans.append((at, end))
        at = end
    if len(ids):
        spans.append((at, len(text)))
    return text, spans


def _agreeing(head: str, text: str, known: int) -> int:
    """The length of the common beginning of two texts, of which `known` characters agree."""
    if head == text[: len(head)]:
        return len(head)
    least = min(len(head), len(text))
    at = min(known, least)
    while at < least and head[at] == text[at]:
        at += 1
    return at


def text_edits(
    old: str, old_spans: list[Span], new: str, new_spans: list[Span], opcodes: Sequence[Any]
) -> list[Edit]:
    """The token edits as ranges of text; neighbours of one kind are joined.

    A kept token whose text differs all the same (it ends a character whose first bytes were edited)
    counts as deleted and inserted.
    """
    pieces: list[tuple[str, Span]] = []
    for op in opcodes:
        mine = old_spans[op.source_start : op.source_end]
        theirs = new_spans[op.target_start : op.target_end]
        if op.tag != "equal":
            pieces += [("deleted", s) for s in mine] + [("inserted", s) for s in theirs]
            continue
        for one, other in zip(mine, theirs, strict=True):
            if old[slice(*one)] == new[slice(*other)]:
                pieces.append(("kept", one))
            else:
                pieces += [("deleted", one), ("inserted", other)]
    out = []
    pieces = [(kind, span) for kind, span in pieces if span[0] < span[1]]
    for kind, group in groupby(_deleted_first(pieces), key=lambda piece: piece[0]):
        spans = [span for _, span in group]
        span = (spans[0][0], spans[-1][1])
        out.append(Edit(kind, (new if kind == "inserted" else old)[slice(*span)], span))
    return out


def _deleted_first(pieces: list[tuple[str, Span]]) -> list[tuple[str, Span]]:
    """Between kept pieces, what is deleted before what is inserted."""
    out: list[tuple[str, Span]] = []
    for kept, group in groupby(pieces, key=lambda piece: piece[0] == "kept"):
        several = list(group)
        out += several if kept else sorted(several, key=lambda piece: piece[0])
    return out
