"""The addresses that a configuration names: of every artifact that its whole chain has or will
have.

Nothing is made and no artifact is read; files and model directories that count in an address are.
"""

from __future__ import annotations

from pathlib import Path

from rlmec.keeping import Named
from rlmec.launch import Ranks
from rlmec.settings import RunSettings
from rlmec.stages.chain import Run, Stage, address_of
from rlmec.stages.reporting import ReportStage

__all__ = ["addresses"]


def addresses(settings: RunSettings) -> list[Named]:
    """All of them, parents before what is made from them.

    Raises FileNotFoundError for a file or a model that is not there, ValueError for one that cannot
    be read.
    """
    run = Run(settings, Ranks(), Path())
    known: dict[tuple[str, str], tuple[Stage, str]] = {}
    address_of(ReportStage(run), known)
    return [Named(stage.title, stage.name, address) for stage, address in known.values()]
