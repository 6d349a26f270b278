"""The text of every single token of a completion, so that the texts together are the completion's.

In: token ids and a tokenizer's `decode`. Out: one text a token. Where several tokens make up one
character (bytes of a byte-level or byte-fallback tokenizer), the last of them has the character and
the others the empty text. Leading spaces that a SentencePiece-like tokenizer drops from the start
of a sequence are kept where they stand inside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

BROKEN = "\ufffd"  # what decoding puts in place of bytes that are no whole character


class TokenTexts:
    """Texts of tokens under one tokenizer; what a token is alone is asked once.

    `decode` gives the text of ids with special tokens spelt out; `anchor` is the id of a plain
    letter, after which a token shows its leading space.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], anchor: int) -> None:
        self._decode, self._anchor = decode, anchor
        self._before = decode([anchor])
        self._first: dict[int, str] = {}
        self._inside: dict[int, str] = {}

    def __call__(self, ids: Sequence[int]) -> list[str]:
        """One text a token; joined they are `decode(ids)`."""
        whole = self._decode(ids)
        quick = [self._inside_text(i) for i in ids]
        if ids:
            quick[0] = self._first_text(ids[0])
        return quick if "".join(quick) == whole else self._grown(ids, whole)

    def _first_text(self, id_: int) -> str:
        if id_ not in self._first:
            self._first[id_] = self._decode([id_])
        return self._first[id_]

    def _inside_text(self, id_: int) -> str:
        if id_ not in self._inside:
            text = self._decode([self._anchor, id_])
            self._inside[id_] = text.removeprefix(self._before)
        return self._inside[id_]

    def _grown(self, ids: Sequence[int], whole: str) -> list[str]:
        """Texts by decoding more and more tokens, from a window that moves along with them.

        A token that leaves a character unfinished has no text, the one that finishes it has all of
        it. Where windows do not add up to the whole text, prefixes of the sequence are decoded.
        """
        out: list[str] = []
        start = read = 0  # the window's first token, and the first whose text is not settled
        for at in range(len(ids)):
            settled = self._decode(ids[start:read])
            text = self._decode(ids[start : at + 1])
            new = text[len(settled) :] if text.startswith(settled) else ""
            if new and not new.endswith(BROKEN):
                start, read = read, at + 1
                out.append(new)
            else:
                out.append("")
        if out:
            out[-1] += whole[len("".join(out)) :]
        return out if "".join(out) == whole else self._prefixes(ids, whole)

    def _prefixes(self, ids: Sequence[int], whole: str) -> list[str]:
        out: list[str] = []
        settled = 0
        for at in range(len(ids)):
            text = whole if at + 1 == len(ids) else self._decode(ids[: at + 1])
            grown = len(text.rstrip(BROKEN)) if at + 1 < len(ids) else len(text)
            same = whole.startswith(text[:grown])
            out.append(whole[settled:grown] if same and grown > settled else "")
            settled += len(out[-1])
        return out


def lines_of(texts: Sequence[str]) -> list[int]:
    """The number of the line in which each token begins: of the newlines before it."""
    out, line = [], 0
    for text in texts:
        out.append(line)
        line += text.count("\n")
    return out
