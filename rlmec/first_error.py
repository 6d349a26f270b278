"""A reward rule that punishes the first error alone: what is removed where a correction begins.

In and out as in `rewards`. What a wrong attempt says after its first error stands in the light of
it, so later removed tokens are often right as they stand; and a row of the policy's training ends
behind its last token with credit, so that punishing the first error alone costs hardly a token more
than imitating the correction.
"""

from __future__ import annotations

import numpy as np


def first_error_labels(
    grm_logprobs: np.ndarray,
    is_right: bool,
    removed: np.ndarray,
    first_edit: int | None,
    *,
    reward: float = 0.5,
    penalty: float = 0.1,
) -> np.ndarray:
    """`reward` on all of a right attempt, -`penalty` on the run of removed tokens that begins at
    the first edit; 0 elsewhere. Float32 [n].

    An attempt whose first edit inserts, and one without a correction, gets 0 throughout. The GRM's
    values are not looked at. Negative settings raise ValueError. Source: the edit labels of
    method.md, follow-up work, up to the first error as in VPPO, arXiv 2601.18984.
    """
    if reward < 0 or penalty < 0:
        raise ValueError(f"reward {reward} and penalty {penalty} are sizes: not below 0")
    out = np.zeros(len(removed), dtype=np.float32)  # [n]
    if is_right:
        return out + np.float32(reward)
    if first_edit is not None:
        kept = np.flatnonzero(~np.asarray(removed[first_edit:], dtype=bool))  # [kept tokens]
        end = first_edit + int(kept[0]) if len(kept) else len(removed)
        out[first_edit:end] = -penalty
    return out
