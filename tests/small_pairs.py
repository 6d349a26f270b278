"""Hand-made pairs and what their rows hold."""

import numpy as np
from small_models import prompts

from rlmec.records import Attempt, Pair

DIGEST = prompts().codec.digest


PROMPT = [5, 6]


def pair(id="a", attempt=(10, 11, 12), target=(10, 20, 12), rewards=(0, -0.1, 0), weights=None):
    verdict = "right" if attempt == target else "wrong"
    made = Attempt(id, "p0", PROMPT, list(attempt), [], "", verdict, False, DIGEST)
    if weights is None:
        weights = [0.5] * len(target)
    old = -np.arange(1.0, len(attempt) + 1, dtype=np.float32)
    as_floats = [np.array(x, dtype=np.float32) for x in (rewards, weights)]
    return Pair(made, list(target), old, *as_floats)


def values(row):
    names = ("token_rewards", "old_logprobs", "weights")
    return [[round(x, 6) for x in getattr(row, n).tolist()] for n in names]
