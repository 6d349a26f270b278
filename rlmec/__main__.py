"""The command line of the package: rlmec COMMAND [key=value ...], or python -m rlmec.

In: a command, and arguments that are Hydra's. Out: what train.py and evaluate.py of a checkout do.
Nothing heavy is imported before the command is known.
"""

from __future__ import annotations

import difflib
import sys
from typing import NamedTuple

import rlmec


class Command(NamedTuple):
    """The program of a command, the stage that it stands for, and its line in the help."""

    program: str
    stage: str | None
    line: str


COMMANDS = {
    "train": Command("train", None, "make a stage (stage=X) or the whole chain"),
    "evaluate": Command("evaluate", None, "judge a model (evaluate.model=DIR)"),
    "export": Command("train", "export", "write a model or pairs for use elsewhere (export.path)"),
    "report": Command("train", "report", "make the chain, and show its table and pages"),
    "plan": Command("train", "plan", "say what a run needs; makes nothing"),
    "status": Command("train", "status", "show what the store holds"),
    "prune": Command("train", "prune", "list what could be removed (prune.dry_run=false: remove)"),
}


def usage() -> str:
    """The help: each command with its line."""
    lines = [f"  {name:9} {command.line}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: rlmec COMMAND [key=value ...]",
            "",
            *lines,
            "",
            "rlmec train --help shows the groups of settings with their options, and",
            "rlmec train --cfg job ... all settings of a run. --version shows the version.",
            "Folders are relative to the one that the command is started in.",
        ]
    )


def main() -> None:
    """Run the command of this process's command line; an unknown one ends it with 2."""
    name, rest = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("--help", [])
    if name in ("--help", "-h", "help"):
        print(usage())
        return
    if name == "--version":
        print(f"rlmec {rlmec.__version__}")
        return
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1, 0.5)
        hint = f"the nearest is {near[0]!r}" if near else f"there is {', '.join(COMMANDS)}"
        hint = f"write rlmec train {name}" if "=" in name else hint
        print(f"error: {name}: no such command; {hint}", file=sys.stderr)
        raise SystemExit(2)

    from rlmec import programs

    command = COMMANDS[name]
    programs.start(command.program, rest, stage=command.stage)


if __name__ == "__main__":
    main()
