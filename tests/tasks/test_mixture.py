"""Several tasks as one: turns, ids, verdicts by the problem's own task."""

import pytest

from rlmec.records import Problem
from rlmec.tasks.base import Task, judge_of
from rlmec.tasks.mixture import MixtureTask


class Words:
    """Right is the text that equals the answer in `case` letters."""

    def __init__(self, name, count, upper):
        self.name = name
        self.count = count
        self.upper = upper
        self.left_out = [f"a row of {name}"]

    def problems(self, split):
        if split == "test":
            raise ValueError(f"{self.name}: no {split}")
        return [Problem(f"{self.name}-{i}", f"{self.name}{i}?", "yes") for i in range(self.count)]

    def final_answer(self, text):
        return text

    def judge(self, text, problem):
        assert problem.id.startswith(f"{self.name}-")
        wanted = problem.answer.upper() if self.upper else problem.answer
        return "right" if text == wanted else "wrong"


@pytest.fixture
def mixture():
    return MixtureTask({"a": Words("a", 3, upper=False), "b": Words("b", 1, upper=True)})


def test_tasks_take_turns_until_each_has_given_all(mixture):
    assert isinstance(mixture, Task)
    assert mixture.name == "a_b"
    assert [p.id for p in mixture.problems("dev")] == ["a/a-0", "b/b-0", "a/a-1", "a/a-2"]


def test_each_problem_is_judged_by_its_own_task(mixture):
    a, b, *_ = mixture.problems("train")
    assert (mixture.judge("yes", a), mixture.judge("yes", b)) == ("right", "wrong")
    judge = judge_of(mixture, ["YES", "YES"], [a, b])
    assert (judge("YES", a), judge("YES", b)) == ("wrong", "right")


def test_rows_left_out_and_missing_splits_are_those_of_the_tasks(mixture):
    assert mixture.left_out == ["a row of a", "a row of b"]
    with pytest.raises(ValueError, match="a: no test"):
        mixture.problems("test")
    with pytest.raises(ValueError, match="no task"):
        MixtureTask({})


def test_problems_without_a_kind_are_of_the_kind_of_their_task(mixture):
    assert [p.kind for p in mixture.problems("dev")] == ["a", "b", "a", "a"]

    class Kinds(Words):
        def problems(self, split):
            return [Problem("a-0", "a?", "yes", kind="hard")]

    assert MixtureTask({"a": Kinds("a", 1, upper=False)}).problems("dev")[0].kind == "hard"
