"""The oracle teacher asks the task, and refuses a task that cannot answer."""

import pytest

from rlmec.tasks.arithmetic import ArithmeticTask
from rlmec.teachers.base import Teacher
from rlmec.teachers.oracle import OracleTeacher


def test_it_gives_the_tasks_own_correction():
    task = ArithmeticTask(train=20)
    teacher = OracleTeacher(task=task)
    assert isinstance(teacher, Teacher)
    for problem in task.problems("train"):
        wrong = problem.solution.replace("1", "2")
        assert teacher.correct(problem, wrong) == task.oracle(problem, wrong)
        assert task.judge(teacher.correct(problem, wrong), problem) == "right"


def test_it_solves_what_it_has_not_seen_an_attempt_of():
    """Also where the policy's references are another's, or hidden."""
    plain = ArithmeticTask(train=20)
    for hidden in (ArithmeticTask(train=20, reference_share=0.0), plain):
        teacher = OracleTeacher(task=hidden)
        for problem, known in zip(hidden.problems("train"), plain.problems("train"), strict=True):
            assert teacher.solve(problem) == known.solution


class Mute:
    name = "mute"


def test_a_task_without_an_oracle_is_refused_by_name():
    with pytest.raises(TypeError, match=r"'mute' lacks.*reference teacher"):
        OracleTeacher(task=Mute())
    with pytest.raises(TypeError, match="oracle"):
        OracleTeacher()
