"""What `--help` shows: how the program is used, and the groups of settings with their options.

In: the arguments of a command line that asks for help, and the folders of the configuration. Out: a
text of lines of at most 79 characters.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser

from rlmec.settings.command_line import groups_of, parser, search_path

WIDTH = 79
USES = {
    "train": {
        "": "make the whole chain, up to the report",
        "stage=grm": "up to one stage: warmup sample teach grm score policy evaluate",
        "stage=plan": "what the run would make or reuse, and its memory; makes nothing",
        "stage=status": "what the store holds; stage=prune: what could be removed",
        "stage=export export.path=DIR": "write a model or pairs for use elsewhere",
        "-m seed=1,2": "a sweep: one job per combination of values",
    },
    "evaluate": {
        "evaluate.model=DIR": "judge a model: a directory or a hub name",
        "evaluate.attempts=FILE": "judge stored outputs",
        "evaluate.model=DIR evaluate.against=OTHER": "compare two models by problem",
    },
}
"""How each program is used: arguments, and what they do."""

GROUPS = {
    "ablation": "one part of the method changed or left out",
    "callbacks": "checkpoints of a fit, and callbacks of your own",
    "debug": "short runs that look for faults",
    "engine": "what samples",
    "experiment": "whole configurations for one purpose",
    "hparams_search": "sweeps over learning rates and methods",
    "logger": "where the figures of fits go",
    "method": "RLMEC, and the methods that it is compared with",
    "model": "the policy's start: a finished model, or one from scratch",
    "paths": "the folders of artifacts and outputs",
    "policy/objective": "the loss that the policy is trained with",
    "policy/reward": "how the GRM's probabilities become token rewards",
    "policy/rows": "what the policy is trained on",
    "prompt": "the texts around problems and attempts",
    "task": "the problems and their judge",
    "teacher": "what corrects wrong attempts",
    "teacher/prompts": "what a teacher that is a language model is asked",
    "trainer": "devices and precision of the machine",
    "warmup": "fine-tuning of the start on reference solutions",
}
"""What each group of the configuration chooses."""


def help_text(argv: Sequence[str], config_dir: Path, config_name: str) -> str | None:
    """The help, if a command line asks for it. Groups of the user's own files are included.

    Raises ConfigurationError for a folder of configuration files that is not there.
    """
    args = parser().parse_args(argv)
    if not args.help:
        return None
    overrides = OverridesParser.create().parse_overrides(args.overrides)
    search = [f"hydra.searchpath={search_path(args.config_dir, overrides)}"]
    with initialize_config_dir(str(config_dir.resolve()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()

        def options(group: str, kind: ObjectType = ObjectType.CONFIG) -> list[str]:
            return loader.get_group_options(group, kind, overrides=search)

        groups = {name: options(name) for name in groups_of(options)}

    program = parser().prog
    command = f"rlmec {config_name}" if program == "rlmec" else f"python {program}"
    return "\n".join(
        [
            f"usage: {command} [SETTING=VALUE ...] [GROUP=OPTION ...]",
            "",
            *_uses(command, USES.get(config_name, USES["train"])),
            "",
            "--cfg job after any of these shows all settings with their values, --version the",
            "version, --hydra-help the options of Hydra.",
            "",
            "groups:",
            *(line for name, found in groups.items() if found for line in _group(name, found)),
        ]
    )


def _uses(command: str, uses: dict[str, str]) -> list[str]:
    return [
        line
        for arguments, what in uses.items()
        for line in (f"  {command} {arguments}".rstrip(), f"      {what}")
    ]


def _group(name: str, options: Sequence[str]) -> list[str]:
    """A line that says what a group chooses, and its options."""
    what = GROUPS.get(name, "your own")
    wrapped = textwrap.wrap(
        ", ".join(options), WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6
    )
    return [f"  {name}: {what}", *wrapped]
