"""Judges a model directory: python evaluate.py evaluate.model=DIR [task=X] [key=value ...]"""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from rlmec.runtime.entry import Program, run_program
from rlmec.runtime.ranks import die_with_parent
from rlmec.runtime.signals import listen
from rlmec.settings.command_line import check_command_line, with_split_files

CONF = Path(__file__).resolve().parent / "conf"


def program() -> Program:
    """The heavy part, which is imported only after the configuration is checked."""
    from rlmec import stages

    return stages.evaluate


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="evaluate")
def main(cfg: DictConfig) -> float | None:
    return run_program(cfg, program)


if __name__ == "__main__":
    die_with_parent()
    listen()
    sys.argv[1:] = with_split_files(sys.argv[1:])
    sys.argv[1:] = check_command_line(sys.argv[1:], CONF, "evaluate")
    main()
