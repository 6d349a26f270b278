"""A default has one home: a value that conf/ shows has no default in code.

Three kinds of value are no defaults: what a file says about other files (experiments, methods,
ablations, searches, debugging), where only nodes with a `_target_` are looked at; a reference to
another key (`${seed}`); and `???`, for which the user gives a value.
"""

import dataclasses
import functools
import importlib
import inspect
from pathlib import Path

import pytest
import yaml

from rlmec.settings.schema import RunSettings

CONF = Path(__file__).resolve().parents[2] / "conf"
CHANGING = {"experiment", "method", "ablation", "hparams_search", "debug"}
# (file, key): why a value has a default in code, too.
OPTIONS = "several files choose one class, which has no data set of its own"
ADAPTER = "the layers of one family of models; a library's name for them is the default"
REVIEWED: dict[tuple[str, str], str] = {
    ("task/arc.yaml", "task.hub"): OPTIONS,
    ("task/arc.yaml", "task.hub_config"): OPTIONS,
    ("task/arc.yaml", "task.hub_splits"): OPTIONS,
    ("task/ecqa.yaml", "task.hub"): OPTIONS,
    ("task/ecqa.yaml", "task.hub_splits"): OPTIONS,
    ("task/math.yaml", "task.hub_splits"): "a key of it is changed alone: task.hub_splits.train",
    ("task/openbookqa.yaml", "task.hub"): OPTIONS,
    ("task/openbookqa.yaml", "task.hub_config"): OPTIONS,
    ("task/openbookqa.yaml", "task.hub_splits"): OPTIONS,
    ("task/qasc.yaml", "task.hub"): OPTIONS,
    ("task/qasc.yaml", "task.hub_splits"): OPTIONS,
    **{
        (f"model/{name}.yaml", "model.lora.target_modules"): ADAPTER
        for name in ("qwen3_1_7b", "qwen3_8b", "llama_3_1_8b")
    },
}


def settings_class(path):
    """The settings class of a dotted node, or None where a target or free values begin."""
    cls = RunSettings
    for part in path:
        hints = inspect.get_annotations(cls, eval_str=True)
        for base in reversed(cls.__mro__[1:-1]):
            hints = inspect.get_annotations(base, eval_str=True) | hints
        arms = [hints.get(part), *getattr(hints.get(part), "__args__", ())]
        cls = next((a for a in arms if isinstance(a, type) and dataclasses.is_dataclass(a)), None)
        if cls is None:
            return None
    return cls


def with_defaults(owner):
    """The names that a class or function has defaults for."""
    parameters = inspect.signature(owner).parameters.values()
    return {p.name for p in parameters if p.default is not p.empty}


@functools.cache
def target(name):
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def twice(node, path, home):
    """The dotted keys below a node that have a default in code as well."""
    name = node.get("_target_")
    own = isinstance(name, str) and name.startswith("rlmec.")
    owner = target(name) if own else (settings_class(path) if name is None and home else None)
    known = with_defaults(owner) if owner is not None else set()
    for key, value in node.items():
        refers = isinstance(value, str) and value.startswith(("${", "???"))
        if key in known and not refers:
            yield ".".join((*path, key))
        if isinstance(value, dict):
            yield from twice(value, (*path, key), home)


def found():
    for file in sorted(CONF.rglob("*.yaml")):
        place = file.relative_to(CONF)
        group = () if len(place.parts) == 1 else place.parts[:-1]
        home = not (group and group[0] in CHANGING)
        node = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        for key in twice(node, group if home else (), home):
            yield place.as_posix(), key


def test_no_value_has_two_homes():
    double = sorted(set(found()) - set(REVIEWED))
    shown = "\n".join(f"{file}: {key}" for file, key in double)
    assert not double, f"these have a default in YAML and one in code:\n{shown}"


HEAD = (
    "# Defaults of the target (a test keeps these lines true). Override them like any other key:\n"
)


def commented_defaults(text):
    """The defaults that a file shows in comments: {name: value}."""
    lines = text.partition(HEAD)[2].splitlines()
    shown = [line.removeprefix("# ") for line in lines if not line.startswith("# (")]
    return yaml.safe_load("\n".join(shown)) or {}


@pytest.mark.parametrize("file", sorted(CONF.rglob("*.yaml")), ids=lambda f: f.stem)
def test_a_file_shows_the_defaults_of_its_target(file):
    """Whoever reads conf/ sees every value: what a file does not set is shown in its comments."""
    text = file.read_text(encoding="utf-8")
    node = yaml.safe_load(text) or {}
    name = node.get("_target_")
    wanted = {}
    if isinstance(name, str) and name.startswith("rlmec."):
        parameters = inspect.signature(target(name)).parameters.values()
        wanted = {
            p.name: list(p.default) if isinstance(p.default, tuple) else p.default
            for p in parameters
            if p.default is not p.empty and p.name not in node and p.name not in ("task", "policy")
        }
    assert commented_defaults(text) == wanted


def test_the_reviewed_list_holds_nothing_that_is_gone():
    assert set(REVIEWED) <= set(found())
    assert all(REVIEWED.values())


@pytest.mark.parametrize(("path", "name"), [(("grm", "mixture"), "Mixture"), ((), "RunSettings")])
def test_nodes_are_found_in_the_settings(path, name):
    assert settings_class(path).__name__ == name
    assert settings_class(("policy", "objective")) is None
