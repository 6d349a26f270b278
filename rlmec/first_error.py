"""A reward rule that punishes the first error alone: what is removed where a correction begins.

In and out as in `rewards`. What a wrong attempt says after its first error stands in the light of
it, so later removed tokens are often right as they stand; and a row of the policy's training ends
behind its last token with credit, so that punishing the first error alone costs hardly a token more
than imitating the correction.
"""

from __future__ import annotations

import numpy as np

from rlmec.rewards import edit_labels


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
    out = edit_labels(grm_logprobs, is_right, removed, reward=reward, penalty=penalty)  # [n]
    if not is_right and first_edit is not None:
        kept = np.flatnonzero(~np.asarray(removed[first_edit:], dtype=bool))  # [kept tokens]
        if len(kept):
            out[first_edit + kept[0] :] = 0.0
    return out
