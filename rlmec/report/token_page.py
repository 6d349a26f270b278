"""The token-reward page: every token of an attempt coloured by its reward, next to the correction.

In: scored attempts with their corrections (`Case`). Out: one HTML file that needs no network. It
contains the data as a JSON block, the style, and the script that draws the tokens.

Texts of models and users reach the document only through the JSON block, in which `<`, `>` and `&`
are escaped, and from there through `textContent`. A Content-Security-Policy allows only this style
and this script. Numbers are stored exactly, as base64 of little-endian arrays: rewards and
log-probs as float32 (nats), token ids as uint32.
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
from rlmec.records import Alternatives, Attempt, Correction, Pair, Problem, hash_share

MOST_TOKENS = 2_000_000
"""The most tokens of attempts on a page: about 40 MB, which a browser opens in seconds."""

WRONG_SHARE = 0.8
"""The least share of wrong attempts on a page that cannot show all attempts."""

SCRIPTS = ("token_page.js", "token_page_svg.js")
"""The files of the page's script, which are joined."""

_TAGS = {"equal": 0, "replace": 1, "insert": 2, "delete": 3}
_ESCAPES = (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"))


@dataclass(frozen=True, eq=False)
class AskedAgain:
    """What the trained policy makes of an attempt of the old one.

    `logprobs` [n] are those of the attempt's tokens (nats). `solution` is its own greedy attempt at
    the problem.
    """

    logprobs: Sequence[float]
    solution: Attempt


@dataclass(frozen=True, eq=False)
class Case:
    """An attempt with its credit, the GRM's view of it, and its correction.

    `grm_logprobs` [n] are raw (nats), None for an attempt without a score. `correction` is the
    accepted one; without one a rejected one; without that None. `taught` is True if the GRM was
    trained on the problem. `alternatives` is what the GRM would have written in some places, if
    `score` kept it. `again` is the trained policy's view, if it was asked.
    """

    pair: Pair
    problem: Problem
    grm_logprobs: Sequence[float] | None
    correction: Correction | None
    taught: bool
    alternatives: Alternatives | None = None
    again: AskedAgain | None = None

    def __post_init__(self) -> None:
        tokens = len(self.pair.attempt.completion_ids)
        scored: dict[str, int] = {}
        if self.grm_logprobs is not None:
            scored["grm_logprobs"] = len(self.grm_logprobs)
        if self.again is not None:
            scored["again.logprobs"] = len(self.again.logprobs)
        for name, found in scored.items():
            if tokens != found:
                raise ValueError(
                    f"attempt {self.pair.attempt.id!r} has {tokens} tokens, {name} {found}"
                )


def chosen(cases: Sequence[Case], most: int, most_tokens: int = MOST_TOKENS) -> list[Case]:
    """At most `most` cases in their order, and at most `most_tokens` tokens of attempts.

    If there are more cases, wrong attempts get at least `WRONG_SHARE` of the places, and more if
    there are not enough right ones. A hash of the attempt's id decides which ones are taken, so
    that the choice is even and the same in every run. A case that would exceed `most_tokens` is
    left out, and a shorter one may take its place. Raises ValueError if `most` is below 1.
    """
    if most < 1:
        raise ValueError(f"a page of {most} attempts: at least 1 is needed (report.page_pairs)")

    right = [i for i, case in enumerate(cases) if case.pair.attempt.is_right]
    wrong = [i for i, case in enumerate(cases) if not case.pair.attempt.is_right]
    places = min(len(wrong), max(int(most * WRONG_SHARE), most - len(right)))
    picked = sorted(_first(cases, wrong, places) + _first(cases, right, most - places))

    # The limit on tokens is filled in the order of the hash too, not in that of the records.
    kept = set[int]()
    tokens = 0
    for i in sorted(picked, key=lambda i: _hash_of(cases[i])):
        length = len(cases[i].pair.attempt.completion_ids)
        if tokens + length <= most_tokens:
            kept.add(i)
            tokens += length
    return [cases[i] for i in picked if i in kept]


def _first(cases: Sequence[Case], which: list[int], count: int) -> list[int]:
    return sorted(which, key=lambda i: _hash_of(cases[i]))[:count]


def _hash_of(case: Case) -> float:
    return hash_share(0, "page", case.pair.attempt.id)


def telling(case: Case) -> float:
    """How much an attempt shows of the method at a glance.

    That is the agreement of penalties and removed tokens (Dice coefficient) times the share of the
    attempt that its accepted correction keeps, 1 more if the GRM was not trained on the problem. It
    is 0 without a removed token that is punished. Without a score it is the share that is kept.
    """
    correction = case.correction
    if case.pair.attempt.is_right or correction is None or not correction.accepted:
        return 0.0
    if case.grm_logprobs is None:
        return 1 - correction.edit_ratio
    script = edit_script(case.pair.attempt.completion_ids, correction.completion_ids)
    punished = case.pair.token_rewards < 0
    both = int((punished & script.removed).sum())
    if not both:
        return 0.0
    agreement = 2 * both / int(punished.sum() + script.removed.sum())
    return agreement * (1 - correction.edit_ratio) + (not case.taught)


def page_data(
    cases: Sequence[Case],
    texts: TokenTexts,
    end_ids: Iterable[int],
    *,
    title: str,
    choice: str,
    credit: str = "",
    index: str = "",
    facts: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:
    """What the page draws, as plain values.

    - `title`, `choice` (which attempts the page shows), `credit` (how good the penalties are, in
      words) and `facts` (name, value) of the run are shown on top; `index` is the address of the
      report's first page, or empty.
    - `attempts` has one entry per case, see `_attempt_entry`.
    - `tokens` and `targets` are numbers of texts in `pieces`: those of the attempts and of the
      corrections, one after the other. `special` are the numbers of end tokens.
    - `ids`, `rewards`, `grm_logprobs` and `old_logprobs` have one value per token of `tokens`.
    - `solutions` are those of the trained policy's solutions, and `new_logprobs` have one value per
      token of the attempts that it was asked about, one after the other.
    - `instead` and `instead_logprobs` are tokens that the GRM would have written, and their
      log-probs: `per_place` of them for each of an attempt's `places`, one after the other.
    """
    pieces, problems = _Numbered(), _Numbered()
    ends = set(end_ids)
    attempts: list[dict[str, Any]] = []
    tokens: list[int] = []
    targets: list[int] = []
    solutions: list[int] = []
    instead: list[int] = []
    per_place = _per_place(cases)
    for case in cases:
        attempts.append(_attempt_entry(case, problems(case.problem.id, case.problem)))
        ids = case.pair.attempt.completion_ids
        target = case.correction.completion_ids if case.correction else []
        now = case.again.solution.completion_ids if case.again else []
        for found, into in ((ids, tokens), (target, targets), (now, solutions)):
            for id_, text in zip(found, texts(found), strict=True):
                into.append(pieces((text, id_ in ends), text))
        # Alternatives are no text together: each is read by itself.
        for id_ in case.alternatives.ids if case.alternatives else []:
            text = texts([id_])[0]
            instead.append(pieces((text, id_ in ends), text))

    pairs = [case.pair for case in cases]
    return {
        "format": 3,
        "title": title,
        "choice": choice,
        "credit": credit,
        "index": index,
        "facts": [list(fact) for fact in facts],
        "pieces": pieces.values,
        "special": [number for (_, end), number in pieces.numbers.items() if end],
        "problems": [_problem_entry(problem) for problem in problems.values],
        "attempts": attempts,
        "tokens": _packed([tokens], "<u4"),
        "targets": _packed([targets], "<u4"),
        "solutions": _packed([solutions], "<u4"),
        "per_place": per_place,
        "instead": _packed([instead], "<u4"),
        "instead_logprobs": _packed(
            [case.alternatives.logprobs for case in cases if case.alternatives], "<f4"
        ),
        "ids": _packed([pair.attempt.completion_ids for pair in pairs], "<u4"),
        "rewards": _packed([pair.token_rewards for pair in pairs], "<f4"),
        "grm_logprobs": _packed([_scored(case) for case in cases], "<f4"),
        "old_logprobs": _packed([pair.old_logprobs for pair in pairs], "<f4"),
        "new_logprobs": _packed([case.again.logprobs for case in cases if case.again], "<f4"),
    }


def _scored(case: Case) -> Sequence[float]:
    if case.grm_logprobs is None:
        raise ValueError(f"attempt {case.pair.attempt.id!r} has no score: it cannot be on the page")
    return case.grm_logprobs


def _per_place(cases: Sequence[Case]) -> int:
    """How many alternatives each place has, 0 without any. ValueError if it is not one number."""
    found = {
        len(case.alternatives.ids) // len(case.alternatives.places)
        for case in cases
        if case.alternatives and case.alternatives.places
    }
    if len(found) > 1:
        raise ValueError(f"attempts have {sorted(found)} alternatives per place")
    return found.pop() if found else 0


def _problem_entry(problem: Problem) -> dict[str, Any]:
    names = ("id", "question", "answer", "kind", "solution")
    return {name: getattr(problem, name) for name in names}


def _attempt_entry(case: Case, problem: int) -> dict[str, Any]:
    """The facts of one case; `problem` is the number of its problem.

    `n` and `m` are the lengths of the attempt and of the correction (0 without one). `ops` is the
    edit script, five numbers per operation: tag (0 kept, 1 replaced, 2 inserted, 3 deleted), source
    start and end, target start and end. `places` are the tokens that have alternatives. `now` is
    the verdict on the trained policy's solution (empty if it was not asked), `k` its length.
    """
    attempt = case.pair.attempt
    correction = case.correction
    target = correction.completion_ids if correction else []
    now = case.again.solution if case.again else None
    ops = edit_script(attempt.completion_ids, target).opcodes if target else ()
    return {
        "id": attempt.id,
        "problem": problem,
        "verdict": attempt.verdict,
        "clipped": attempt.clipped,
        "source": attempt.source,
        "taught": case.taught,
        "n": len(attempt.completion_ids),
        "m": len(target),
        "by": correction.source if correction else "",
        "reason": correction.reason if correction else "",
        "ratio": round(correction.edit_ratio, 4) if correction else 0.0,
        "telling": telling(case),
        "places": list(case.alternatives.places) if case.alternatives else [],
        "now": verdict_words(now) if now else "",
        "k": len(now.completion_ids) if now else 0,
        "ops": [number for op in ops for number in (_TAGS[op.tag], *op[1:])],
    }


def verdict_words(attempt: Attempt) -> str:
    """The verdict on an attempt, as a page says it."""
    return "cut off" if attempt.clipped else attempt.verdict.replace("_", " ")


class _Numbered:
    """Numbers for values: a key gets the next number when it is asked for the first time."""

    def __init__(self) -> None:
        self.numbers: dict[Any, int] = {}
        self.values: list[Any] = []

    def __call__(self, key: Any, value: Any) -> int:
        if key not in self.numbers:
            self.numbers[key] = len(self.values)
            self.values.append(value)
        return self.numbers[key]


def _packed(parts: Sequence[Any], kind: str) -> str:
    """Arrays joined to one, in base64."""
    arrays = [np.asarray(part, dtype=kind) for part in parts]
    joined = np.concatenate(arrays) if arrays else np.empty(0, dtype=kind)
    return base64.b64encode(joined.astype(kind, copy=False).tobytes()).decode("ascii")


def page_html(data: dict[str, Any]) -> str:
    """The page as one HTML text in ASCII, from what `page_data` returns."""
    here = files("rlmec.report")
    template = here.joinpath("token_page.html").read_text(encoding="utf-8")
    style = here.joinpath("token_page.css").read_text(encoding="utf-8")
    script = "\n".join(here.joinpath(name).read_text(encoding="utf-8") for name in SCRIPTS)
    policy = policy_of({"script-src": allowed(script), "style-src": allowed(style)})
    block = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for mark, escape in _ESCAPES:
        block = block.replace(mark, escape)

    # The template is split first, because a text of the data may contain the name of a placeholder.
    head, tail = template.split("@data@")
    head = head.replace("@csp@", policy).replace("@style@", style)
    return head + block + tail.replace("@script@", script)


def policy_of(sources: dict[str, str]) -> str:
    """A Content-Security-Policy that allows a page to load and run only `sources`."""
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
    """The source expression that allows an inline style or script with exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
