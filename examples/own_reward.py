"""A reward rule of a user. The command that trains with it is in examples/README.md."""

import numpy as np


def doubted_edits(
    grm_logprobs: np.ndarray, is_right: bool, removed: np.ndarray, *, penalty: float = 0.1
) -> np.ndarray:
    """Punish tokens that the correction removes and that the GRM doubts; reward right attempts."""
    if is_right:
        return np.full(len(removed), penalty, dtype=np.float32)
    doubted = np.exp(grm_logprobs) < 0.5
    return np.where(doubted & removed, -penalty, 0.0).astype(np.float32)
