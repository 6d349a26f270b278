"""RLMEC: token-level reinforcement learning with minimum-edit corrections (arXiv 2401.06081).

As a library: `rlmec.train` and `rlmec.evaluate` run the programs (see `rlmec.programs`);
`rlmec.score` and `rlmec.rewrite` apply a reward model to texts of your own (see
`rlmec.export.library`). They are imported when they are first used, so that `import rlmec` does not
load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlmec.export.library import RewardModel, Rewritten, Scored, rewrite, score
    from rlmec.programs import RunResult, evaluate, train
    from rlmec.prompts import Templates

__version__ = "0.1.0"
__all__ = ["RewardModel", "Rewritten", "RunResult", "Scored", "Templates"]
__all__ += ["evaluate", "rewrite", "score", "train"]

_HOMES = {
    "RewardModel": "rlmec.export.library",
    "Rewritten": "rlmec.export.library",
    "RunResult": "rlmec.programs",
    "Scored": "rlmec.export.library",
    "Templates": "rlmec.prompts",
    "evaluate": "rlmec.programs",
    "rewrite": "rlmec.export.library",
    "score": "rlmec.export.library",
    "train": "rlmec.programs",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rlmec' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
