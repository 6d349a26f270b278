"""Made-up scored attempts for the page: short lines of sums, with any piece of text as a token."""

import base64
from dataclasses import replace

import numpy as np

from rlmec.lm.token_texts import TokenTexts
from rlmec.records import (
    Alternatives,
    Attempt,
    Correction,
    Pair,
    Problem,
)
from rlmec.report.token_page import AskedAgain, Case

END = 0
NASTY = [
    "</script><img src=x onerror=alert(1)>",
    "<!--<script>",
    "\u2028\u2029",
    "\u202eevil\u202c",
    "\"'`&amp;",
    "\x00\x07\x1b",
    "\u0301",
    "@script@@data@",
]
PIECES = ["<|end|>", "\n", *(f" {n}" for n in range(60)), "+", "-", "*", "/", "=", *NASTY]
RARE = len(PIECES) - len(NASTY)  # the first nasty piece


def decode(ids):
    return "".join(PIECES[i] for i in ids)


def texts():
    return TokenTexts(decode, 2)


def made(number, *, tokens=40, nasty=False):
    """A case: every third one right, of the wrong ones every fourth not corrected."""
    draw = np.random.default_rng(number)
    ids = [int(i) for i in draw.integers(1, RARE, tokens - 1)] + [END]
    if nasty:
        ids[3 : 3 + len(NASTY)] = range(RARE, len(PIECES))
    right = number % 3 == 0
    grm = np.log(draw.uniform(0.01, 1.0, tokens)).astype(np.float32)
    low, high = (0.0, 0.5) if right else (-0.1, 0.0)
    rewards = np.clip(np.exp(grm) - 0.5, low, high).astype(np.float32)
    problem = Problem(f"p{number // 4}", f"What is {number // 4}? {NASTY[0]}", "4 & 5", kind="sum")
    attempt = Attempt(
        id=f"{problem.id}/{number}",
        problem_id=problem.id,
        prompt_ids=[1],
        completion_ids=ids,
        logprobs=[],
        text=decode(ids),
        verdict="right" if right else "wrong",
        clipped=False,
        tokenizer="t",
    )
    target = [*ids[:5], 2, 3, *ids[6:20], *ids[22:]]  # one replaced by two, two removed
    pair = Pair(attempt, ids, grm, rewards, np.zeros(tokens, np.float32))
    correction = None
    if not right:
        reason = "not_right" if number % 4 == 0 else "accepted"
        of = {"text": decode(target), "verdict": "right", "edit_ratio": 0.1, "reason": reason}
        correction = Correction(
            attempt.id, problem.id, target, source="oracle", tokenizer="t", **of
        )
    return Case(
        pair,
        problem,
        [float(g) for g in grm],
        correction,
        taught=number % 5 < 4,
        alternatives=None if right else alternatives(attempt.id, grm),
        again=asked_again(number, attempt, target) if number % 3 == 1 else None,
    )


def asked_again(number, attempt, ids):
    """The trained policy: every second time right; where it finds a token half as likely."""
    solution = replace(
        attempt,
        id=f"{attempt.problem_id}/0",
        completion_ids=ids,
        text=decode(ids),
        verdict="right" if number % 2 else "no_answer",
    )
    logprobs = np.log(np.linspace(0.05, 0.95, len(attempt.completion_ids)))
    return AskedAgain([float(p) for p in logprobs.astype(np.float32)], solution)


def alternatives(id_, grm):
    """Two made-up tokens in each place in which the GRM finds the attempt's token unlikely."""
    places = np.flatnonzero(np.exp(grm) < 0.3).tolist()
    ids = [id_ for place in places for id_ in (2 + place, 3 + place)]
    return Alternatives(id_, places, ids, [-0.25, -2.0] * len(places), "t")


def array(data, name):
    kind = "<u4" if name in ("tokens", "targets", "ids", "instead", "solutions") else "<f4"
    return np.frombuffer(base64.b64decode(data[name]), dtype=kind)
