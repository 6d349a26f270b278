"""RLMEC: token-level reinforcement learning with minimum-edit corrections (arXiv 2401.06081)."""

__version__ = "0.1.0"
