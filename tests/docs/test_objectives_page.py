"""docs/objectives.md: its code runs, its commands compose, and it names what there is."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from rlmec.method.objectives import TokenBatch, weighted_likelihood
from rlmec.settings.build import build
from rlmec.settings.check import check
from rlmec.settings.command_line import check_command_line

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
PAGE = (ROOT / "docs" / "objectives.md").read_text(encoding="utf-8")
(CODE,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
BASH = "".join(re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = [
    shlex.split(line, comments=True)[2:]
    for line in BASH.replace("\\\n", " ").splitlines()
    if line.startswith("python train.py")
]


@pytest.fixture
def user(tmp_path, monkeypatch):
    (tmp_path / "my_pkg.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)


def settings(argv):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return check(compose("train", overrides=["logger=none", *argv]), CONF)


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_a_command_of_the_page_passes(argv, user):
    check_command_line(argv, CONF, "train")
    settings(argv)


def test_the_commands_are_seen():
    assert len(COMMANDS) == 5


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


def test_the_page_names_every_option():
    for group in ("objective", "reward", "rows"):
        for path in (CONF / "policy" / group).glob("*.yaml"):
            if path.stem == "own":
                continue
            name = path.stem.replace("correction_p", "*_p").replace("attempt_p", "*_p")
            assert f"`{name}`" in PAGE or f"`{path.stem}`" in PAGE, path.stem
    for path in (CONF / "ablation").glob("*.yaml"):
        assert f"`ablation={path.stem}`" in PAGE, path.stem
    found = re.findall(r"^\| [^|\n]+ \| `([^`]+=[^`]+)`", PAGE, re.MULTILINE)
    assert len(found) > 15
    for overrides in found:
        settings([overrides])


def test_a_function_of_the_page_is_short():
    for function in re.split(r"\n\n\n(?=def )", CODE)[1:]:
        assert len(function.splitlines()) < 40
