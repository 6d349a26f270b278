"""The token-reward page: attempts as tokens coloured by their reward, corrections beside them.

In: scored attempts with what was made of them (`Case`). Out: one HTML file that needs no network:
the data as a JSON block, the style and the script that draws it. Texts of models and users reach
the document through the JSON block alone, in which `<`, `>` and `&` are escaped, and from there
through `textContent`; a Content-Security-Policy lets only this very style and script run. Numbers
are stored as they are, in base64 of little-endian arrays: rewards and log-probs float32 (nats),
token ids uint32.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np

from rlmec.lm.token_texts import TokenTexts
from rlmec.method.alignment import edit_script
from rlmec.records import Correction, Pair, Problem, hash_share

MOST_TOKENS = 2_000_000
"""Tokens of attempts that a page holds at most: some 40 MB, which a browser opens in seconds."""

WRONG_SHARE = 0.8
"""Of the places of a page that cannot hold all attempts: at least so many are for wrong ones."""

_TAGS = {"equal": 0, "replace": 1, "insert": 2, "delete": 3}
_ESCAPES = (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"))


@dataclass(frozen=True, eq=False)
class Case:
    """A scored attempt: its credit, the GRM's view of it, the correction that was made of it.

    `grm_logprobs` [n] are raw (nats). `correction` is the accepted one, else a rejected one, else
    None. `taught` is True where the GRM learned from the problem.
    """

    pair: Pair
    problem: Problem
    grm_logprobs: Sequence[float]
    correction: Correction | None
    taught: bool

    def __post_init__(self) -> None:
        tokens, scored = len(self.pair.attempt.completion_ids), len(self.grm_logprobs)
        if tokens != scored:
            raise ValueError(
                f"attempt {self.pair.attempt.id!r} has {tokens} tokens, grm_logprobs {scored}"
            )


def chosen(cases: Sequence[Case], most: int, most_tokens: int = MOST_TOKENS) -> list[Case]:
    """At most `most` cases, in their order; all where they fit.

    Where they do not, wrong attempts get at least `WRONG_SHARE` of the places (all of them where
    there are no more right ones), and which ones is decided by a hash of the attempt's id, so that
    the choice is even and stays the same. A case that would bring the tokens above `most_tokens`
    is passed over. `most` below 1 raises ValueError.
    """
    if most < 1:
        raise ValueError(f"a page of {most} attempts: at least 1 is needed (report.page_pairs)")
    right = [i for i, case in enumerate(cases) if case.pair.attempt.is_right]
    wrong = [i for i, case in enumerate(cases) if not case.pair.attempt.is_right]
    places = min(len(wrong), max(int(most * WRONG_SHARE), most - len(right)))
    picked = sorted(_first(cases, wrong, places) + _first(cases, right, most - places))
    order = sorted(picked, key=lambda i: _place(cases[i]))
    kept, tokens = set[int](), 0
    for i in order:
        length = len(cases[i].pair.attempt.completion_ids)
        if tokens + length <= most_tokens:
            kept.add(i)
            tokens += length
    return [cases[i] for i in picked if i in kept]


def _first(cases: Sequence[Case], which: list[int], count: int) -> list[int]:
    return sorted(which, key=lambda i: _place(cases[i]))[:count]


def _place(case: Case) -> float:
    return hash_share(0, "page", case.pair.attempt.id)


def page_data(
    cases: Sequence[Case],
    texts: TokenTexts,
    end_ids: Iterable[int],
    *,
    title: str,
    choice: str,
    facts: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:
    """What the page draws, as plain values.

    `attempts` lists the cases with the length `n` of their attempt and `m` of their correction (0
    without one) and `ops`, the edit script as fives of numbers: tag (0 kept, 1 replaced, 2
    inserted, 3 deleted), source from and to, target from and to. The arrays hold the attempts'
    tokens one after another, each once; `tokens` and `targets` are places in `pieces`. `title`,
    `choice` (which attempts these are) and `facts` (name, value) are shown above them.
    """
    pieces, problems = _Numbered(), _Numbered()
    ends, attempts = set(end_ids), []
    tokens: list[int] = []
    targets: list[int] = []
    for case in cases:
        attempt, correction = case.pair.attempt, case.correction
        ids, target = attempt.completion_ids, correction.completion_ids if correction else []
        ops = edit_script(ids, target).opcodes if target else ()
        attempts.append(
            {
                "id": attempt.id,
                "problem": problems(case.problem.id, case.problem),
                "verdict": attempt.verdict,
                "clipped": attempt.clipped,
                "source": attempt.source,
                "taught": case.taught,
                "n": len(ids),
                "m": len(target),
                "by": correction.source if correction else "",
                "reason": correction.reason if correction else "",
                "ratio": round(correction.edit_ratio, 4) if correction else 0.0,
                "ops": [number for op in ops for number in (_TAGS[op.tag], *op[1:])],
            }
        )
        for found, into in ((ids, tokens), (target, targets)):
            for id_, text in zip(found, texts(found), strict=True):
                into.append(pieces((text, id_ in ends), text))
    of = [case.pair for case in cases]
    return {
        "format": 1,
        "title": title,
        "choice": choice,
        "facts": [list(fact) for fact in facts],
        "pieces": pieces.values,
        "special": [number for (_, end), number in pieces.numbers.items() if end],
        "problems": [
            {"id": p.id, "question": p.question, "answer": p.answer, "kind": p.kind}
            for p in problems.values
        ],
        "attempts": attempts,
        "tokens": _packed([tokens], "<u4"),
        "targets": _packed([targets], "<u4"),
        "ids": _packed([pair.attempt.completion_ids for pair in of], "<u4"),
        "rewards": _packed([pair.token_rewards for pair in of], "<f4"),
        "grm_logprobs": _packed([case.grm_logprobs for case in cases], "<f4"),
        "old_logprobs": _packed([pair.old_logprobs for pair in of], "<f4"),
    }


class _Numbered:
    """Values in the order in which their keys were first asked for, each with its number."""

    def __init__(self) -> None:
        self.numbers: dict[Any, int] = {}
        self.values: list[Any] = []

    def __call__(self, key: Any, value: Any) -> int:
        if key not in self.numbers:
            self.numbers[key] = len(self.values)
            self.values.append(value)
        return self.numbers[key]


def _packed(parts: Sequence[Any], kind: str) -> str:
    arrays = [np.asarray(part, dtype=kind) for part in parts]
    joined = np.concatenate(arrays) if arrays else np.empty(0, dtype=kind)
    return base64.b64encode(joined.astype(kind, copy=False).tobytes()).decode("ascii")


def page_html(data: dict[str, Any]) -> str:
    """The page as one HTML text, in ASCII; `data` as `page_data` gives it."""
    here = files("rlmec.report")
    whole = here.joinpath("page.html").read_text(encoding="utf-8")
    style = here.joinpath("page.css").read_text(encoding="utf-8")
    script = here.joinpath("page.js").read_text(encoding="utf-8")
    policy = policy_of({"script-src": allowed(script), "style-src": allowed(style)})
    block = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for mark, escape in _ESCAPES:
        block = block.replace(mark, escape)
    head, tail = whole.split("@data@")
    for name, text in (("@csp@", policy), ("@style@", style)):
        head = head.replace(name, text)
    return head + block + tail.replace("@script@", script)


def policy_of(sources: dict[str, str]) -> str:
    """A Content-Security-Policy under which a page loads and runs nothing but `sources`."""
    rules = {
        "default-src": "'none'",
        **sources,
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def allowed(text: str) -> str:
    """A policy's name for an inline style or script of exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
