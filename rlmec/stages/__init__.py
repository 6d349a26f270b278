"""The doors: what `train.py` and `evaluate.py` open. Nothing imports this package but they."""

from rlmec.stages.addressing import addresses
from rlmec.stages.doors import evaluate, train

__all__ = ["addresses", "evaluate", "train"]
