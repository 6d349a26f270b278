"""The stages of the chain, and what `train.py` and `evaluate.py` call."""

from rlmec.stages.run import addresses, evaluate, train

__all__ = ["addresses", "evaluate", "train"]
