"""Random pairs of an attempt and its correction as rows, and what a row says about its tokens."""

import numpy as np
from paper_objective import rlmec_clipped

from rlmec.data.row import CREDIT, Row
from rlmec.method.objectives import TokenBatch


def edited(draw, ids, edits, vocabulary):
    """`ids` after so many random replacements, deletions and insertions; never empty."""
    out = list(ids)
    for _ in range(edits):
        at = int(draw.integers(0, len(out)))
        kind = int(draw.integers(0, 3))
        new = int(draw.integers(2, vocabulary))
        if kind == 0:
            out[at] = new
        elif kind == 1 and len(out) > 1:
            del out[at]
        else:
            out.insert(at, new)
    return out


def random_pair(draw, name, *, edits, vocabulary=200, prompt=(3, 9), length=(4, 14)):
    """Flat rows of a wrong attempt (rewards on some tokens) and of its correction (weights)."""
    head = draw.integers(2, vocabulary, draw.integers(*prompt)).tolist()
    attempt = draw.integers(2, vocabulary, draw.integers(*length)).tolist()
    target = edited(draw, attempt, edits, vocabulary)
    rewards = draw.choice([0.0, -0.1, -0.05], len(attempt))
    weights = draw.choice([0.0, 0.5, 1.0], len(target), p=[0.2, 0.5, 0.3])
    none, old = np.zeros(len(target)), -draw.random(len(attempt)) * 3
    return [
        Row.flat(f"{name}/corrected", head + target, len(head), none, none, weights),
        Row.flat(name, head + attempt, len(head), rewards, old, 0 * rewards),
    ]


def scored(row):
    """What a row scores: (ids read so far, target, reward, old log-prob where rewarded, weight)."""
    ids, out = np.asarray(row.input_ids), []
    credit = [getattr(row, name).tolist() for name in CREDIT]
    for i, source in enumerate(row.sources.tolist()):
        read = np.arange(len(ids)) <= source
        read &= row.ancestors[row.segment_ids[source]][row.segment_ids]
        reward, old, weight = (round(values[i], 6) for values in credit)
        out.append((*ids[read].tolist(), int(row.targets[i]), reward, old * bool(reward), weight))
    return out


def credits(rows):
    """Rewards and weights of all rows one by one, sorted: what the loss is made of."""
    found = [s for row in rows for s in scored(row)]
    rewards = [s[:-1] for s in found if s[-3]]
    return sorted(rewards), sorted((*s[:-3], s[-1]) for s in found if s[-1])


def loss_of(net, batch, objective=rlmec_clipped):
    """The loss of one batch that is a whole step."""
    logprobs = net(batch)  # [N]
    sums = objective(
        TokenBatch(
            logprobs,
            batch["old_logprobs"],
            batch["token_rewards"],
            batch["weights"],
            logprobs == logprobs,
        )
    )
    policy = sums.policy / batch["policy_normalizer"]
    return policy + sums.imitation_coef * sums.imitation / batch["imitation_normalizer"]
