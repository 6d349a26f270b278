"""The normal form of an answer, which every judge reads.

In: a completion, or what follows an answer marker in it. Out: the same text without what changes
only its looks: thoughts, end-of-turn tokens, zero-width characters, emphasis, tags, quotes, code
marks, delimiters of formulas, commands for fonts; then its first sentence. A gold answer and an
option go through the same functions as the answer that is compared with them.

`normal_form` is idempotent. Nothing here decides whether two answers are equal.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

FONTS = (
    r"\\(?:text(?:bf|it|rm|tt|sf|normal)?|math(?:rm|bf|it|sf|tt|normal)|boldsymbol|bm|mbox|hbox"
    r"|emph|underline|operatorname\*?|boxed|fbox)"
)
"""LaTeX commands whose argument is the text itself."""

_GROUP = r"\{((?:[^{}]|\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})*)\}"
_FONT = re.compile(rf"{FONTS}\s*{_GROUP}")
_OPEN_FONT = re.compile(rf"{FONTS}\s*\{{")
_FORMULA = re.compile(r"\$\$.*?\$\$|\$[^$]+\$|\\\(.*?\\\)|\\\[.*?\\\]", re.DOTALL)

_THOUGHT = re.compile(
    r"<(?:\|begin_of_thought\|>.*?(?:<\|end_of_thought\|>|\Z)"
    r"|(think|thinking|thought|reasoning)>.*?(?:</\1>|\Z))",
    re.DOTALL | re.IGNORECASE,
)
_THOUGHT_END = re.compile(r"</(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
_OPENING_TOKENS = re.compile(
    r"\s*(?:<s>|<bos>|<\|[\w\uff5c\u2581]{1,40}\|>\s*(?:(?:assistant|system|user)\b)?|<\uff5c[^<>\n]{1,40}\uff5c>)"
)
_CLOSING_TOKEN = re.compile(
    r"</s>|<eos>|<\|?(?:im_end|im_start|endoftext|end_of_text|eot_id|eom_id|end_of_turn"
    r"|start_of_turn|start_header_id|end|eos|user|return)\|?>|<\uff5c[^<>\n]{1,40}\uff5c>|\[EOS\]"
)
_OTHER_TOKEN = re.compile(r"<(?:\|[a-z_]{1,40}\||pad|unk)>")
_INVISIBLE = (
    *(0x00AD, 0x180E, 0xFEFF),
    *(*range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A)),
)
_READABLE = {**dict.fromkeys(_INVISIBLE), 0x3002: ". ", 0xFF0E: "."}
_TAGGED = re.compile(r"<(b|i|u|em|strong|mark)>([^<]*)</\1>", re.IGNORECASE)

LONGEST_ANSWER = 1000
"""Characters of an answer that are read."""
_PAIRS = (
    *(("**", "**"), ("__", "__"), ("*", "*"), ("_", "_"), ("```", "```"), ("`", "`")),
    *(('"', '"'), ("'", "'"), ("\u201c", "\u201d"), ("\u2018", "\u2019"), ("\u201e", "\u201c")),
    *(("\u00ab", "\u00bb"), ("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")),
)
_ENDINGS = (".", ",", ";", ":", "\\", "*!", "`!", '"!', "\u201d!")
"""What ends with a sign of the sentence; a bare exclamation mark may be a factorial."""
_LOOSE = '*_`"\u201c\u201d\u201e\u00ab\u00bb'
"""Signs that are set aside at either end where their partner is missing."""
_QUOTES = "\"'\u201c\u201d\u201e\u2018\u2019\u00ab\u00bb"

_BREAK = re.compile(
    r"""
      (?<=\S)\.["'\u201d\u2019)\]*_`]*(?=\s)                    # the end of a sentence
    | (?<=\S)[!?](?=\s+[A-Z][a-z])
    | ,?\s+\(?(?=(?:because|since|as|rather\sthan|instead\sof)\s)  # a reason
    | ,\s+(?=(?:so|which|that|given|for|where|not|but|i\.e\.)\s)
    | \s+\((?=(?:but\s)?not\s)
    | (?<=\S)\s+(?=(?-i:I\s(?:hope|think|believe|checked)|Let\s(?:me|us)|Please|Note|Thus|Therefore
        |Hence|So\sthe|This\s(?:is|was|means))\b)                # a sentence after no full stop
    | \s+[-\u2013\u2014]{1,3}\s+(?=[A-Za-z]{1,20}\s[A-Za-z]{2})  # a remark after a dash
    """,
    re.VERBOSE | re.IGNORECASE,
)


def clean(text: str) -> str:
    """A completion as its reader sees it: without thoughts and special tokens, in NFC.

    A thought that is not closed reaches to the end. What precedes a closing tag without an opening
    one is a thought as well, since some prompts end with the opening tag.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", text.translate(_READABLE))
    if "<" not in text and "[EOS]" not in text:
        return text

    while (shorter := _TAGGED.sub(r"\2", text)) != text:
        text = shorter
    text = _THOUGHT.sub("\n", text)
    ends = [match.end() for match in _THOUGHT_END.finditer(text)]
    text = text[ends[-1] :] if ends else text

    while (match := _OPENING_TOKENS.match(text)) is not None:
        text = text[match.end() :]
    text = _CLOSING_TOKEN.split(text, maxsplit=1)[0]
    return _OTHER_TOKEN.sub("", text)


def trimmed(text: str) -> str:
    """An answer without what encloses the whole of it, and without its closing full stop."""
    while (shorter := _trimmed_once(text)) != text:
        text = shorter
    return text


def _trimmed_once(text: str) -> str:
    text = text.strip()
    if text[:1].isalnum() and text[-1:].isalnum():
        return text  # nothing encloses it
    if text.endswith(_ENDINGS):
        text = text[:-1].rstrip()

    for sign in _LOOSE:
        if text.startswith(sign) != text.endswith(sign) and text.count(sign) % 2:
            text = text.strip(sign)
    if text.count("**") % 2:
        text = text.strip("*")

    for left, right in _PAIRS:
        if len(text) > len(left) + len(right) and text.startswith(left) and text.endswith(right):
            inner = text[len(left) : -len(right)]
            if left not in inner and right not in inner:
                return inner

    match = _OPEN_FONT.match(text)
    if match is not None and text.endswith("}") and _closes_at_end(text, match.end()):
        return text[match.end() : -1]
    return text


def _closes_at_end(text: str, start: int) -> bool:
    """Whether the brace that opens before `start` is closed by the last character."""
    depth = 1
    for index in range(start, len(text)):
        depth += (text[index] == "{") - (text[index] == "}")
        if depth == 0:
            return index == len(text) - 1
    return False


def without_fonts(text: str) -> str:
    """Text with the arguments of font commands in place of the commands, wherever they are."""
    while "\\" in text and (shorter := _FONT.sub(r"\1", text)) != text:
        text = shorter
    return text


def formulas(text: str) -> list[re.Match[str]]:
    """The formulas of `text` with their delimiters, in order."""
    return list(_FORMULA.finditer(text)) if "$" in text or "\\" in text else []


def heads(text: str) -> Iterator[tuple[str, str]]:
    """`text` cut in two where a sentence, a reason or a remark ends; the whole of it first, then
    ever shorter heads.

    Nothing is cut inside a formula.
    """
    yield text, ""
    for end, start in reversed(list(_cuts(text))):
        yield text[:end], text[start:]


def _cuts(text: str) -> Iterator[tuple[int, int]]:
    """(end of a head, start of what follows it), the shortest head first."""
    masked = _FORMULA.sub(lambda m: "\0" * len(m.group()), text) if formulas(text) else text
    for cut in _BREAK.finditer(masked):
        end = cut.start()
        if text[end] == "!" and text[end - 1 : end].isdigit():
            end += 1  # a factorial, or at least nothing that may be dropped
        if text[:end].strip():
            yield end, cut.end()


def normal_form(text: str) -> str:
    """The first sentence of an answer, without what encloses it; 1,000 characters are read."""
    text = clean(text)[:LONGEST_ANSWER]
    while (shorter := trimmed(_first_sentence(trimmed(clean(text))))) != text:
        text = shorter
    return text


def _first_sentence(text: str) -> str:
    return next((text[:end] for end, _ in _cuts(text)), text)


def plain_text(text: str) -> str:
    """Text with single blanks, without quotes around it and its closing full stop."""
    text = " ".join(text.split())
    while (shorter := text.strip(_QUOTES).rstrip(".").rstrip()) != text:
        text = shorter
    return text


def normal_text(text: str) -> str:
    """Words for comparison: case folded, fonts, emphasis, quotes and closing full stop off."""
    return plain_text(without_fonts(trimmed(clean(text)))).casefold()
