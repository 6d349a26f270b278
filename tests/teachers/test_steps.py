"""Which step an answer names, and how a rewrite is joined to what is kept."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlmec.prompts import labelled
from rlmec.records import Problem
from rlmec.teachers.steps import (
    StepPrompts,
    lines_of,
    located_step,
    rewritten,
)

READ = [
    ("[10]", 10),  # the released scripts read one digit
    ("[ 3 ]", 3),
    ("[Step 2]", 2),
    ("**[4]**", 4),
    ("The first error step is [3].", 3),
    ("Step 3", 3),
    ("Step #2", 2),
    ("step: 3", 3),
    ("Step **3** is wrong", 3),
    ("step number 4", 4),
    ("step [3] is wrong", 3),
    ("Line 2 is a mistake", 2),
    ("3", 3),
    ("First wrong step: 5", 5),
    ("The first incorrect step is step 11.", 11),
    ("[2] is incorrect", 2),  # "incorrect" is not "correct"
    ("[2] is correct, [3] is incorrect", 3),
    ("Step [1] isn't correct", 1),
    ("Step 1 is correct. Step 2 is incorrect.", 2),
    ("Step [1] is fine, [2] is wrong", 2),
    ("Steps [0] and [1] are correct, the first wrong step is [2]", 2),
    ("[0], [1] and [2] are correct. [3] says 8, which is wrong", 3),
    ("Steps 0, 1 and 2 are fine but step 3 is not correct", 3),
    ("In [2], 3 + 4 = 8 is wrong: it should be 7", 2),
    ("The error is in [7] ([6] is right)", 7),
    ("[0] is right. [1] is right.\n[2] adds 3 and 4, wrongly.\nFirst wrong step: [2]", 2),
    ("[1], [3]", 1),  # the earlier one keeps no error
    ("<think>[5] is wrong? No, [1] is wrong.</think>[1]", 1),
    ("so it is [5], or not</think>\n\n[1]", 1),
    ("All steps are correct", None),
    ("All steps are incorrect", None),
    ("All steps [0] to [4] are correct.", None),
    ("There is no error in steps [0]-[3].", None),
    ("No step is wrong.", None),
    ("Everything is right.", None),
    ("There is no error.", None),
    ("None", None),
    ("", None),
    ("<think>[5]", None),
    ("[12]", None),  # there are steps 0 to 11
    ("[99999]", None),
    ("[-1]", None),
    ("-1", None),
    ("1.5", None),
    ("3 + 4 = 8 is wrong", None),
    ("Step 1,000 is wrong", None),
]


@pytest.mark.parametrize(("reply", "step"), READ)
def test_the_step_that_an_answer_names(reply, step):
    assert located_step(reply, 12) == step


@given(st.text(alphabet="step[]0123456789 wrongcit.,\n<>/hk", max_size=60), st.integers(1, 20))
@settings(max_examples=300, derandomize=True)
def test_any_answer_gives_a_step_that_is_there_or_none(reply, steps):
    assert located_step(reply, steps) in {None, *range(steps)}


@given(st.integers(0, 400))
def test_every_label_is_read_whole(step):
    for form in ("[{}]", "The first error step is [{}].", "Step {} is wrong", "{}"):
        assert located_step(form.format(step), 401) == step


ATTEMPT = "2 + 2 = 4\n4 + 1 = 6\nA: 6"


@pytest.mark.parametrize(
    ("step", "reply", "whole"),
    [
        (1, "4 + 1 = 5\nA: 5", "2 + 2 = 4\n4 + 1 = 5\nA: 5"),
        (1, "\n\n4 + 1 = 5\nA: 5\n", "2 + 2 = 4\n4 + 1 = 5\nA: 5"),  # no double line break
        (0, "\n2 + 2 = 4\nA: 5", "2 + 2 = 4\nA: 5"),  # nor one at the start
        (1, "[1] 4 + 1 = 5\n[2] A: 5", "2 + 2 = 4\n4 + 1 = 5\nA: 5"),
        (1, "2 + 2 = 4\n4 + 1 = 5\nA: 5", "2 + 2 = 4\n4 + 1 = 5\nA: 5"),  # it repeats a line
        (1, "[0] 2 + 2 = 4\n[1] 4 + 1 = 5\n[2] A: 5", "2 + 2 = 4\n4 + 1 = 5\nA: 5"),
        (1, "```\n4 + 1 = 5\nA: 5\n```", "2 + 2 = 4\n4 + 1 = 5\nA: 5"),
        (1, "4 + 1 = 5\r\nA: 5", "2 + 2 = 4\n4 + 1 = 5\nA: 5"),
        (2, "A: 5", "2 + 2 = 4\n4 + 1 = 6\nA: 5"),
        (2, "<think>hm\n</think>\n\nA: 5", "2 + 2 = 4\n4 + 1 = 6\nA: 5"),
        (1, "  4 + 1 = 5", "2 + 2 = 4\n  4 + 1 = 5"),  # its own indent
        (2, "", None),
        (2, " \n ", None),
        (0, "<think>hm", None),
        (1, "2 + 2 = 4", None),
    ],
)
def test_the_earlier_lines_are_ours_and_the_rest_is_the_reply(step, reply, whole):
    assert rewritten(ATTEMPT, step, reply) == whole


@given(
    st.lists(st.text(alphabet="ab =\t", max_size=5), min_size=1, max_size=6),
    st.text(alphabet="abc= \n[1]", max_size=20),
    st.data(),
)
@settings(max_examples=300, derandomize=True)
def test_the_kept_lines_stay_literally(lines, reply, data):
    step = data.draw(st.integers(0, len(lines) - 1))
    whole = rewritten("\n".join(lines), step, reply)
    if whole is not None:
        assert whole.split("\n")[:step] == lines[:step]
        assert whole.split("\n")[step].strip()


def test_a_step_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"step 3 .* 3 lines"):
        rewritten(ATTEMPT, 3, "A: 5")


PROMPTS = StepPrompts(
    system=None,
    locate="{question}|{solution}|{answer}|{attempt}",
    locate_answer_only="{question}|{answer}|{attempt}",
    rewrite="{question}|{solution}|{attempt}|{step}",
    rewrite_answer_only="{question}|{answer}|{attempt}|{step}",
)


def test_questions_carry_labels_and_what_is_known():
    known = Problem("p", "Q {answer}?", "5", "s\nt")  # fields in a field stay text
    assert PROMPTS.asks_to_locate(known, "a\nb") == "Q {answer}?|[0] s\n[1] t|5|[0] a\n[1] b"
    assert PROMPTS.asks_to_rewrite(known, "a\nb", 1) == "Q {answer}?|[0] s\n[1] t|[0] a\n[1] b|1"
    alone = Problem("p", "Q?", "5")
    assert PROMPTS.asks_to_locate(alone, "a\nb") == "Q?|5|[0] a\n[1] b"
    assert PROMPTS.asks_to_rewrite(alone, "a\nb", 0) == "Q?|5|[0] a\n[1] b|0"
    assert len(lines_of("a\n\nb")) == len(labelled("a\n\nb").split("\n"))


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("locate", "{question}{atempt}", r"locate .*\{atempt\}.*\{attempt\}"),
        ("locate", "{attempt}", r"locate .*\{question\}"),
        ("locate", "{question}{attempt}{step}", r"locate .*\{step\}"),
        ("locate_answer_only", "{question}{attempt}{solution}", r"answer_only .*\{solution\}"),
        ("rewrite", "{question}{attempt}", r"rewrite .*\{step\}"),
        ("rewrite_answer_only", "{question}\\n{attempt}{step}", r"rewrite_answer_only .*backslash"),
        ("system", "Be brief.\\nBe kind.", r"system .*backslash"),
    ],
)
def test_a_template_with_a_wrong_or_missing_field_is_refused(name, text, found):
    with pytest.raises(ValueError, match=found):
        replace(PROMPTS, **{name: text})
