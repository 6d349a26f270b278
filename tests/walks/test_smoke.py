"""The chain as a user runs it: what it leaves, what a second run makes, what a change remakes."""

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from walk import ROOT, STAGES, done_well, finals, leaks, run, same_files

from rlmec.records import Attempt, Score
from rlmec.store.tables import read_table

pytestmark = pytest.mark.slow
ALL = ["warmup", "sample", "teach", "grm", "score", "policy", "evaluate/start", "evaluate"]
ALL += ["report"]
REUSING = 60.0
"""Seconds of processor time; about 6 are used, where the chain takes some 60 to 90."""


def test_the_chain_leaves_a_summary_of_every_stage(shared):
    store, done = shared
    assert done.made() == ALL
    assert {s["name"] for s in done.stages} == set(STAGES)
    for stage in done.stages:
        assert {"name", "made", "artifact", "rows", "seconds", "metrics"} <= set(stage)
        assert stage["rows"] > 0
        assert 0 < stage["seconds"] < 120
        assert stage["metrics"]
        assert f"{stage['name']}" in done.output
        folder = Path(stage["artifact"])
        assert folder.parent == store / "artifacts" / stage["name"]
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["fingerprint"] == folder.name
        assert not list(folder.glob("parts")), "what only resuming needs is gone"
        assert not list(folder.glob("checkpoints"))
    known = [folder for folders in finals(store).values() for folder in folders]
    assert {Path(stage["artifact"]) for stage in done.stages} <= set(known)
    assert len({stage["artifact"] for stage in done.stages}) == len(done.stages)
    own = [Path(stage["artifact"]) for stage in done.stages]
    assert not [folder for folder in own if (folder.parent / f".work-{folder.name}").exists()]


def test_status_names_what_the_chain_has_made(shared):
    """The addresses that are told without making anything are those of the run."""
    store, chain = shared
    done = done_well(run(store, "stage=status"))
    shown, named = done.output.split("this configuration names:\n")
    lines = dict(line.rsplit("  ", 2)[0::2] for line in named.strip().splitlines())
    titles = [f"{s['name']} ({s['variant']})" if s["variant"] else s["name"] for s in chain.stages]
    assert {title.strip() for title in lines} == set(titles)
    assert set(lines.values()) == {"whole"}
    for stage in chain.stages:
        fingerprint = Path(stage["artifact"]).name
        assert fingerprint in named
        assert fingerprint in shown
    assert not done.summaries  # it makes nothing, and says so to no sweep


def test_no_secret_of_the_environment_is_in_what_the_chain_leaves(shared):
    store, _ = shared
    assert len([p for p in store.rglob("*") if p.is_file()]) > 50
    assert leaks(store) == []


def test_the_chain_has_something_to_teach(shared):
    """Smoke is small, but nothing in it is empty: the other walks would say nothing."""
    _, done = shared
    assert 0 < done.metrics("sample")["sample/accuracy"] < 1
    assert done.metrics("teach")["teach/accepted"] > 20
    assert done.metrics("score")["score/accepted"] > 0
    policy = done.metrics("policy")
    assert policy["policy/rewards/positive"] > 0
    assert policy["policy/rewards/negative"] > 0
    table = (done.artifact("report") / "table.md").read_text()
    assert "| start |" in table
    assert "| policy |" in table
    assert table in done.output


def test_the_report_s_pages_hold_every_token_of_the_records_once(shared):
    _, done = shared
    report = done.artifact("report")
    for name in ("index.html", "tokens.html"):
        assert f": {report / name}" in done.output
    block = re.search(r'id="data">(.*?)</script>', (report / "tokens.html").read_text())
    assert block is not None
    data = json.loads(block[1])
    scores = read_table(done.artifact("score") / "scores.parquet", Score)
    attempts = read_table(done.artifact("sample") / "attempts.parquet", Attempt)
    assert [a["id"] for a in data["attempts"]] == [a.id for a in attempts]
    ids = np.frombuffer(base64.b64decode(data["ids"]), dtype="<u4")
    assert ids.tolist() == [i for a in attempts for i in a.completion_ids]
    stored = np.float32([p for score in scores for p in score.grm_logprobs])
    assert base64.b64decode(data["grm_logprobs"]) == stored.astype("<f4").tobytes()
    rewards = np.frombuffer(base64.b64decode(data["rewards"]), dtype="<f4")
    right = np.repeat([a.is_right for a in attempts], [len(a.completion_ids) for a in attempts])
    expected = np.where(right, np.clip(np.exp(stored) - 0.5, 0, 0.5), 0)  # method.md, step 6
    expected += np.where(right, 0, np.clip(np.exp(stored) - 0.5, -0.1, 0))
    assert np.abs(rewards - expected).max() < 1e-6
    texts = "".join(
        data["pieces"][i] for i in np.frombuffer(base64.b64decode(data["tokens"]), "<u4")
    )
    assert texts.replace("<|end|>", "") == "".join(a.text for a in attempts)
    assert len(list(report.glob("*.png"))) >= 6
    the_trained_policy_was_asked(done, data, attempts)


def the_trained_policy_was_asked(done, data, attempts):
    """About 40 wrong attempts, with the log-probs of a plain forward pass of its weights."""
    asked = [
        (a, shown) for a, shown in zip(attempts, data["attempts"], strict=True) if shown["now"]
    ]
    assert len(asked) == min(40, sum(not a.is_right for a in attempts))
    assert not any(attempt.is_right for attempt, _ in asked)
    network = AutoModelForCausalLM.from_pretrained(done.artifact("policy") / "model").eval()
    kept = np.frombuffer(base64.b64decode(data["new_logprobs"]), "<f4")
    at = 0
    for attempt, _ in asked[:5]:
        ids = torch.tensor([[*attempt.prompt_ids, *attempt.completion_ids]])
        with torch.no_grad():
            logprobs = network(ids).logits.float().log_softmax(-1)[0, :-1]
        plain = logprobs.gather(1, ids[0, 1:, None])[len(attempt.prompt_ids) - 1 :, 0].numpy()
        assert np.abs(kept[at : at + len(plain)] - plain).max() < 1e-4
        at += len(plain)


def test_a_second_run_makes_nothing_and_says_so(shared):
    store, first = shared
    again = done_well(run(store))
    assert again.made() == []
    assert [s["artifact"] for s in again.stages] == [s["artifact"] for s in first.stages]
    assert f"nothing to do: all {len(ALL)} artifacts are there already" in again.output
    assert again.cpu < REUSING


def test_evaluate_judges_the_exported_policy_on_any_split(shared):
    store, chain = shared
    policy = chain.artifact("policy") / "model"
    judged = done_well(
        run(
            store,
            *("-m", "evaluate.split=test,dev", f"evaluate.model={policy}"),
            program=ROOT / "evaluate.py",
        )
    )
    test, dev = judged.artifact("evaluate", 0), judged.artifact("evaluate", 1)
    assert same_files(test, chain.artifact("evaluate"), ["attempts.parquet"])
    name = "eval/arithmetic/accuracy"
    assert judged.metrics("evaluate", 0)[name] == chain.metrics("evaluate")[name]
    tested, developed = (read_table(f / "attempts.parquet", Attempt) for f in (test, dev))
    assert (len(tested), len(developed)) == (48, 32)
    assert not {a.problem_id for a in tested} & {a.problem_id for a in developed}
    accuracy = sum(a.is_right for a in developed) / 32
    assert judged.metrics("evaluate", 1)[name] == accuracy
    assert judged.made(0) == judged.made(1) == ["evaluate"]


def test_another_epsilon_remakes_the_policy_and_what_follows_only(shared, tmp_path):
    """And the policy that is exported is the one that was trained: the weights of the best step,
    which another callback kept, in plain transformers give the same logits."""
    store, chain = shared
    kept = tmp_path / "kept"
    keep = "_target_:lightning.pytorch.callbacks.ModelCheckpoint,save_weights_only:true"
    keep += f",save_top_k:-1,every_n_train_steps:10,dirpath:'{kept}'"
    done = done_well(
        run(store, "policy.objective.epsilon=0.25", f"+callbacks.extra.keep={{{keep}}}")
    )
    assert done.made() == ["policy", "evaluate", "report"]
    assert done.artifact("policy") != chain.artifact("policy")

    step = int(done.metrics("policy")["dev/best_step"])
    exported = done.artifact("policy") / "model"
    assert (exported / "model.safetensors").is_file()
    network = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)
    state = torch.load(kept / f"epoch=0-step={step}.ckpt", weights_only=True)["state_dict"]
    trained = AutoModelForCausalLM.from_config(network.config, dtype=torch.float32)
    trained.load_state_dict({k.removeprefix("net.network."): v for k, v in state.items()})
    tokenizer = AutoTokenizer.from_pretrained(exported)
    ids = torch.tensor([tokenizer.encode("Mia has 7 apples. Monday: Mia gets 2 more.\n")])
    with torch.no_grad():
        logits = network.eval()(ids).logits
        assert torch.equal(logits, trained.eval()(ids).logits)
    _the_evaluation_is_of(network, done.artifact("evaluate"), logits.shape[-1])


@torch.no_grad()
def _the_evaluation_is_of(network, evaluation, vocabulary):
    """Plain transformers finds the greedy completions of the chain's own evaluation likeliest."""
    attempts = read_table(evaluation / "attempts.parquet", Attempt)
    assert len(attempts) == 48
    for attempt in attempts:
        ids, start = [*attempt.prompt_ids, *attempt.completion_ids], len(attempt.prompt_ids)
        scores = network(torch.tensor([ids])).logits[0, start - 1 : -1].log_softmax(-1)
        of_choice = scores.gather(-1, torch.tensor(attempt.completion_ids)[:, None])[:, 0]
        assert (scores.max(-1).values - of_choice).max() < 1e-4
        assert max(ids) < vocabulary


def test_a_stage_makes_only_what_it_needs_and_two_letters_of_the_file_remake_it(tmp_path):
    rows = [
        {"question": f"What is {n} + 1?", "answer": n + 1, "solution": f"{n} + 1 = {n + 1}"}
        for n in range(40)
    ]
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = ["stage=teach", "task=dataset", f"task.path={path}", "teacher=reference"]
    overrides += ["task.solution_field=solution", "warmup.steps=1", "warmup.val_problems=0"]
    overrides += ["model.shape.hidden_size=32", "sample.max_completion_length=8"]

    first = done_well(run(tmp_path, *overrides, experiment=None))
    assert first.made() == ["warmup", "sample", "teach"]
    assert list(finals(tmp_path)) == ["warmup", "sample", "teach"]

    path.write_text(path.read_text().replace("What is 7 + 1?", "Whom is 7 + 1?"))
    changed = done_well(run(tmp_path, *overrides, experiment=None))
    assert changed.made() == ["warmup", "sample", "teach"]
    assert not {s["artifact"] for s in changed.stages} & {s["artifact"] for s in first.stages}
