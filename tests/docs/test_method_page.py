"""docs/method.md: its functions, settings and commands exist, its code runs, nothing is missing."""

import importlib
import inspect
import pkgutil
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_method
from omegaconf import OmegaConf

import rlmec.method
from rlmec.method.objectives import TokenBatch, weighted_likelihood
from rlmec.settings.binding import build
from rlmec.settings.check import check
from rlmec.settings.command_line import check_command_line

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
PAGE = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
(CODE,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
BASH = "".join(re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = [
    shlex.split(line, comments=True)[2:]
    for line in BASH.replace("\\\n", " ").splitlines()
    if line.startswith("python train.py")
]

# What stands in backquotes in the text and the tables, code blocks left out.
MARKED = set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)))
LINKED = re.findall(r"\[`(\w+)`\]\(\.\./(rlmec/[\w/]+)\.py\)", PAGE)
NAMES = sorted({f"{path.replace('/', '.')}.{name}" for name, path in LINKED})
GROUPS = "sample teach grm score policy evaluate"
KEYS = sorted(m for m in MARKED if re.fullmatch(rf"({'|'.join(GROUPS.split())})(\.\w+)+", m))
OVERRIDES = sorted(
    m for m in MARKED if re.fullmatch(r"[a-z_][\w./]*=[\w.]+", m) and not m.startswith("security")
)


@pytest.fixture
def user(tmp_path, monkeypatch):
    (tmp_path / "my_pkg.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_pkg", None)  # other pages have one of this name


def composed(argv):
    argv = check_command_line(argv, CONF, "train")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=["logger=none", *argv])


def settings(argv):
    return check(composed(argv), CONF)


def public(module):
    """Functions that a module defines for others."""
    return [
        name
        for name, found in inspect.getmembers(module, inspect.isfunction)
        if found.__module__ == module.__name__ and not name.startswith("_")
    ]


# --- what the page names exists ---


def test_names_keys_and_overrides_are_seen():
    assert len(NAMES) > 40
    assert len(KEYS) > 25
    assert len(OVERRIDES) > 20
    assert len(COMMANDS) == 5


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_the_page_exists(name):
    module, _, last = name.rpartition(".")
    assert hasattr(importlib.import_module(module), last)


def test_the_settings_of_the_page_exist():
    """A setting is a key of the tree or, next to a `_target_`, a parameter of the target."""
    tree = OmegaConf.to_container(composed(["ablation=good_prefix"]), resolve=False)
    plain = OmegaConf.to_container(composed([]), resolve=False)

    def exists(node, path):
        for at, part in enumerate(path):
            if part not in node:
                target = node.get("_target_")
                last = at == len(path) - 1
                return bool(
                    target and last and part in inspect.signature(get_method(target)).parameters
                )
            node = node[part]
        return True

    missing = [key for key in KEYS if not exists(plain, key.split("."))]
    missing = [key for key in missing if not exists(tree, key.split("."))]
    assert missing == []


@pytest.mark.parametrize("override", OVERRIDES)
def test_an_override_of_the_page_composes(override):
    if override.startswith("teacher="):  # teachers ask for settings of their own
        assert (CONF / "teacher" / f"{override.removeprefix('teacher=')}.yaml").exists()
    else:
        settings([override])


# --- the page names what exists ---


def test_the_page_names_every_public_function_of_the_method():
    modules = [m.name for m in pkgutil.iter_modules(rlmec.method.__path__, "rlmec.method.")]
    assert len(modules) == 5
    wanted = {f"{name}.{f}" for name in modules for f in public(importlib.import_module(name))}
    assert wanted - set(NAMES) == set()
    assert len(wanted) > 20


def test_the_page_names_every_option():
    for group in ("objective", "reward", "rows"):
        for path in (CONF / "policy" / group).glob("*.yaml"):
            if path.stem != "own":
                assert f"`{path.stem}`" in PAGE, path
    ablations = [path.stem for path in (CONF / "ablation").glob("*.yaml")]
    assert len(ablations) > 10
    assert [name for name in ablations if f"`ablation={name}`" not in PAGE] == []


# --- the page's commands and code ---


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_a_command_of_the_page_passes(argv, user):
    check_command_line(argv, CONF, "train")
    settings(argv)


def test_a_users_objective_trains(user):
    """|R|^0.5 of 0.25 and -0.16 is 0.5 and 0.4; rho 2 and 1: S_RL = -(1 - 0.4) = -0.6. Weights 1
    and 0 with log pi = ln 0.5: S_IR = ln 2."""
    objective = build(settings(COMMANDS[3]).policy.objective)
    logprobs = torch.log(torch.tensor([0.5, 0.2])).requires_grad_()
    old = torch.log(torch.tensor([0.25, 0.2]))
    rewards, weights = torch.tensor([0.25, -0.16]), torch.tensor([1.0, 0.0])
    tokens = TokenBatch(logprobs, old, rewards, weights, torch.ones(2, dtype=torch.bool))
    sums = objective(tokens)
    assert sums.policy.item() == pytest.approx(-0.6)
    assert sums.imitation.item() == weighted_likelihood(tokens).imitation.item()
    (sums.policy + sums.imitation).backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-2.0, 0.4])


def test_a_users_reward_rule_is_called(user):
    rule = build(settings(COMMANDS[4]).policy.reward)
    removed = np.array([True, True, False])
    found = rule(np.log([0.9, 0.2, 0.2]), False, removed)
    assert found.tolist() == pytest.approx([0, -0.2, 0])
    assert not rule(np.log([0.1]), True, np.array([False])).any()


def test_a_function_of_the_page_is_short():
    for function in re.split(r"\n\n\n(?=def )", CODE)[1:]:
        assert len(function.splitlines()) < 40
