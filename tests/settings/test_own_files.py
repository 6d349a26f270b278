"""Each own.yaml of the configuration takes a function or class of the user's own module."""

import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from rlmec.settings.binding import build
from rlmec.settings.check import ConfigurationError, check
from rlmec.settings.command_line import check_command_line

CONF = Path(__file__).resolve().parents[2] / "conf"
MODULE = """
import numpy as np

from rlmec.method.objectives import weighted_likelihood


def my_rule(grm_logprobs, is_right, removed, *, penalty: float = 0.2):
    return np.where(removed, -penalty, 0.0).astype(np.float32)


def my_objective(tokens, *, power: float = 1.0):
    return weighted_likelihood(tokens)


def my_rows(data, *, most: int = 3):
    return []


class MyTeacher:
    name = "mine"

    def __init__(self, *, path: str = ""):
        self.path = path

    def correct(self, problem, attempt):
        return attempt


class MyTask:
    name = "mine"

    def __init__(self, *, path: str = ""):
        self.path = path
"""
OWN = {  # group: its target here and one of its settings
    "policy/reward": ("my_rule", "penalty", 0.3),
    "policy/objective": ("my_objective", "power", 0.5),
    "policy/rows": ("my_rows", "most", 2),
    "teacher": ("MyTeacher", "path", "FILE"),
    "task": ("MyTask", "path", "FILE"),
}


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "my_own_parts.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_own_parts", None)


def settings(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return check(compose("train", overrides=["logger=none", *overrides]), CONF)


def test_every_group_with_an_own_file_is_tried():
    found = {path.parent.relative_to(CONF).as_posix() for path in CONF.rglob("own.yaml")}
    assert found == set(OWN)


@pytest.mark.parametrize("group", OWN)
def test_an_own_file_composes_binds_and_builds(group):
    target, name, value = OWN[group]
    node = group.replace("/", ".")
    line = [f"{group}=own", f"{node}._target_=my_own_parts.{target}"]
    line += [f"+{node}.{name}={value}", "security.allow=[my_own_parts.]"]
    check_command_line(line, CONF, "train")
    plain = settings(*line)
    for part in group.split("/"):
        plain = getattr(plain, part)
    assert plain[name] == value
    assert callable(made := build(plain)) or made.name == "mine"


@pytest.mark.parametrize("group", OWN)
def test_an_own_file_without_a_target_is_refused(group):
    with pytest.raises(ConfigurationError, match=rf"{group.replace('/', '.')}\._target_"):
        settings(f"{group}=own")
    wrong = f"{group.replace('/', '.')}._target_=my_own_parts.nothing"
    with pytest.raises(ConfigurationError, match="not allowed"):
        settings(f"{group}=own", wrong)
