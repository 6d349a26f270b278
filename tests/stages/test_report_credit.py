"""Where the most punished tokens stand, by hand; the share of right tokens that the GRM copies."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rlmec.method.credit import copied_share
from rlmec.records import (
    Attempt,
    Pair,
    Problem,
    Score,
)
from rlmec.report.token_page import Case
from rlmec.stages.report_again import to_ask
from rlmec.stages.report_credit import Scored
from rlmec.stages.report_facts import run_facts
from rlmec.store.artifacts import Artifact

# Two lines of two tokens and newlines: tokens 0 1 (newline) 2 3 are in the lines 0 0 0 1 1.
TEXT = ["a", "b", "\n", "c", "d"]
PROBLEM = Problem("p", "q?", "4")


def attempt(id_, verdict="wrong"):
    common = {"prompt_ids": [1], "completion_ids": [0, 1, 2, 3, 4], "logprobs": [], "text": id_}
    return Attempt(id=id_, problem_id="p", verdict=verdict, clipped=False, tokenizer="t", **common)


def scored(*rewards, line):
    """Attempts with these rewards; the task finds the line wrong that `line` says of each."""
    cases = []
    for i, values in enumerate(rewards):
        zeros = np.zeros(5, dtype=np.float32)
        pair = Pair(attempt(str(i)), [], zeros, np.array(values, dtype=np.float32), zeros[:0])
        cases.append(Case(pair, PROBLEM, [0.0] * 5, None, taught=False))
    task = SimpleNamespace(first_wrong_line=lambda problem, text: line[int(text)])
    codec = SimpleNamespace(decode=lambda ids: "".join(TEXT[i] for i in ids), encode=lambda t: [0])
    made = Scored(SimpleNamespace(task=task), None, codec, [])  # pyright: ignore
    made.__dict__["unseen"] = cases
    return made


def test_the_most_punished_token_is_looked_for_in_the_first_wrong_line():
    name = "grm/most_punished_in_first_error"
    first = [-0.1, 0.0, 0.0, -0.05, 0.0]
    second = [0.0, -0.02, 0.0, -0.1, -0.1]
    # first in line 0, second in line 1
    assert scored(first, second, line=[0, 1])._first_errors() == {name: 1.0}
    assert scored(first, second, line=[1, 1])._first_errors() == {name: 0.5}
    # of equal penalties the first counts; without a penalty there is no hit
    assert scored([-0.1, 0, 0, -0.1, 0], [0.0] * 5, line=[1, 0])._first_errors() == {name: 0.0}
    # an attempt without a wrong line is not asked about
    assert scored(first, second, line=[None, 1])._first_errors() == {name: 1.0}
    assert scored(first, line=[None])._first_errors() == {}


def test_copied_tokens_are_those_of_right_attempts_above_one_half():
    right, wrong = attempt("r", "right"), attempt("w")
    sure, unsure = math.log(0.9), math.log(0.5)  # one half itself is not above

    def score(id_, values):
        return Score(id_, values, values, "t")

    scores = [score("r", [sure, sure, unsure, -9.0, sure]), score("w", [-9.0] * 5)]
    assert copied_share([right, wrong], scores) == 3 / 5
    assert copied_share([wrong], scores[1:]) is None
    with pytest.raises(ValueError, match="'w' comes with the score of"):
        copied_share([wrong], scores[:1])


def test_the_trained_policy_is_asked_about_the_most_telling_wrong_attempts(monkeypatch):
    def case(id_, verdict):
        zeros = np.zeros(5, dtype=np.float32)
        pair = Pair(attempt(id_, verdict), [], zeros, zeros, zeros[:0])
        return Case(pair, PROBLEM, [0.0] * 5, None, taught=False)

    cases = [
        case("dull", "wrong"),
        case("right", "right"),
        case("best", "wrong"),
        case("good", "wrong"),
    ]
    value = {"dull": 0.0, "right": 3.0, "best": 1.4, "good": 0.9}
    monkeypatch.setattr(
        "rlmec.stages.report_again.telling", lambda case: value[case.pair.attempt.id]
    )
    assert [c.pair.attempt.id for c in to_ask(cases, 2)] == ["best", "good"]
    assert [c.pair.attempt.id for c in to_ask(cases, 9)] == ["best", "good", "dull"]
    assert to_ask(cases, 0) == []


def test_run_facts_are_those_of_the_scores_and_name_no_place(monkeypatch):
    shape = SimpleNamespace(path="hub/Some-135M", gguf_file=None, shape={"model_type": "llama"})
    policy = SimpleNamespace(reward={"_target_": "rlmec.method.rewards.clipped_probability"})
    settings = SimpleNamespace(model=shape, policy=policy, seed=7)
    overrides = ["experiment=smoke", "paths.artifacts=/home/me/store", "task.path=/home/me/a b"]
    run = SimpleNamespace(settings=settings, overrides=overrides)
    recorded = {"commit": "611e9eb0b0f5c525"}
    manifest = {"created": "2026-11-27T14:08:12+00:00", "environment": recorded}
    score = Artifact("score", "f", Path(), manifest)

    monkeypatch.setattr("sys.argv", ["/bin/rlmec", "report"])
    assert dict(run_facts(run, score))["command"].startswith("rlmec train exp")  # pyright: ignore
    monkeypatch.setattr("sys.argv", ["/somewhere/train.py"])
    facts = dict(run_facts(run, score))  # pyright: ignore
    assert facts["command"] == "python train.py experiment=smoke 'task.path=a b'"
    assert (facts["model"], facts["seed"], facts["scored"]) == ("Some-135M", "7", "2026-11-27")
    assert facts["version"].endswith("commit 611e9eb0b0f5")
    assert facts["reward rule"] == "clipped_probability"
    shape.path = None
    assert dict(run_facts(run, score))["model"] == "llama from scratch"  # pyright: ignore
