"""The doors: what `train.py` and `evaluate.py` open. Nothing imports this package but they."""

from rlmec.stages.run import addresses, evaluate, train

__all__ = ["addresses", "evaluate", "train"]
