"""The text of each token of a completion, and token edits as edits of text.

In: token ids and the decoder of their tokenizer. Out: one text per token that together are the
decoded text, or one range of characters per token. Ranges follow one another without gap or
overlap. Of several tokens that make up one character (the bytes of an emoji), the last one has the
character and the others are empty.

There are two ways to get there. `TokenTexts` decodes tokens once for many texts, and is made for
the thousands of attempts of a report. `token_spans` decodes every prefix of one text, and is exact
for ids whose bytes are not valid characters, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

Span = tuple[int, int]
Decode = Callable[[Sequence[int]], str]

BROKEN = "\ufffd"
"""What decoding gives for bytes that are not a whole character."""


# --- texts of tokens ---


class TokenTexts:
    """Texts of tokens under one tokenizer. The text of a token alone is decoded once and kept.

    `decode` gives the text of ids, special tokens spelled out. `anchor` is the id of a plain
    letter: after it a token shows its leading space, which tokenizers like SentencePiece drop at
    the start of a sequence.
    """

    def __init__(self, decode: Decode, anchor: int) -> None:
        self._decode = decode
        self._anchor = anchor
        self._anchor_text = decode([anchor])
        self._first: dict[int, str] = {}
        self._inside: dict[int, str] = {}

    def __call__(self, ids: Sequence[int]) -> list[str]:
        """One text per token; joined they are `decode(ids)`."""
        whole = self._decode(ids)
        texts = [self._inside_text(i) for i in ids]
        if ids:
            texts[0] = self._first_text(ids[0])
        return texts if "".join(texts) == whole else self._by_window(ids, whole)

    def _first_text(self, id_: int) -> str:
        if id_ not in self._first:
            self._first[id_] = self._decode([id_])
        return self._first[id_]

    def _inside_text(self, id_: int) -> str:
        if id_ not in self._inside:
            text = self._decode([self._anchor, id_])
            self._inside[id_] = text.removeprefix(self._anchor_text)
        return self._inside[id_]

    def _by_window(self, ids: Sequence[int], whole: str) -> list[str]:
        """Texts found by decoding a window that grows token by token and moves along.

        The work is linear in the length of the text. A token that leaves a character unfinished
        gets no text, and the one that finishes it gets all of it. If the texts of the windows do
        not add up to the whole text, prefixes of the sequence are decoded instead.
        """
        texts: list[str] = []
        start = 0  # first token of the window
        settled = 0  # first token whose text is still open
        for at in range(len(ids)):
            before = self._decode(ids[start:settled])
            text = self._decode(ids[start : at + 1])
            new = text[len(before) :] if text.startswith(before) else ""
            if new and not new.endswith(BROKEN):
                start = settled
                settled = at + 1
                texts.append(new)
            else:
                texts.append("")

        if texts:  # bytes that no later token completes
            texts[-1] += whole[len("".join(texts)) :]
        return texts if "".join(texts) == whole else self._by_prefixes(ids, whole)

    def _by_prefixes(self, ids: Sequence[int], whole: str) -> list[str]:
        texts: list[str] = []
        settled = 0  # characters that have a token
        for at in range(len(ids)):
            is_last = at + 1 == len(ids)
            text = whole if is_last else self._decode(ids[: at + 1])
            end = len(text) if is_last else len(text.rstrip(BROKEN))
            same = whole.startswith(text[:end])
            texts.append(whole[settled:end] if same and end > settled else "")
            settled += len(texts[-1])
        return texts


def lines_of(texts: Sequence[str]) -> list[int]:
    """The number of the line, from 0 on, in which each token begins."""
    numbers = []
    line = 0
    for text in texts:
        numbers.append(line)
        line += text.count("\n")
    return numbers


# --- ranges of tokens ---


def token_spans(ids: Sequence[int], decode: Decode) -> tuple[str, list[Span]]:
    """The text of `ids`, and the range [start, end) of each id in it; together they are all of it.

    A token ends where the text of all ids up to it agrees with the whole text. Every prefix is
    decoded, so the work grows with the square of the length: good for solutions, not for books.
    """
    text = decode(ids)
    spans: list[Span] = []
    start = 0
    for count in range(1, len(ids)):
        end = max(start, _common_length(decode(ids[:count]), text, start))
        spans.append((start, end))
        start = end
    if len(ids):
        spans.append((start, len(text)))
    return text, spans


def _common_length(prefix: str, text: str, known: int) -> int:
    """Length of the common beginning of two texts, of which `known` characters agree."""
    if prefix == text[: len(prefix)]:
        return len(prefix)
    least = min(len(prefix), len(text))
    at = min(known, least)
    while at < least and prefix[at] == text[at]:
        at += 1
    return at


# --- edits of text ---


@dataclass(frozen=True)
class Edit:
    """A piece of text that is "kept", "deleted" or "inserted".

    `span` is its range in the attempt, or in the rewrite if it is inserted. Kept and deleted pieces
    in order are the attempt; kept and inserted pieces in order are the rewrite.
    """

    kind: str
    text: str
    span: Span


def text_edits(
    old: str, old_spans: list[Span], new: str, new_spans: list[Span], opcodes: Sequence[Any]
) -> list[Edit]:
    """Token edits as edits of text. Adjacent pieces of one kind are joined.

    `opcodes` are those of `method.alignment.edit_script`. A kept token whose text differs on the
    two sides counts as deleted and inserted: it ends a character whose first bytes were edited.
    """
    pieces: list[tuple[str, Span]] = []
    for op in opcodes:
        sources = old_spans[op.source_start : op.source_end]
        targets = new_spans[op.target_start : op.target_end]
        if op.tag != "equal":
            pieces += [("deleted", span) for span in sources]
            pieces += [("inserted", span) for span in targets]
            continue
        for source, target in zip(sources, targets, strict=True):
            if old[slice(*source)] == new[slice(*target)]:
                pieces.append(("kept", source))
            else:
                pieces += [("deleted", source), ("inserted", target)]

    pieces = _deleted_first([(kind, span) for kind, span in pieces if span[0] < span[1]])
    edits = []
    for kind, group in groupby(pieces, key=lambda piece: piece[0]):
        spans = [span for _, span in group]
        span = (spans[0][0], spans[-1][1])
        text = new if kind == "inserted" else old
        edits.append(Edit(kind, text[slice(*span)], span))
    return edits


def _deleted_first(pieces: list[tuple[str, Span]]) -> list[tuple[str, Span]]:
    """Puts what is deleted before what is inserted, between two kept pieces."""
    ordered: list[tuple[str, Span]] = []
    for is_kept, group in groupby(pieces, key=lambda piece: piece[0] == "kept"):
        several = list(group)
        ordered += several if is_kept else sorted(several, key=lambda piece: piece[0])
    return ordered
