"""RLMEC: token-level reinforcement learning with minimum-edit corrections (arXiv 2401.06081).

As a library: `rlmec.score` and `rlmec.rewrite` apply a reward model to texts of your own (see
`rlmec.export.library`). They are imported when they are first used, so that `import rlmec` does not
load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlmec.export.library import RewardModel, Rewritten, Scored, rewrite, score
    from rlmec.prompts import Templates

__version__ = "0.1.0"
__all__ = ["RewardModel", "Rewritten", "Scored", "Templates", "rewrite", "score"]

_HOMES = {
    "RewardModel": "rlmec.export.library",
    "Rewritten": "rlmec.export.library",
    "Scored": "rlmec.export.library",
    "Templates": "rlmec.prompts",
    "rewrite": "rlmec.export.library",
    "score": "rlmec.export.library",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rlmec' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
