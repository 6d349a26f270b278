"""What was trained on is not judged."""

import pytest

from rlmec.evaluation import refuse_overlap
from rlmec.records import Problem


def problem(id_, question):
    return Problem(id_, question, "1")


def test_a_question_on_both_sides_is_refused_with_both_ids():
    train = [problem("t1", "How many\n apples?"), problem("t2", "How many pears?")]
    test = [problem("x1", "How many nuts?"), problem("x2", " How many apples?")]
    with pytest.raises(ValueError, match=r"1 problems .*'x2'.*'t1' in train"):
        refuse_overlap(train, test)


def test_other_questions_pass():
    train = [problem("same", "How many apples?")]
    assert refuse_overlap(train, [problem("same", "How many apples now?")]) is None
    with pytest.raises(ValueError, match="were trained on"):
        refuse_overlap(train, train)
