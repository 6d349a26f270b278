"""The examples of examples/ run: a user's rows and model, a user's task, a user's reward rule."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from transformers import AutoModelForCausalLM
from walk import ROOT, done_well, run

pytestmark = pytest.mark.slow
EXAMPLES = ROOT / "examples"
FEW_STEPS = ("grm.steps=3", "grm.epochs=null", "grm.val_problems=0", "policy.steps=3")
FEW_STEPS += ("policy.epochs=null", "policy.val_problems=0", "teach.max_edit_ratio=1.0")
SHORT = ("sample.num_generations=2", "sample.max_completion_length=24", "stage=policy")


@pytest.fixture
def user(monkeypatch):
    """A user's environment, in which Python finds the examples."""
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES))


def test_own_rows_train_an_own_model(shared, tmp_path):
    """Its task.path is relative to the folder that the command is started in."""
    model = shared[1].artifact("warmup") / "model"
    chosen = ["--config-dir", str(EXAMPLES / "conf"), f"model.path={model}", *SHORT, *FEW_STEPS]
    done = done_well(run(tmp_path, *chosen, experiment="own_data"))
    assert done.made() == ["sample", "teach", "grm", "score", "policy"]
    assert done.metrics("teach")["teach/accepted"] > 10
    assert done.metrics("policy")["policy/rows"] > 10


def test_an_own_task_is_sampled_judged_and_corrected(shared, tmp_path, user):
    model = shared[1].artifact("warmup") / "model"
    chosen = ["task=own", "task._target_=own_task.ClockTask", "security.allow=[own_task.]"]
    chosen += ["+task.minutes=26", "teacher=reference", "model=hf", f"model.path={model}"]
    done = done_well(run(tmp_path, *chosen, *SHORT, *FEW_STEPS, experiment=None))
    assert done.made() == ["sample", "teach", "grm", "score", "policy"]
    assert done.metrics("teach")["teach/accepted"] > 10


def test_an_own_reward_rule_remakes_the_policy_only(copied, user):
    chosen = ["policy/reward=own", "policy.reward._target_=own_reward.doubted_edits"]
    chosen += ["security.allow=[own_reward.]", "stage=policy", "policy.steps=3"]
    done = done_well(run(copied("warmup", "sample", "teach", "grm", "score"), *chosen))
    assert done.made() == ["policy"]
    assert done.metrics("policy")["policy/rewards/positive"] > 0
    assert done.metrics("policy")["policy/rewards/negative"] > 0


def test_the_own_reward_rule_is_what_it_says(monkeypatch):
    """Tokens with GRM probability 0.9, 0.2, 0.2, of which the correction removes the first two."""
    monkeypatch.syspath_prepend(EXAMPLES)
    from own_reward import doubted_edits  # pyright: ignore

    logprobs, removed = np.log([0.9, 0.2, 0.2]), np.array([True, True, False])
    assert doubted_edits(logprobs, False, removed).tolist() == pytest.approx([0, -0.1, 0])
    assert doubted_edits(logprobs, True, ~removed & removed).tolist() == pytest.approx([0.1] * 3)


def test_an_own_loop_trains_both_models(shared, monkeypatch, tmp_path):
    """What the chain has made is reused; two fits of a few steps are all that is made."""
    monkeypatch.syspath_prepend(EXAMPLES)
    from own_loop import main  # pyright: ignore

    places = [f"paths.artifacts={shared[0] / 'artifacts'}", f"hydra.run.dir={tmp_path}"]
    module = main(["experiment=smoke", *places], steps=2)
    assert module.global_step == 2
    stages = json.loads((tmp_path / "summary.json").read_text())["stages"]
    assert [(s["name"], s["made"]) for s in stages] == [
        (name, False) for name in ("warmup", "sample", "teach")
    ]


def test_doubted_tokens_of_wrong_attempts_are_shown(shared, monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXAMPLES)
    from wrong_tokens import main  # pyright: ignore

    main(shared[1].artifact("grm") / "model", EXAMPLES / "solutions.jsonl")
    shown = capsys.readouterr().out
    assert "1 of 3 attempts are right" in shown
    assert [shown.count(f"How many {item}") for item in ("cards", "pens", "books")] == [1, 0, 1]
    assert re.search(r"\[.+\]\(\d%\)", shown)


def test_a_plain_loop_takes_steps_on_token_rewards(shared, monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXAMPLES)
    from plain_loop import main  # pyright: ignore

    start = shared[1].artifact("warmup") / "model"
    model, shares = main(start, shared[1].artifact("grm") / "model", EXAMPLES / "problems.jsonl", 2)
    assert len(shares) == 2
    assert capsys.readouterr().out.count("mean reward") == 2
    before = AutoModelForCausalLM.from_pretrained(start)
    moved = [not a.equal(b) for a, b in zip(model.parameters(), before.parameters(), strict=True)]
    assert all(moved)


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("conf/experiment/own_data.yaml", 40),
        ("own_task.py", 40),
        ("own_reward.py", 15),
        ("own_loop.py", 105),
        ("plain_loop.py", 80),
        ("trl_grpo.py", 60),
        ("wrong_tokens.py", 60),
    ],
)
def test_an_example_is_short(name, limit):
    assert len((EXAMPLES / name).read_text().splitlines()) <= limit
