"""The addresses that a configuration names: of every artifact that its whole chain has or will
have.

Nothing is made and no artifact is read; files and model directories that count in an address are.
"""

from __future__ import annotations

from pathlib import Path

from rlmec.artifacts import Artifact
from rlmec.keeping import Named
from rlmec.launch import Ranks
from rlmec.settings import RunSettings
from rlmec.stages.chain import Run, Stage
from rlmec.stages.reporting import ReportStage

__all__ = ["addresses"]


def addresses(settings: RunSettings) -> list[Named]:
    """All of them, parents before what is made from them.

    Raises FileNotFoundError for a file or a model that is not there, ValueError for one that cannot
    be read.
    """
    run = Run(settings, Ranks(), Path())
    found: dict[tuple[str, str], Named] = {}
    _visit(ReportStage(run), found)
    return list(found.values())


def _visit(stage: Stage, found: dict[tuple[str, str], Named]) -> Named:
    key = (stage.name, stage.variant)
    if key not in found:
        above = {name: _visit(parent, found) for name, parent in stage.parents().items()}
        parents = {k: Artifact(n.stage, n.fingerprint, Path(), {}) for k, n in above.items()}
        found[key] = Named(stage.title, stage.name, stage.fingerprint(parents))
    return found[key]
