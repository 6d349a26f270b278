"""Teachers behind servers, against a real one on loopback that answers well and badly."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from misbehaving_server import Server, tokens

from rlmec.records import Problem
from rlmec.teachers.base import TeacherError, WrongAttempt
from rlmec.teachers.budget import Budget, Ledger, Tokens
from rlmec.teachers.endpoint import AnthropicTeacher, OpenAITeacher
from rlmec.teachers.server_calls import AnswerCache
from rlmec.teachers.services import Answer
from rlmec.teachers.steps import StepPrompts

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-canary-5f3759df"
KINDS = {"openai": (OpenAITeacher, "/v1"), "anthropic": (AnthropicTeacher, "")}
ENDING = "Right answer: {answer}\n{attempt}\n"
PROMPTS = StepPrompts(
    locate="{question}\n{solution}\n" + ENDING + "Which step is wrong?",
    locate_answer_only="{question}\n" + ENDING + "Which step is wrong?",
    rewrite="{question}\n{solution}\n" + ENDING + "Rewrite from [{step}].",
    rewrite_answer_only="{question}\n" + ENDING + "Rewrite from [{step}].",
    system="You correct.",
)
QUICK = {"backoff": 0.001, "max_wait": 0.002, "timeout": 30.0}
both = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "not-this-one")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "not-this-one")


def attempts(count):
    return [
        WrongAttempt(
            Problem(f"p{i}", f"Question {i}?", str(i)), f"line {i}\nwrong\nThe answer is x."
        )
        for i in range(count)
    ]


def teacher(server, kind="openai", **changes):
    made, path = KINDS[kind]
    given_ = {"model": "m", "prompts": PROMPTS, "api_key_env": "TEACHER_KEY", **QUICK}
    return made(base_url=server.url + path, **(given_ | changes))


class Nowhere:
    """A server that is not asked."""

    url = "http://localhost:1"


def correct(teacher, some, spent=None):
    ticks = []
    out = teacher.correct_all(some, spent=spent or {}, tick=lambda: ticks.append(1))
    assert len(ticks) == len(some) == len(out)
    return out


def total(proposals, name):
    return sum(p.counts.get(name, 0) for p in proposals)


def kept(i):
    """The right correction of attempt i: its first line stays."""
    return [(f"line {i}\nThe answer is {i}.", False)]


@both
def test_both_questions_are_asked_and_the_kept_lines_stay(kind):
    with Server().running() as server:
        (found,) = correct(teacher(server, kind, max_completion_length=50), attempts(1))
    assert list(found.texts) == kept(0)
    locate, rewrite = server.bodies
    assert locate["messages"][-1]["content"].endswith("Which step is wrong?")
    assert rewrite["messages"][-1]["content"].endswith("Rewrite from [1].")
    assert (locate["model"], locate["temperature"], locate["max_tokens"]) == ("m", 0.0, 50)
    system = locate["system"] if kind == "anthropic" else locate["messages"][0]["content"]
    assert system == "You correct."
    spent = sum(tokens(b["messages"][-1]["content"]) for b in server.bodies)
    written = tokens("[1]") + tokens("The answer is 0.")
    assert found.counts == {
        **{"calls": 2, "cached_calls": 0, "retries": 0, "unlocated": 0},
        **{"input_tokens": spent, "output_tokens": written},
    }
    sent = [h.get("authorization", "") + h.get("x-api-key", "") for h in server.headers]
    assert [value.removeprefix("Bearer ") for value in sent] == [KEY] * 2


def test_settings_shape_the_request():
    with Server().running() as server:
        some = {"temperature": None, "limit_field": "max_completion_tokens"}
        correct(teacher(server, **some, options={"reasoning_effort": "low"}), attempts(1))
    body = server.bodies[0]
    assert "temperature" not in body
    assert (body["max_completion_tokens"], body["reasoning_effort"]) == (1024, "low")


def test_one_line_needs_no_locating_and_an_unnamed_step_is_the_first():
    problem = Problem("p", "Q?", "7")
    with Server(located="All steps are correct.").running() as server:
        one, two = correct(
            teacher(server), [WrongAttempt(problem, "x"), WrongAttempt(problem, "x\ny")]
        )
    assert one.texts == two.texts == [("The answer is 7.", False)]
    assert (one.counts["calls"], two.counts["calls"]) == (1, 2)
    assert (one.counts["unlocated"], two.counts["unlocated"]) == (0, 1)


PASSING = ["429", "500", "slow", "cut", "malformed", "no choices"]


@both
def test_errors_that_pass_are_waited_out_and_nothing_is_answered_twice(kind):
    """Attempt i's questions fail in the i-th way first."""

    def plan(prompt, nth):
        i = int(prompt.split()[1].strip("?"))
        return PASSING[i] if nth == 0 else "ok"

    with Server(plan, retry_after=0.01).running() as server:
        found = correct(teacher(server, kind, timeout=1.0), attempts(6))
    assert [list(p.texts) for p in found] == [kept(i) for i in range(6)]
    assert [p.counts["retries"] for p in found] == [2] * 6
    assert set(server.asked.values()) == {2}
    assert set(server.answered.values()) == {1}


def test_retry_after_is_honoured():
    def plan(prompt, nth):
        return "429" if nth == 0 else "ok"

    with Server(plan, retry_after=0.3).running() as server:
        correct(teacher(server), attempts(1))
    gaps = [b - a for a, b in server.times.values()]
    assert len(gaps) == 2
    assert all(0.3 <= gap < 20 for gap in gaps)


def test_a_pause_of_hours_ends_the_run():
    with (
        Server(lambda prompt, nth: "429", retry_after=7200).running() as server,
        pytest.raises(TeacherError, match="come back in 7200 s"),
    ):
        correct(teacher(server, max_concurrency=1), attempts(3))
    assert sum(server.asked.values()) == 1


@both
def test_what_is_never_answered_fails_alone_after_the_retries(kind):
    def plan(prompt, nth):
        return "malformed" if "Question 1?" in prompt else "ok"

    with Server(plan).running() as server:
        found = correct(teacher(server, kind, max_retries=2), attempts(3))
    assert [p.reason for p in found] == ["no_proposal", "failed", "no_proposal"]
    assert [len(p.texts) for p in found] == [1, 0, 1]
    assert found[1].counts["retries"] == 2
    assert max(server.asked.values()) == 3


def test_a_server_that_is_gone_ends_the_run():
    server = Server()
    with server.running():
        pass
    lost = teacher(server, max_retries=1, max_failures=3, max_concurrency=1)
    with pytest.raises(TeacherError, match=r"3 attempts in a row got no answer .* in 2 tries each"):
        correct(lost, attempts(9))


@both
@pytest.mark.parametrize(
    ("status", "named"),
    [
        ("400", "limit_field"),
        ("401", "TEACHER_KEY"),
        ("403", "TEACHER_KEY"),
        ("404", r"teacher\.model"),
    ],
)
def test_a_refused_request_ends_the_run_at_once(kind, status, named):
    with (
        Server(lambda prompt, nth: status).running() as server,
        pytest.raises(TeacherError, match=f"answered {status} to model 'm'.*{named}") as caught,
    ):
        correct(teacher(server, kind, max_concurrency=1), attempts(5))
    assert sum(server.asked.values()) == 1
    assert KEY not in str(caught.value)  # the server's error quoted it
    assert caught.value.__suppress_context__


@both
@pytest.mark.parametrize(
    ("how", "reason", "texts"),
    [
        ("empty", "no_proposal", []),
        ("refusal", "refused", []),
        ("wrong", "no_proposal", [("The answer is -1.", False)]),
        ("length", "no_proposal", [("line 0\nThe answer is 0.", True)]),
    ],
)
def test_answers_that_are_no_corrections_are_answers(kind, how, reason, texts, tmp_path):
    with Server(lambda prompt, nth: how).running() as server:
        for _ in range(2):
            (found,) = correct(teacher(server, kind, cache=str(tmp_path)), attempts(1))
            assert (found.reason, list(found.texts)) == (reason, texts)
    assert set(server.asked.values()) == {1}


def test_a_cached_answer_is_asked_for_again_only_if_what_shapes_it_changes(tmp_path):
    with Server().running() as server:

        def calls(**changes):
            before = sum(server.asked.values())
            found = correct(teacher(server, cache=str(tmp_path), **changes), attempts(2))
            made = sum(server.asked.values()) - before
            assert (total(found, "calls"), total(found, "cached_calls")) == (made, 4 - made)
            return made

        assert calls() == 4
        assert calls() == 0
        assert calls(max_concurrency=1, max_retries=0, timeout=9.0, api_key_env=None) == 0
        assert calls(model="n") == 4
        assert calls(temperature=0.5) == 4
        assert calls(max_completion_length=9) == 4
        assert calls(options={"seed": 1}) == 4
    assert KEY not in "".join(p.read_text() for p in tmp_path.rglob("*.json"))


def test_several_proposals_are_several_samples(tmp_path):
    with Server().running() as server:
        several = {"num_proposals": 3, "temperature": 1.0, "cache": str(tmp_path)}
        (found,) = correct(teacher(server, **several), attempts(1))
        assert list(found.texts) == kept(0) * 3
        assert sorted(server.asked.values()) == [1, 3]
        (again,) = correct(teacher(server, **several), attempts(1))
        assert again.texts == found.texts
        assert sorted(server.asked.values()) == [1, 3]


def test_no_more_than_max_concurrency_are_out_at_once():
    with Server(lambda prompt, nth: "ok").running() as server:
        correct(teacher(server, max_concurrency=3), attempts(20))
    assert 1 <= server.most_out <= 3


# ---- the budget --------------------------------------------------------------------------------


def limited(server, **changes):
    return teacher(server, max_completion_length=20, **changes)


def test_the_budget_holds_whatever_the_concurrency_and_says_who_got_nothing():
    some, seen = attempts(30), set()
    for workers in (1, 4, 16):
        with Server().running() as server:
            found = correct(limited(server, max_tokens_total=900, max_concurrency=workers), some)
        assert server.billed == total(found, "input_tokens") + total(found, "output_tokens")
        assert 500 < server.billed <= 900
        seen.add(tuple(p.reason if not p.texts else p.texts[0].text for p in found))
    assert len(seen) == 1
    (reasons,) = seen
    asked = [reason for reason in reasons if reason != "over_budget"]
    assert 5 < len(asked) < 30
    assert "The answer is" in asked[-1]


def test_a_budget_in_money():
    prices = {"price_per_million_input": 1000.0, "price_per_million_output": 5000.0}
    with Server().running() as server:
        one = limited(server, max_cost=1.5, **prices)
        found = correct(one, attempts(30))
    read, written = total(found, "input_tokens"), total(found, "output_tokens")
    cost = one.figures({"input_tokens": read, "output_tokens": written})["cost"]
    assert cost == pytest.approx((read * 1000 + written * 5000) / 1e6)
    assert 0.8 < cost <= 1.5
    assert found[-1].reason == "over_budget"
    assert limited(Nowhere).figures({"input_tokens": 5}) == {}
    with pytest.raises(ValueError, match=r"set teacher\.price_per_million_input"):
        limited(Nowhere, max_cost=2.0)


def test_a_resumed_run_counts_what_was_paid_and_ends_as_an_uninterrupted_one(tmp_path):
    some, budget = attempts(30), {"max_tokens_total": 900}
    with Server().running() as server:
        whole = correct(limited(server, **budget, cache=str(tmp_path / "a")), some)
        before = server.billed
        first = correct(limited(server, **budget, cache=str(tmp_path / "b")), some[:6])
        spent = {name: total(first, name) for name in ("input_tokens", "output_tokens")}
        # the next part was answered in full before the kill, but not written
        correct(limited(server, **budget, cache=str(tmp_path / "b")), some[6:9], spent)
        rest = correct(limited(server, **budget, cache=str(tmp_path / "b")), some[6:], spent)
        assert server.billed - before <= 900
    texts = [p.texts for p in whole]
    assert [p.texts for p in first + rest] == texts
    assert [p.reason for p in first + rest] == [p.reason for p in whole]
    assert total(rest, "cached_calls") == 6


def test_lost_answers_count_as_if_they_had_been_billed():
    with Server(lambda prompt, nth: "malformed").running() as server:
        found = correct(
            limited(server, max_tokens_total=900, max_retries=50, max_failures=99), attempts(6)
        )
    assert {p.reason for p in found} == {"over_budget"}
    assert 0 < server.billed <= 900
    assert total(found, "input_tokens") >= server.billed


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 100)), max_size=30),
    st.integers(0, 600),
    st.integers(1, 5),
)
@settings(max_examples=150, derandomize=True)
def test_a_ledger_admits_in_order_what_one_at_a_time_would(items, limit, workers):
    """Items are (bound, share of it spent in percent); `workers` are out at once, the oldest
    settled first. Waiting is not needed here: with none out nothing is promised."""

    def run(most):
        ledger, out, admitted = Ledger(Budget(limit), Tokens()), [], []
        for bound, share in items:
            while len(out) >= most or (
                out and not ledger.budget.allows(ledger.spent + sum_of(out) + Tokens(bound))
            ):
                settle(out)
            hold = ledger.admit(Tokens(bound))
            admitted.append(hold is not None)
            if hold is not None:
                out.append((hold, Tokens(bound), Tokens(bound * share // 100)))
        while out:
            settle(out)
        assert ledger.spent.input <= limit
        return admitted, ledger.spent

    def settle(out):
        hold, _, spent = out.pop(0)
        hold.pay(spent)
        hold.settle()

    def sum_of(out):
        return sum((bound for _, bound, _ in out), Tokens())

    assert run(workers) == run(1)


# ---- the cache on disk -------------------------------------------------------------------------


def test_an_answer_comes_back_from_disk_and_a_damaged_file_is_named(tmp_path):
    cache, answer = AnswerCache(tmp_path), Answer("ä\n", 3, 4, "length")
    assert cache.find("ab12") is None
    cache.keep("ab12", {"body": "q"}, answer)
    assert AnswerCache(tmp_path).find("ab12") == answer
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["ab12.json"]
    (tmp_path / "ab" / "ab12.json").write_text('{"ans')
    with pytest.raises(ValueError, match=r"ab12\.json is no answer .* remove it"):
        cache.find("ab12")


CHILD = """
import sys
sys.path[:0] = ["tests/teachers", "tests"]
from test_endpoint_teacher import attempts, teacher
class Place:
    url = sys.argv[1]
one = teacher(Place, cache=sys.argv[2], max_concurrency=4)
found = one.correct_all(attempts(12), spent={}, tick=lambda: None)
print(sum(len(p.texts) for p in found))
"""


def test_a_rerun_after_kill_9_repeats_no_answered_call(tmp_path):
    """The server keeps silent from its 11th answer on; once the ten are on disk, the child dies."""
    import threading

    release = threading.Event()

    def plan(prompt, nth):
        if sum(server.answered.values()) + server.out > 10:
            release.wait(60)
        return "ok"

    server = Server(plan)
    command = [sys.executable, "-c", CHILD, server.url, str(tmp_path)]
    where = {"cwd": ROOT, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with server.running():
        child = subprocess.Popen(command, **where)
        deadline = time.monotonic() + 60
        while len(list(tmp_path.rglob("*.json"))) < 7 or server.out < 4:
            assert child.poll() is None, child.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.1)
        child.kill()
        output = child.communicate()[0]
        known = {
            json.loads(p.read_text())["question"]["body"]["messages"][-1]["content"]
            for p in tmp_path.rglob("*.json")
        }
        answered = dict(server.answered)
        assert 7 <= len(known) == len(answered) < 24
        release.set()
        time.sleep(0.1)  # what was held goes to nobody
        asked = dict(server.asked)
        done = subprocess.run(command, **where, check=False)
    assert done.stdout.strip() == "12"
    assert {prompt: server.asked[prompt] for prompt in known} == {p: asked[p] for p in known}
    everything = output + done.stdout + "".join(p.read_text() for p in tmp_path.rglob("*.json"))
    assert KEY not in everything


# ---- keys --------------------------------------------------------------------------------------


@both
def test_a_missing_key_is_told_by_its_variable(kind, monkeypatch):
    monkeypatch.delenv("TEACHER_KEY")
    with pytest.raises(TeacherError, match=r"TEACHER_KEY is not set.*api_key_env=null"):
        teacher(Nowhere, kind).check()
    monkeypatch.setenv("TEACHER_KEY", f"{KEY}\n x")
    with pytest.raises(TeacherError, match="characters") as caught:
        teacher(Nowhere, kind).check()
    assert KEY not in str(caught.value)


@both
def test_a_server_without_keys_gets_none(kind):
    with Server().running() as server:
        correct(teacher(server, kind, api_key_env=None), attempts(1))
    assert "not-this-one" not in str(server.headers)


def test_a_missing_client_is_told_by_its_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TeacherError, match=r"pip install 'rlmec\[openai\]'"):
        teacher(Nowhere).check()


def test_anthropic_has_one_name_for_the_limit():
    with pytest.raises(ValueError, match="calls the limit max_tokens"):
        correct(teacher(Nowhere, "anthropic", limit_field="max_completion_tokens"), attempts(1))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"num_proposals": 2}, "at temperature 0"),
        ({"num_proposals": 0}, "num_proposals is 0"),
        ({"options": {"n": 4, "max_tokens": 1}}, "max_tokens, n cannot be set there"),
        ({"api_key_env": KEY}, "NAME of an environment variable"),
        ({"base_url": f"https://me:{KEY}@host/v1"}, "a secret has no place there"),
        ({"base_url": f"https://host/v1?key={KEY}"}, "a secret has no place there"),
        ({"base_url": "host:8000"}, "no address"),
        ({"max_tokens_total": -1}, "max_tokens_total is -1"),
    ],
)
def test_settings_that_cannot_be_are_refused_unseen(changes, expected):
    given_ = {"model": "m", "base_url": "http://localhost/v1", "prompts": PROMPTS}
    given_ |= {"api_key_env": None}
    with pytest.raises(ValueError, match=expected) as caught:
        OpenAITeacher(**(given_ | changes))
    assert KEY not in str(caught.value)
