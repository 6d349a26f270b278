"""python -m tests.golden: writes the golden configurations again, after a default was changed.

train.yaml and evaluate.yaml hold the configuration that each entry point composes without any
override: interpolations resolved, every value cast, and the defaults that live in signatures of
this project filled in. A default that moves between YAML and a signature therefore changes nothing
here, and a default that changes shows in the diff, wherever it lives.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir

from rlmec.settings.check import check

HERE = Path(__file__).resolve().parent
CONF = HERE.parents[1] / "conf"
ENTRY_POINTS = ("train", "evaluate")
PLACES = ["logger.csv.save_dir=LOGS"]  # its default is the folder of a Hydra run


def effective(value: Any) -> Any:
    """Plain values, with what the signature of each of this project's targets would add."""
    if dataclasses.is_dataclass(value):
        return {f.name: effective(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        return [effective(item) for item in value]
    if not isinstance(value, dict):
        return value.__name__ if callable(value) else value
    found = {name: effective(item) for name, item in value.items()}
    if str(value.get("_target_")).startswith("rlmec."):
        module, _, name = value["_target_"].rpartition(".")
        target = getattr(importlib.import_module(module), name)
        for parameter in inspect.signature(target).parameters.values():
            if parameter.default is not parameter.empty:
                found.setdefault(parameter.name, effective(parameter.default))
    return found


def golden(entry_point: str) -> str:
    """The effective configuration of an entry point without overrides, as YAML."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        settings = check(compose(entry_point, overrides=PLACES), CONF)
    return yaml.safe_dump(effective(settings), sort_keys=True, allow_unicode=True, width=100)


def main() -> None:
    for name in ENTRY_POINTS:
        (HERE / f"{name}.yaml").write_text(golden(name), encoding="utf-8")


if __name__ == "__main__":
    main()
