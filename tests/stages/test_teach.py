"""The stage `teach` with a teacher behind a misbehaving server corrects imported solutions."""

import functools
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from misbehaving_server import Server
from small_models import network, tokenizer

from rlmec import stages
from rlmec.lm.loading import export_network, load_network
from rlmec.records import Correction
from rlmec.runtime.ranks import Ranks
from rlmec.settings.check import check
from rlmec.settings.command_line import check_command_line
from rlmec.store.tables import read_table
from rlmec.teachers.base import Proposal, Proposals, TeacherError
from rlmec.teachers.continuation import ContinuationTeacher

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-canary-0x5f3759df"
COUNT = 8


@pytest.fixture
def start(tmp_path):
    """A model directory, problems with answers alone, and a wrong solution of each."""
    export_network(network(), tokenizer(), tmp_path / "model")
    problems, solutions = [], []
    for i in range(1, COUNT + 1):
        question = f"What is {i} and {i}?"
        problems.append({"question": question, "answer": str(2 * i)})
        wrong = f"{i} and {i} are {2 * i + 1}.\nThe answer is {2 * i + 1}."
        solutions.append({"question": question, "solution": wrong})
    for name, rows in (("problems", problems), ("solutions", solutions)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path


def teach(start, server, *more, store="store", teacher="openai"):
    """The corrections and metrics of the stage, run in this process."""
    overrides = ["task=dataset", f"task.path.train={start}/problems.jsonl", "task.dev_share=0.0"]
    overrides += [f"sample.path={start}/solutions.jsonl", "model=hf", f"model.path={start}/model"]
    overrides += ["logger=none", "stage=teach", "teach.share=1.0", "teach.max_edit_ratio=0.9"]
    overrides += ["teach.part_size=3", "policy.val_problems=0", "trainer.progress_bar=false"]
    overrides += [f"paths.artifacts={start}/{store}", f"paths.outputs={start}/outputs"]
    overrides += [f"teacher={teacher}"]
    if teacher == "openai":
        overrides += ["teacher.model=m", f"teacher.base_url={server.url}/v1"]
        overrides += ["teacher.backoff=0.001", "teacher.max_wait=0.002", "teacher.timeout=1.0"]
    overrides = [o.replace("task.path.train", "++task.path.train") for o in overrides]
    overrides = check_command_line([*overrides, *more], ROOT / "conf", "train")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        settings = check(compose("train", overrides))
    run_dir = start / "outputs" / "run"
    run_dir.mkdir(parents=True, exist_ok=True)
    stages.train(settings, Ranks(), run_dir, list(more))
    made = json.loads((run_dir / "summary.json").read_text())["stages"][-1]
    table = Path(made["artifact"]) / "corrections.parquet"
    return read_table(table, Correction), made, table.read_bytes()


def right(i):
    return f"{i} and {i} are {2 * i + 1}.\nThe answer is {2 * i}."


BEHAVIOURS = ["ok", "429", "500", "slow", "cut", "malformed", "empty", "refusal"]


def plan(prompt, nth):
    """Each problem has its own way of going wrong; two never have a correction."""
    how = BEHAVIOURS[int(prompt.split("What is ")[1].split()[0]) - 1]
    return how if nth == 0 or how in ("empty", "refusal") else "ok"


def test_the_run_finishes_repeats_nothing_and_leaves_no_key(start, monkeypatch, capfd):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Server(plan, retry_after=0.01).running() as server:
        found, made, table = teach(start, server)
        answered = dict(server.answered)
        _, again, same = teach(start, server, "teacher.max_concurrency=1", store="other")
        _, reused, _ = teach(start, server, "teacher.max_concurrency=2", "teacher.timeout=9.0")
        assert not reused["made"]
    reasons = {c.problem_id: c.reason for c in found}
    assert sorted(reasons.values()) == ["accepted"] * 6 + ["no_proposal", "refused"]
    assert [c.text for c in found if c.accepted] == [
        right(i) for i in range(1, COUNT + 1) if plan(f"What is {i} and", 1) == "ok"
    ]
    assert set(answered.values()) == {1}
    metrics = made["metrics"]
    assert (metrics["teach/calls"], metrics["teach/cached_calls"]) == (15, 0)
    assert (metrics["teach/retries"], metrics["teach/refused"]) == (10, 1)
    assert metrics["teach/accepted"] == 6
    assert table == same  # one at a time, in a store of its own
    assert again["metrics"]["teach/calls"] == 15
    manifest = json.loads((Path(made["artifact"]) / "manifest.json").read_text())
    assert manifest["metrics"]["teach/input_tokens"] == metrics["teach/input_tokens"] > 0
    assert KEY in str(server.headers)
    written = [p for p in start.rglob("*") if p.is_file()]
    assert len(list((start / "store" / "answers").rglob("*.json"))) == 15
    assert [p for p in written if KEY.encode() in p.read_bytes()] == []
    assert KEY not in "".join(capfd.readouterr())


def test_a_killed_stage_goes_on_where_it_was(start, monkeypatch):
    """The server forbids everything after the second part: what was answered is not asked again."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    closed = []

    def plan(prompt, nth):
        return "401" if closed or sum(server.answered.values()) >= 13 else "ok"

    server = Server(plan)
    with server.running():
        with pytest.raises(TeacherError, match="401"):
            teach(start, server, "teacher.max_concurrency=1")
        before = dict(server.answered)
        assert len(before) == 13
        server.plan = lambda prompt, nth: "ok"
        found, made, _ = teach(start, server)
    assert [c.reason for c in found] == ["accepted"] * COUNT
    assert set(server.answered.values()) == {1}
    assert made["metrics"]["teach/calls"] + made["metrics"]["teach/cached_calls"] == 16
    assert made["metrics"]["teach/cached_calls"] == 1  # of the part that was cut off


def test_a_spent_budget_leaves_attempts_uncorrected_and_says_so(start, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    limits = ["teacher.max_tokens_total=1900", "teacher.max_completion_length=30"]
    limits += ["teacher.price_per_million_input=2", "teacher.price_per_million_output=8"]
    with Server().running() as server:
        found, made, table = teach(start, server, *limits)
        _, _, same = teach(start, server, *limits, "teacher.max_concurrency=1", store="other")
        _, more, _ = teach(start, server, *limits[1:], "teacher.max_tokens_total=null")
    metrics = made["metrics"]
    assert 0 < metrics["teach/over_budget"] < COUNT
    assert metrics["teach/over_budget"] == sum(c.reason == "over_budget" for c in found)
    spent = metrics["teach/input_tokens"] + metrics["teach/output_tokens"]
    assert 900 < spent <= 1900
    cost = metrics["teach/input_tokens"] * 2e-6 + metrics["teach/output_tokens"] * 8e-6
    assert metrics["teach/cost"] == pytest.approx(cost)
    assert "budget is spent" in capsys.readouterr().out
    assert table == same
    assert more[
        "made"
    ]  # another budget is another artifact, and what was answered is not paid again
    assert more["metrics"]["teach/cached_calls"] == metrics["teach/calls"]


def test_the_best_of_several_proposals_stays(start, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def plan(prompt, nth):
        if "Which step" in prompt:
            return "ok"
        gold = prompt.split("Right answer: ")[1].split("\n")[0]
        long = f"says Once more with many words.\nThe answer is {gold}."
        return ["says The answer is 999.", long, f"says The answer is {gold}.", long][nth]

    several = ["teacher.num_proposals=4", "teacher.temperature=1.0", "teacher.max_concurrency=1"]
    with Server(plan).running() as server:
        found, _, _ = teach(start, server, *several)
    assert [c.text for c in found] == [right(i) for i in range(1, COUNT + 1)]


def test_a_missing_key_is_told_before_anything_is_made(start, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with Server().running() as server:
        with pytest.raises(TeacherError, match="OPENAI_API_KEY is not set"):
            teach(start, server)
        assert not list((start / "store").rglob("*.parquet"))
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        teach(start, server)
        monkeypatch.delenv("OPENAI_API_KEY")
        _, made, _ = teach(start, server)  # what is there already needs no key
        assert not made["made"]
        teach(start, server, "teacher.api_key_env=null", store="keyless")


class Batches:
    """A teacher of a user's own that takes a part at once."""

    name = "batches"

    def __init__(self, task):
        self.sizes = []

    def correct_all(self, attempts, *, spent, tick):
        counts = {"asked": 1}
        return [
            Proposals([Proposal(text.replace("are", "make"))], counts=counts)
            for _, text in attempts[: spent.get("asked", 0) + 3]
        ]


def test_a_users_batch_teacher_gets_whole_parts_and_what_was_spent(start, monkeypatch):
    def build(node, task):
        made = functools.partial(Batches, task)
        return made if node.get("_partial_") else made()

    monkeypatch.setattr("rlmec.stages.teach.build", build)
    found, made, _ = teach(start, None, teacher="oracle")
    assert {c.reason for c in found} == {"not_right"}
    assert made["metrics"]["teach/asked"] == COUNT
    monkeypatch.setattr(Batches, "correct_all", lambda self, attempts, **_: [])
    with pytest.raises(ValueError, match="'batches' gave proposals for 0 of 3 attempts"):
        teach(start, None, teacher="oracle", store="other")
    with pytest.raises(ValueError, match="a teacher's reason is 'bored'"):
        Proposals(reason="bored")


def test_the_own_teacher_of_the_page_runs_as_shown(start, monkeypatch):
    """Code and settings stand on docs/teachers.md; the code has fewer than 40 lines."""
    page = (ROOT / "docs/teachers.md").read_text()
    (code,) = re.findall(r"```python\n# my_pkg\.py\n(.*?)```", page, re.DOTALL)
    (command,) = re.findall(r"python train\.py (.*my_pkg.*)", page)
    assert len(code.splitlines()) < 40
    (start / "my_pkg.py").write_text(code)
    monkeypatch.delitem(sys.modules, "my_pkg", raising=False)  # the one of another page
    monkeypatch.syspath_prepend(str(start))
    rows = [
        {"question": f"What is {i} and {i}?", "attempt": wrong, "correction": right(i)}
        for i in range(2, COUNT + 1)
        for wrong in [right(i).replace(f"is {2 * i}.", f"is {2 * i + 1}.")]
    ]
    (start / "corrections.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = [o for o in shlex.split(command) if "teacher" in o or "security" in o]
    assert "security.allow=[my_pkg.]" in shown
    own = [o.replace("corrections.jsonl", f"{start}/corrections.jsonl") for o in shown]
    try:
        found, made, _ = teach(start, None, *own, teacher="oracle")
        assert [c.reason for c in found].count("accepted") == COUNT - 1
        assert [c.reason for c in found].count("no_proposal") == 1
        (start / "corrections.jsonl").write_text(json.dumps(rows[0]) + "\n")
        found, again, _ = teach(start, None, *own, teacher="oracle")
        assert again["artifact"] != made["artifact"]  # its file counts
        assert [c.reason for c in found].count("accepted") == 1
        (start / "corrections.jsonl").unlink()
        with pytest.raises(FileNotFoundError, match=r"corrections\.jsonl"):
            teach(start, None, *own, teacher="oracle", store="other")
        assert not list((start / "other").rglob("*.parquet"))  # told before anything was made
    finally:
        sys.modules.pop("my_pkg", None)


@pytest.mark.parametrize("precision", ["32-true", "bf16"])
def test_a_teacher_that_takes_the_policy_gets_the_model_of_the_attempts(
    start, monkeypatch, precision
):
    seen = []

    def correct_all(self, attempts, *, spent, tick):
        seen.append(self._policy)
        return real(self, attempts, spent=spent, tick=tick)

    real = ContinuationTeacher.correct_all
    monkeypatch.setattr(ContinuationTeacher, "correct_all", correct_all)
    limits = ["sample.max_completion_length=24", f"sample.precision={precision}"]
    found, made, _ = teach(start, None, *limits, teacher="continuation")
    assert made["metrics"]["teach/calls"] == 4 * COUNT  # two lines: one cut, before the first
    assert len(found) == COUNT
    policy = seen[0]
    assert policy.max_completion_length == 24
    own = load_network(start / "model").state_dict()
    assert all(
        torch.equal(weight, own[name]) for name, weight in policy.load().state_dict().items()
    )
    with policy.computing():
        assert torch.is_autocast_enabled("cpu") == (precision == "bf16")
