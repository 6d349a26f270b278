"""Samples as this project's pairs, with credit like that of a reward model.

In: samples, and a network or None. Out: pairs. No trained GRM is needed: its probabilities are
drawn at random. `punished_removed` is the probability that a token which the correction removes is
unlikely under the GRM, `punished_kept` that of a kept token. Rewards come from the project's rule,
weights from its alignment. Old log-probs are the network's own with a little noise, so that ratios
are near 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.samples import Sample
from rlmec.method.alignment import edit_script, edit_weights
from rlmec.method.rewards import clipped_probability
from rlmec.records import Attempt, Pair

NOISE = 0.1
"""Standard deviation of the old log-probs around the network's own (nats)."""


def credited_pairs(
    samples: Sequence[Sample],
    network: Any,
    *,
    punished_removed: float,
    punished_kept: float,
    seed: int,
) -> list[Pair]:
    """Return one pair per sample; without a network, old log-probs are noise around -2."""
    draw = np.random.default_rng((seed, 11))
    out = []
    for number, sample in enumerate(samples):
        script = edit_script(sample.attempt, sample.target)

        # Probabilities of the GRM: above 0.5, except for tokens that it finds unlikely.
        chance = np.where(script.removed, punished_removed, punished_kept)  # [n]
        unlikely = draw.random(len(chance)) < chance  # [n]
        high = draw.uniform(0.5, 1.0, len(chance))  # [n]
        probability = np.where(unlikely, draw.uniform(0.0, 0.5, len(chance)), high)  # [n]

        rewards = clipped_probability(np.log(probability), sample.is_right, script.removed)

        own = np.full(len(chance), -2.0) if network is None else _logprobs(network, sample)
        weights = edit_weights(script)
        if sample.is_right:
            weights = np.full(len(chance), 0.5, dtype=np.float32)
        pair = Pair(
            _attempt(number, sample),
            sample.target,
            old_logprobs=(own + draw.normal(0, NOISE, len(chance))).astype(np.float32),
            token_rewards=rewards,
            edit_weights=weights,
        )
        out.append(pair)
    return out


def _attempt(number: int, sample: Sample) -> Attempt:
    return Attempt(
        id=f"a{number}",
        problem_id=f"p{sample.problem}",
        prompt_ids=sample.prompt,
        completion_ids=sample.attempt,
        logprobs=[],
        text="",
        verdict="right" if sample.is_right else "wrong",
        clipped=False,
        tokenizer="benchmark",
    )


@torch.no_grad()
def _logprobs(network: Any, sample: Sample) -> np.ndarray:
    """The network's log-probs of an attempt's tokens, float32 [n]."""
    ids = torch.tensor([sample.prompt + sample.attempt], device=network.device)  # [1, T]
    start = len(sample.prompt)
    logits = network(input_ids=ids, use_cache=False).logits[0, start - 1 : -1]  # [n, V]
    found = logits.float().log_softmax(-1).gather(-1, ids[0, start:, None])  # [n, 1]
    return found[:, 0].cpu().numpy()
