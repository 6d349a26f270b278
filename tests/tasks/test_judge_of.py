"""The judge for texts at hand: a task's `judge_many` where it has one, with the same verdicts."""

import pytest

from rlmec.records import Problem
from rlmec.tasks import base
from rlmec.tasks.base import judge_of

PROBLEMS = [Problem(f"p{i}", "?", str(i)) for i in range(7)]
TEXTS = [str(i % 3) for i in range(7)]


class OneByOne:
    name = "one by one"

    def judge(self, text, problem):
        return "right" if text == problem.answer else "wrong"


class AtOnce(OneByOne):
    def __init__(self):
        self.sizes = []

    def judge_many(self, texts, problems):
        self.sizes.append(len(texts))
        return [self.judge(t, p) for t, p in zip(texts, problems, strict=True)]


def test_both_ways_have_the_same_verdicts(monkeypatch):
    monkeypatch.setattr(base, "AT_ONCE", 3)
    task = AtOnce()
    judge = judge_of(task, TEXTS, PROBLEMS)
    assert task.sizes == [3, 3, 1]
    expected = list(map(OneByOne().judge, TEXTS, PROBLEMS))
    assert list(map(judge, TEXTS, PROBLEMS)) == expected
    assert list(map(judge_of(OneByOne(), TEXTS, PROBLEMS), TEXTS, PROBLEMS)) == expected
    assert task.sizes == [3, 3, 1]
    with pytest.raises(KeyError):
        judge("a text that was not at hand", PROBLEMS[0])
    with pytest.raises(ValueError, match="zip"):
        judge_of(task, TEXTS, PROBLEMS[:5])
