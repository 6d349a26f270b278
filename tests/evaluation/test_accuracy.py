"""Evaluation: hand-worked intervals, pass@k and maj@k, the report's figures."""

from __future__ import annotations

import itertools
import math

import pytest
from scipy.stats import binomtest

from rlmec.evaluation.accuracy import (
    by_kind,
    comparable_answers,
    maj_at_k,
    paired_difference,
    pass_at_k,
    report,
    wilson,
)
from rlmec.records import Attempt, Problem

P = Problem(id="p", question="?", answer="42")
PROBLEMS = [Problem(id=i, question=f"{i}?", answer="1") for i in "abcde"]
ONE_SIGMA = math.erf(1 / math.sqrt(2))  # the confidence whose quantile is z = 1


def attempt(
    id_: str, answer: str, verdict: str, *, clipped: bool = False, tokens: int = 3, of: str = ""
) -> Attempt:
    return Attempt(
        id=id_,
        problem_id=of or id_.split("/")[0],
        prompt_ids=[1],
        completion_ids=[2] * tokens,
        logprobs=[],
        text=f"so #### {answer}" if answer else "no idea",
        verdict=verdict,
        clipped=clipped,
        tokenizer="t",
    )


def final_answer(text: str) -> str | None:
    return text.split("####")[1].strip() if "####" in text else None


def judge(text: str, problem: Problem) -> str:
    answer = final_answer(text)
    if answer is None:
        return "no_answer"
    return "right" if answer.replace(",", "") == problem.answer.replace(",", "") else "wrong"


class TestWilson:
    def test_by_hand_with_z_1(self) -> None:
        # p = 1/2, n = 4: middle (1/2 + 1/8) / (1 + 1/4) = 1/2, half width sqrt(1/16 + 1/64) / 1.25
        half = math.sqrt(5 / 64) / 1.25
        assert wilson(2, 4, ONE_SIGMA) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-9)
        # p = 0, n = 3: from 0 to 1 / (3 + 1)
        assert wilson(0, 3, ONE_SIGMA) == pytest.approx((0.0, 0.25), abs=1e-9)
        assert wilson(3, 3, ONE_SIGMA) == pytest.approx((0.75, 1.0), abs=1e-9)

    def test_default_is_95_percent(self) -> None:
        # p = 0.8, n = 10, z = 1.959964: the interval of the textbooks
        assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=5e-5)

    @pytest.mark.parametrize("total", [1, 2, 10, 57, 1319])
    def test_equals_the_interval_of_scipy_for_whole_counts(self, total: int) -> None:
        for right in {0, 1, total // 3, total}:
            scipy = binomtest(right, total).proportion_ci(0.95, method="wilson")
            assert wilson(right, total) == pytest.approx(tuple(scipy), abs=1e-12)

    @pytest.mark.parametrize(("right", "total"), [(0, 7), (7, 7), (9, 9), (1, 1000), (0.5, 1)])
    def test_holds_the_share_and_stays_within_0_and_1(self, right: float, total: float) -> None:
        low, high = wilson(right, total)
        assert 0.0 <= low <= right / total <= high <= 1.0

    @pytest.mark.parametrize(
        ("right", "total", "confidence"),
        [(0, 0, 0.95), (3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0), (1, 2, 0.0)],
    )
    def test_refuses(self, right: int, total: int, confidence: float) -> None:
        with pytest.raises(ValueError, match=rf"{right} right of {total}|confidence is"):
            wilson(right, total, confidence)


class TestPassAtK:
    def test_by_hand(self) -> None:
        assert pass_at_k(4, 1, 1) == pytest.approx(1 / 4)
        assert pass_at_k(4, 1, 2) == pytest.approx(1 / 2)  # 1 - C(3,2)/C(4,2) = 1 - 3/6
        assert pass_at_k(5, 2, 3) == pytest.approx(9 / 10)  # 1 - C(3,3)/C(5,3) = 1 - 1/10
        assert pass_at_k(4, 0, 3) == 0.0
        assert pass_at_k(4, 2, 3) == 1.0  # only two are wrong, so three hold a right one

    def test_equals_the_share_of_subsets_with_a_right_one(self) -> None:
        for n, c, k in itertools.product(range(1, 7), range(7), range(1, 7)):
            if c > n or k > n:
                continue
            subsets = list(itertools.combinations(range(n), k))
            hits = sum(min(subset) < c for subset in subsets)  # the first c are right
            assert pass_at_k(n, c, k) == pytest.approx(hits / len(subsets), abs=1e-12), (n, c, k)

    def test_large_numbers_do_not_overflow(self) -> None:
        assert pass_at_k(100_000, 1, 50_000) == pytest.approx(0.5)

    @pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 5), (4, 1, 0), (4, 5, 1), (4, -1, 1)])
    def test_refuses(self, n: int, c: int, k: int) -> None:
        with pytest.raises(ValueError, match="not defined"):
            pass_at_k(n, c, k)


class TestMajAtK:
    def test_the_most_frequent_answer_wins(self) -> None:
        assert maj_at_k(["7", "8", "7", "9"], [True, False, True, False], 4) == 1.0
        assert maj_at_k(["7", "8", "8", "9"], [True, False, False, False], 4) == 0.0

    def test_a_tie_counts_by_the_share_of_right_winners(self) -> None:
        assert maj_at_k(["7", "8"], [True, False], 2) == 0.5
        # 7, 8 and 9 once each, one of them right
        assert maj_at_k(["7", "8", "9"], [True, False, False], 3) == pytest.approx(1 / 3)

    def test_no_answer_has_no_vote(self) -> None:
        assert maj_at_k([None, None, "7"], [False, False, True], 3) == 1.0
        assert maj_at_k([None, None], [False, False], 2) == 0.0

    def test_mean_over_blocks_in_order(self) -> None:
        answers = ["7", "8", "7", "7", "8"]  # blocks: a tie 1/2, and 7 alone 1; the last is left
        assert maj_at_k(answers, [a == "7" for a in answers], 2) == 0.75

    def test_one_attempt_is_its_verdict(self) -> None:
        assert maj_at_k(["7", None, "8", "7"], [True, False, False, True], 1) == 0.5

    def test_order_within_a_block_does_not_matter(self) -> None:
        for order in itertools.permutations(["7", "7", "8", None]):
            assert maj_at_k(order, [a == "7" for a in order], 4) == 1.0

    def test_refuses(self) -> None:
        with pytest.raises(ValueError, match="both right and wrong"):
            maj_at_k(["7", "7"], [True, False], 2)
        with pytest.raises(ValueError, match="both right and wrong"):
            maj_at_k([None], [True], 1)
        with pytest.raises(ValueError, match="not defined"):
            maj_at_k(["7"], [True], 2)
        with pytest.raises(ValueError, match="not defined"):
            maj_at_k(["7", "8"], [True], 1)


class TestComparableAnswers:
    def test_equal_answers_share_a_name(self) -> None:
        found = comparable_answers(
            P,
            [
                attempt("p/0", "5,600", "wrong"),
                attempt("p/1", "42", "right"),
                attempt("p/2", "5600", "wrong"),
                attempt("p/3", "4,2", "right"),
                attempt("p/4", "9", "wrong"),
                attempt("p/5", "", "no_answer"),
            ],
            final_answer,
            judge,
        )
        assert found[0] == found[2]
        assert found[1] == found[3]
        assert found[5] is None
        assert len({found[0], found[1], found[4], found[5]}) == 4

    def test_a_clipped_attempt_has_no_answer(self) -> None:
        clipped = attempt("p/0", "42", "right", clipped=True)
        assert comparable_answers(P, [clipped], final_answer, judge) == [None]

    def test_a_wrong_answer_that_reads_like_a_name(self) -> None:
        found = comparable_answers(
            P,
            [attempt("p/0", "right", "wrong"), attempt("p/1", "42", "right")],
            final_answer,
            judge,
        )
        assert found[0] != found[1]


class TestReport:
    def test_one_attempt_a_problem(self) -> None:
        found = report(
            [
                attempt("a", "1", "right", tokens=2),
                attempt("b", "2", "right", clipped=True, tokens=8),
                attempt("c", "", "no_answer", tokens=4),
                attempt("d", "3", "right", tokens=6),
                attempt("e", "4", "unparsable", tokens=100),
            ],
            PROBLEMS,
            final_answer,
            judge,
        )
        low, high = wilson(2, 4)
        assert found == {
            "accuracy": 0.5,
            "accuracy_low": low,
            "accuracy_high": high,
            "problems": 4.0,
            "unparsable": 1.0,
            "no_answer_rate": 0.25,
            "timeout_rate": 0.0,
            "memory_rate": 0.0,
            "crash_rate": 0.0,
            "clipped_rate": 0.25,
            "completion_tokens/mean": 5.0,  # (2 + 8 + 4 + 6) / 4
        }

    def test_several_attempts_a_problem(self) -> None:
        # a: right, wrong 2, wrong 3, wrong 2; b: all four right. c@2: 1 - C(3,2)/C(4,2) = 1/2
        attempts = [attempt(f"b/{i}", "1", "right") for i in range(4)] + [
            attempt("a/0", "1", "right"),
            attempt("a/1", "2", "wrong"),
            attempt("a/2", "3", "wrong"),
            attempt("a/3", "2", "wrong"),
        ]
        found = report(attempts, PROBLEMS, final_answer, judge)
        assert found["accuracy"] == found["pass@1"] == pytest.approx((1 / 4 + 1) / 2)
        assert found["pass@2"] == pytest.approx((1 / 2 + 1) / 2)
        assert found["pass@4"] == 1.0
        # a: blocks (1, 2) a tie with one right of two, (3, 2) a tie with none: (1/2 + 0) / 2
        assert found["maj@2"] == pytest.approx((1 / 4 + 1) / 2)
        assert found["maj@4"] == 0.5  # a: 2 wins with two votes
        assert {k for k in found if "@" in k} == {"pass@1", "pass@2", "pass@4", "maj@2", "maj@4"}
        # the sample size is the two problems, not the eight attempts
        assert (found["accuracy_low"], found["accuracy_high"]) == wilson(1.25, 2)

    def test_the_smallest_number_of_attempts_bounds_k(self) -> None:
        attempts = [attempt(f"a/{i}", "1", "right") for i in range(5)]
        attempts += [attempt(f"b/{i}", "2", "wrong") for i in range(3)]
        found = report(attempts, PROBLEMS, final_answer, judge)
        assert {k for k in found if "@" in k} == {"pass@1", "pass@2", "maj@2"}
        assert found["accuracy"] == 0.5  # a mean over problems: not 5 of 8

    def test_refuses_nothing_to_judge(self) -> None:
        with pytest.raises(ValueError, match="no attempt to judge"):
            report([], PROBLEMS, final_answer, judge)
        with pytest.raises(ValueError, match="no attempt to judge"):
            report([attempt("a", "1", "unparsable")], PROBLEMS, final_answer, judge)


class TestByKind:
    def test_counts(self) -> None:
        problems = [
            Problem("a", "q", "1", kind="sum"),
            Problem("b", "q", "1", kind="product"),
            Problem("c", "q", "1", kind="sum"),
        ]
        found = by_kind(
            [
                attempt("a", "1", "right"),
                attempt("b", "2", "wrong"),
                attempt("c", "1", "right", clipped=True),
            ],
            problems,
        )
        assert list(found.items()) == [("product", (0, 1)), ("sum", (1, 2))]

    def test_refuses_an_unknown_problem(self) -> None:
        with pytest.raises(ValueError, match="attempt 'x': no problem 'x'"):
            by_kind([attempt("x", "1", "right")], [Problem("a", "q", "1")])


class TestPairedDifference:
    @staticmethod
    def sides(pattern: list[tuple[bool, bool]]) -> tuple[list[Attempt], list[Attempt]]:
        names = {True: "right", False: "wrong"}
        return (
            [attempt(f"p{i}", "1", names[left]) for i, (left, _) in enumerate(pattern)],
            [attempt(f"p{i}", "1", names[right]) for i, (_, right) in enumerate(pattern)],
        )

    def test_by_hand(self) -> None:
        # b = 1, c = 5: 2 (C(6,0) + C(6,1)) / 2^6 = 14/64
        pattern = [(True, False)] + [(False, True)] * 5 + [(True, True)] * 3 + [(False, False)]
        expected = {
            "problems": 10.0,
            "both": 3.0,
            "only_first": 1.0,
            "only_second": 5.0,
            "neither": 1.0,
            "difference": 0.4,
            "p_value": 14 / 64,
        }
        assert paired_difference(*self.sides(pattern)) == pytest.approx(expected, rel=1e-12)

    def test_the_p_value_does_not_depend_on_the_order_and_is_at_most_1(self) -> None:
        pattern = [(True, False)] * 2 + [(False, True)] * 2
        first, second = self.sides(pattern)
        assert paired_difference(first, second)["p_value"] == 1.0  # 2 * 11/16, cut at 1
        same = paired_difference(first, first)
        assert (same["p_value"], same["difference"]) == (1.0, 0.0)
        first, second = self.sides([(True, False)] * 2000)
        assert paired_difference(first, second)["p_value"] == 2.0 * 0.5**2000 == 0.0
        assert paired_difference(second, first)["difference"] == 1.0

    def test_attempts_are_paired_by_problem(self) -> None:
        first, second = self.sides([(True, False), (False, True), (True, True)])
        assert paired_difference(first, second[::-1]) == paired_difference(first, second)

    def test_refuses(self) -> None:
        first, second = self.sides([(True, False), (True, True)])
        with pytest.raises(ValueError, match="'p1' is in one only"):
            paired_difference(first, second[:1])
        with pytest.raises(ValueError, match="two Attempt records with problem_id 'p0'"):
            paired_difference([*first, first[0]], second)
        unparsable = [attempt("a", "1", "unparsable")]
        with pytest.raises(ValueError, match="no problem to compare"):
            paired_difference(unparsable, unparsable)
