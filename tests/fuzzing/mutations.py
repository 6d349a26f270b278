"""Ways to spoil an input, by a random generator alone: of bytes, of texts, of JSON values."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

NASTY_TEXTS = [
    *("", " ", "\n", "\x00", "\ufeff", "\u2028", "\u202e", "\ud800", "\udfff\ud83d", "\U0001f600"),
    *(
        "\u0130",
        "\u212a",
        "\u017f",
        "\u0131",
        "ß",
        "²",
        "\u0663",
        "\u0301",
        "\u22125",
        "½",
        "NaN",
        "-inf",
        "1e400",
        "1e-400",
    ),
    *("9" * 30, "9" * 5000, "1/0", "0/0", "-0", "1,000,0", "${seed}", "${", "???", "@script@"),
    *("####", "A:", "The answer is", "\\boxed{", "\\boxed", "}", "(B)", "option B", "[0]"),
    *("\\frac{1}{", "$", "$$", "\\(", "\\text{", "<<", ">>", "</think>", "```", "</script>"),
    *("__import__('os').system('false')", "a" * 300, "(" * 300, " " * 300, "* " * 150),
]
NASTY_VALUES: list[Any] = [
    *(None, True, False, 0, -1, 10**30, 2**63, 1.5, -0.0, float("nan"), float("inf"), 1e308),
    *([], {}, [[]], [None], {"": None}, {"a": {"b": {}}}, "x", ["a", 1, None], {"_target_": "os"}),
]
NASTY_BYTES = [b"\x00", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf0\x9f", b'"', b"\\", b"{", b"["]
NASTY_BYTES += [b"}", b",", b":", b"\n", b"\r", b"NaN", b"-Infinity", b"1e999", b"\\ud800", b"null"]
NASTY_BYTES += [b"9" * 5000, b"[" * 3000, b'{"a":' * 3000, b" " * 2000, b'"id":1,"id":2,']
PIECES = ["the answer is", "12", "3.5", "-", "/", "=", "\n", " ", "B", "(", ")", "%", "$", ","]
PIECES += ["\\frac{1}{2}", "\\boxed{4}", "Option A", "wrong", "Step 3", "[2]", "and", ".", "yes"]


def spoiled_bytes(rng: random.Random, data: bytes) -> bytes:
    """One to four changes of bytes."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = rng.choice(_BYTES)(rng, data)
    return data


def _flip(rng: random.Random, data: bytes) -> bytes:
    if not data:
        return b"\x00"
    out = bytearray(data)
    out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def _cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _remove(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.randrange(1, 40) :]


def _insert(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + rng.choice(NASTY_BYTES) + data[start:]


def _repeat(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data) + 1)
    piece = data[start : start + rng.randrange(1, 60)]
    return data[:start] + piece * rng.choice((2, 3, 50)) + data[start:]


def _noise(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + rng.randbytes(rng.randrange(1, 30)) + data[start:]


def _empty(rng: random.Random, data: bytes) -> bytes:
    return rng.choice((b"", b"\n", b"{}", b"[]", b"null", b"\xef\xbb\xbf", b"0"))


_BYTES: list[Callable[[random.Random, bytes], bytes]] = [_flip, _flip, _cut, _remove, _insert]
_BYTES += [_insert, _repeat, _noise, _empty]


def spoiled_text(rng: random.Random, text: str) -> str:
    """One to four changes of a text: pieces go, come, are doubled, or it is made of pieces only."""
    for _ in range(rng.choice((1, 2, 4))):
        start, kind = rng.randrange(len(text) + 1), rng.randrange(6)
        if kind == 0:
            text = text[:start]
        elif kind == 1:
            text = text[:start] + text[start + rng.randrange(1, 30) :]
        elif kind == 2:
            text = text[:start] + rng.choice(NASTY_TEXTS) + text[start:]
        elif kind == 3:
            piece = text[start : start + rng.randrange(1, 20)]
            text = text[:start] + piece * rng.choice((2, 3, 200)) + text[start:]
        elif kind == 4:
            text = "".join(rng.choice(PIECES) for _ in range(rng.randrange(30)))
        else:
            text += rng.choice(("", "\n")) + rng.choice(PIECES) + " " + rng.choice(NASTY_TEXTS)
    return text


def spoiled_value(rng: random.Random, value: Any) -> Any:
    """A copy of a JSON value with one leaf or node changed, dropped, added or moved."""
    out = json.loads(json.dumps(value))
    places = list(_places(out))
    if not places:
        return rng.choice(NASTY_VALUES)
    holder, key = rng.choice(places)
    kind = rng.randrange(7)
    old = holder[key]
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[rng.choice((*NASTY_TEXTS, "id", f"{key}x"))] = old
    elif kind == 2 and isinstance(old, str):
        holder[key] = spoiled_text(rng, old)
    elif kind == 3:
        holder[key] = rng.choice(NASTY_TEXTS)
    elif kind == 4:
        holder[key] = nested(rng, rng.choice((3, 30, 300)))
    elif kind == 5:
        holder[key] = json.loads(json.dumps(rng.choice(places)[0]))
    else:
        holder[key] = rng.choice(NASTY_VALUES)
    return out


def nested(rng: random.Random, depth: int) -> Any:
    """Lists or objects in each other."""
    value: Any = rng.choice(NASTY_VALUES)
    for _ in range(depth):
        value = {"a": value} if rng.random() < 0.5 else [value]
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    """(holder, key) of every node and leaf."""
    keys: Sequence[Any] = []
    if isinstance(value, dict):
        keys = list(value)
    elif isinstance(value, list):
        keys = range(len(value))
    return [p for key in keys for p in [(value, key), *_places(value[key])]]


def spoiled_rows(rng: random.Random, rows: list[Any]) -> bytes:
    """A file of JSON lines (or a JSON list) of a few of `rows`, spoiled as values or as bytes."""
    some = rng.sample(rows, min(len(rows), rng.randrange(1, 4)))
    for at in range(len(some)):
        if rng.random() < 0.7:
            some[at] = spoiled_value(rng, some[at])
    if rng.random() < 0.2:
        text = json.dumps(some, ensure_ascii=rng.random() < 0.5)
    else:
        text = "\n".join(json.dumps(row, ensure_ascii=rng.random() < 0.5) for row in some)
    data = text.encode("utf-8", "surrogatepass")
    return spoiled_bytes(rng, data) if rng.random() < 0.6 else data
