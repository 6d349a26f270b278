"""Folders for use elsewhere: plain directories with a card, preferences and scores of a chain."""

import dataclasses
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from small_models import chat_tokenizer, network, prompts
from small_runs import run, settings_of, start_model

import rlmec
from rlmec.data.pairs import join_pairs
from rlmec.evaluation.harness_task import HarnessTask
from rlmec.export.model_card import command_line, model_card, placeless
from rlmec.export.model_folder import RECORD, check_target, export_model, read_origin
from rlmec.export.preferences import ScoredAttempt, completions, preferences, write_parquet
from rlmec.lm.loading import export_network, load_network
from rlmec.lm.tokenizers import codec, load_tokenizer, tokenizer_digest
from rlmec.records import (
    Attempt,
    Correction,
    Problem,
    Score,
)
from rlmec.stages.export import JOINED, LAST
from rlmec.store.tables import read_table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "library.md"


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """A chat model's chain up to the policy, with the exports of it."""
    root = tmp_path_factory.mktemp("chain")
    model = start_model(root / "start", chat_tokenizer())
    done = {}
    for what in (*LAST, *JOINED, "lm_eval_task"):
        path = f"export.path={root / 'exports' / what}"
        overrides = ["prompt=chat", "stage=export", f"export.what={what}", path]
        done[what] = run(root, model, *overrides)
    return root, model, done


ALONE = """
import sys, torch
sys.modules["rlmec"] = None  # as if it were not installed
from transformers import AutoModelForCausalLM, AutoTokenizer
network = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
turns = [{"role": "user", "content": "Ann has 2 pens."}]
text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
ids = tokenizer.encode(text, add_special_tokens=False)
with torch.no_grad():
    torch.save([text, ids, network(torch.tensor([ids])).logits], sys.argv[2])
"""


def test_a_model_loads_without_this_project_and_gives_the_same(chain, tmp_path):
    root, _, done = chain
    folder = root / "exports" / "policy"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
        "HF_HUB_OFFLINE": "1"
    }
    command = [sys.executable, "-c", ALONE, str(folder), str(tmp_path / "out.pt")]
    subprocess.run(command, check=True, cwd=tmp_path, env=environment, capture_output=True)
    text, ids, logits = torch.load(tmp_path / "out.pt")
    source = Path(done["policy"]["policy"]["artifact"]) / "model"
    tokenizer = load_tokenizer(source)
    assert tokenizer_digest(load_tokenizer(folder)) == tokenizer_digest(tokenizer)
    assert text == "<|user|>Ann has 2 pens.<|end|><|assistant|>"
    with torch.no_grad():
        assert torch.equal(load_network(source)(torch.tensor([ids])).logits, logits)
    names = {p.name for p in folder.iterdir()}
    assert {"README.md", "model.safetensors", "generation_config.json", "rlmec.json"} <= names
    assert not [n for n in names if n.endswith((".bin", ".pt", ".py"))]


def test_no_file_tells_of_this_machine(chain):
    root, _, _ = chain
    for what in ("policy", "grm", "lm_eval_task"):
        for file in (root / "exports" / what).iterdir():
            assert str(root).encode() not in file.read_bytes(), file


def test_the_card_has_the_figures_and_the_command(chain):
    root, _, done = chain
    card = (root / "exports" / "policy" / "README.md").read_text()
    for stage in ("sample", "teach", "policy"):
        name, value = next(
            (n, v) for n, v in done["policy"][stage]["metrics"].items() if isinstance(v, float)
        )
        assert f"| {stage} | `{name}` | {value:.4g} |" in card
    assert "policy.objective.epsilon = 0.3" in card
    assert "python train.py prompt=chat stage=export export.what=policy\n" in card
    assert "Base model: `start`" in card
    assert "torch 2." in card
    assert "\nlicense" not in card
    grm = (root / "exports" / "grm" / "README.md").read_text()
    assert "generative reward model" in grm
    assert "policy.objective" not in grm


def test_an_exported_reward_model_knows_its_prompts(chain):
    root, _, done = chain
    artifact = Path(done["grm"]["grm"]["artifact"]) / "model"
    folder = root / "exports" / "grm"
    assert read_origin(folder) == read_origin(artifact)
    assert read_origin(folder).templates.chat
    found = [rlmec.score(f, "q", "a 1", answer="1").logprobs for f in (artifact, folder)]
    assert found[0] == found[1]
    assert read_origin(root / "exports" / "policy").kind == "policy"


def test_preferences_are_the_accepted_corrections(chain, tmp_path):
    from datasets import load_dataset

    root, _, done = chain
    file = root / "exports" / "pairs" / "pairs.jsonl"
    rows = load_dataset(
        "json", data_files=str(file), split="train", cache_dir=str(tmp_path / "cache")
    )
    stages = done["pairs"]
    accepted = []
    for stage in ("teach", "score"):
        table = Path(stages[stage]["artifact"]) / "corrections.parquet"
        accepted += [c for c in read_table(table, Correction) if c.accepted]
    attempts = read_table(Path(stages["sample"]["artifact"]) / "attempts.parquet", Attempt)
    assert len(rows) == len(accepted) == stages["export"]["rows"] > 10
    texts = Counter((r["chosen"][0]["content"], r["rejected"][0]["content"]) for r in rows)
    wrong = {a.id: a.text for a in attempts}
    assert texts == Counter((c.text, wrong[c.attempt_id]) for c in accepted)
    assert set(rows.column_names) == {"prompt", "chosen", "rejected"}
    assert rows[0]["prompt"][-1]["role"] == "user"
    assert rows[0]["chosen"][0]["role"] == "assistant"
    record = json.loads((file.parent / RECORD).read_text())
    left = len(attempts) - len(accepted)
    assert sum(record["dropped"].values()) == left
    # as the model reads it: turns of the row, by the chat template, are the attempt's own prompt
    tokenizer = load_tokenizer(root / "start")
    shown = tokenizer.apply_chat_template(
        rows[0]["prompt"], tokenize=False, add_generation_prompt=True
    )
    asked = [a.prompt_ids for a in attempts if a.text == rows[0]["rejected"][0]["content"]]
    assert tokenizer.encode(shown, add_special_tokens=False) in asked


def test_a_task_for_the_harness_judges_as_the_run_does(chain):
    """Its verdicts on the texts of the evaluation, and its description as the harness needs it."""
    root, model, _ = chain
    folder = root / "exports" / "lm_eval_task"
    text = (folder / "rlmec_arithmetic.yaml").read_text()
    assert "custom_dataset: !function rlmec_judge.problems" in text
    described = yaml.safe_load(text.replace("!function ", ""))
    longest = settings_of(root, model).evaluate.completion_length
    assert described["generation_kwargs"]["max_gen_toks"] == longest
    assert "--apply_chat_template" in (folder / "README.md").read_text()

    judged = run(root, model, "prompt=chat", "stage=evaluate")
    path = Path(judged["evaluate"]["artifact"]) / "attempts.parquet"
    attempts = read_table(path, Attempt)
    task = HarnessTask(folder)
    rows = task.problems(seed=1)["test"].to_list()
    assert [row["id"] for row in rows] == [a.problem_id for a in attempts]
    ending = 'Solve the problem step by step and end with "The answer is" and the answer.'
    assert [r["prompt"] for r in rows] == [f"{r['question']}\n\n{ending}" for r in rows]
    texts = [*(a.text for a in attempts), *(f"So.\nThe answer is {r['answer']}." for r in rows)]
    verdicts = [task.judge(r, [t])["accuracy"] for r, t in zip(rows * 2, texts, strict=True)]
    assert verdicts == [float(a.verdict == "right") for a in attempts] + [1.0] * len(rows)


def test_completions_are_what_the_policy_imitates(chain):
    """Every right attempt and every accepted correction, for fine-tuning elsewhere."""
    root, _, done = chain
    read = {}
    for what in ("completions", "messages"):
        lines = (root / "exports" / what / f"{what}.jsonl").read_text().splitlines()
        read[what] = [json.loads(line) for line in lines]
        record = json.loads((root / "exports" / what / RECORD).read_text())
        assert record["rows"] == len(lines) == done[what]["export"]["rows"]
    table = pq.read_table(root / "exports" / "scores" / "scores.parquet").to_pylist()
    decode = codec(load_tokenizer(root / "start")).text
    wanted = Counter(decode(row["target_ids"]) for row in table if row["target_ids"])
    assert Counter(row["completion"][0]["content"] for row in read["completions"]) == wanted
    for row, whole in zip(read["completions"], read["messages"], strict=True):
        assert set(row) == {"prompt", "completion"}
        assert whole == {"messages": row["prompt"] + row["completion"]}
        assert [turn["role"] for turn in whole["messages"]][-2:] == ["user", "assistant"]


def test_completions_as_text_are_what_the_model_reads():
    own = prompts().codec
    problem = Problem("p", "1 + 1?", "2")
    asked = prompts().policy(problem)
    attempts = [
        Attempt(
            *(f"a{i}", "p", asked, own.completion(text), [], text, verdict, False, own.digest),
        )
        for i, (text, verdict) in enumerate([("2", "right"), ("3", "wrong"), ("4", "wrong")])
    ]
    fixed = SimpleNamespace(text="2!")
    table = SimpleNamespace(attempts=attempts, corrections={"a1": fixed}, problems={"p": problem})
    dropped = Counter()
    rows = list(completions(table, prompts(), dropped, form="texts"))
    assert rows == [{"prompt": "1 + 1?\n", "completion": text} for text in ("2", "2!")]
    assert dropped == {"uncorrected": 1}


def test_scores_are_the_pairs_that_a_policy_is_trained_on(chain):
    root, _, done = chain
    table = pq.read_table(root / "exports" / "scores" / "scores.parquet").to_pylist()
    stages = done["scores"]
    attempts = read_table(Path(stages["sample"]["artifact"]) / "attempts.parquet", Attempt)
    scores = read_table(Path(stages["score"]["artifact"]) / "scores.parquet", Score)
    by_id, old = {a.id: a for a in attempts}, {s.attempt_id: s for s in scores}
    assert len(table) == stages["export"]["rows"] > 10
    assert list(table[0]) == [f.name for f in dataclasses.fields(ScoredAttempt)]
    for row in table:
        attempt = by_id[row["id"]]
        assert row["completion_ids"] == attempt.completion_ids
        assert row["prompt_ids"] == attempt.prompt_ids
        assert len(row["token_rewards"]) == len(row["completion_ids"])
        assert np.allclose(row["old_logprobs"], old[attempt.id].old_logprobs)
        assert len(row["edit_weights"]) == len(row["target_ids"]) > 0
        assert set(row["edit_weights"]) <= {0.5, 1.0}
        assert all(-0.1000001 <= r <= 0.5 for r in row["token_rewards"])
    record = json.loads((root / "exports" / "scores" / RECORD).read_text())
    assert record["dropped"] == {"uncorrected": len(attempts) - len(table)}


# --- targets ---


def test_only_an_earlier_export_is_replaced(chain, tmp_path):
    _, model, _ = chain
    target = tmp_path / "out"
    export_model(str(model), target, card="one", merge=True)
    first = json.loads((target / RECORD).read_text())
    assert set(first["files"]) == {p.name for p in target.iterdir()} - {RECORD}
    export_model(str(model), target, card="two", dtype="bfloat16")
    assert (target / "README.md").read_text() == "two"
    assert json.loads((target / "config.json").read_text())["dtype"] == "bfloat16"
    assert [p.name for p in tmp_path.iterdir()] == ["out"], "nothing else is left"

    (target / "mine.txt").write_text("x")
    with pytest.raises(FileExistsError, match=r"mine\.txt"):
        export_model(str(model), target, card="three")
    assert (target / "README.md").read_text() == "two"
    (target / "mine.txt").unlink()
    (target / RECORD).write_text("{}")
    with pytest.raises(FileExistsError, match=r"export\.json"):
        check_target(target)
    (target / RECORD).unlink()
    with pytest.raises(FileExistsError, match=str(target)):
        check_target(target)
    with pytest.raises(FileExistsError, match=r"README\.md"):
        check_target(target / "README.md")
    check_target(tmp_path / "nowhere")


def test_an_export_that_fails_leaves_the_earlier_one(chain, tmp_path, monkeypatch):
    _, model, _ = chain
    target = tmp_path / "out"
    export_model(str(model), target, card="one")
    monkeypatch.setattr("rlmec.export.model_folder.export_network", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_model(str(model), target, card="two")
    assert (target / "README.md").read_text() == "one"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "export.what=policies",
            "export.what: expected one of policy, grm, pairs, completions",
        ),
        ("export.format=csv", "export.format: expected one of jsonl, parquet"),
        ("export.dtype=int8", "export.dtype: expected one of float32"),
        ("export.path=null", "export.path: name the folder to write"),
    ],
)
def test_a_bad_export_is_refused_before_anything_is_made(chain, tmp_path, override, expected):
    _, model, _ = chain
    own = ["stage=export", f"export.path={tmp_path / 'x'}", override]
    with pytest.raises(ValueError, match=expected):
        run(tmp_path, model, *own)
    assert not (tmp_path / "artifacts").exists()
    assert settings_of(tmp_path, model).export.what == "policy"


def test_the_command_of_the_module(chain, tmp_path, monkeypatch, capsys):
    from rlmec.export import __main__ as program

    _, model, _ = chain
    monkeypatch.setattr(sys, "argv", ["export", str(model), str(tmp_path / "out")])
    program.main()
    assert "written" in capsys.readouterr().out
    assert load_network(tmp_path / "out").config.vocab_size == len(chat_tokenizer())
    monkeypatch.setattr(sys, "argv", ["export", str(tmp_path / "no"), str(tmp_path / "other")])
    with pytest.raises(SystemExit):
        program.main()
    assert not (tmp_path / "other").exists()


# --- preferences worked by hand ---


def attempt(name, text, verdict, problem="p"):
    ids = prompts().policy(PROBLEM) if problem == "p" else [5]
    digest = prompts().codec.digest
    return Attempt(name, problem, ids, [9, 1], [], text, verdict, False, digest)


PROBLEM = Problem("p", "What is {answer} 1 + 1?", "2")


def test_right_and_wrong_attempts_make_pairs_too():
    """Two right and three wrong attempts, one of them corrected: 1 + 2 rows, one wrong is left."""
    verdicts = {"r0": "right", "w0": "wrong", "w1": "wrong", "r1": "right", "w2": "wrong"}
    several = [attempt(f"p/{name}", name, verdict) for name, verdict in verdicts.items()]
    digest = prompts().codec.digest
    better = Correction("p/w0", "p", [8, 1], "better", "right", 0.5, "accepted", "t", digest)
    table = join_pairs(
        [PROBLEM],
        several,
        [better],
        [],
        tokenizer=digest,
        reward=None,
        edited_weight=1.0,
        kept_weight=0.5,
    )
    dropped = Counter()
    rows = list(preferences(table, prompts(), dropped, conversational=False, right_and_wrong=True))
    found = [(r["chosen"], r["rejected"]) for r in rows]
    assert found == [("better", "w0"), ("r0", "w0"), ("r1", "w1")]
    assert dropped == {"uncorrected": 1}
    assert {r["prompt"] for r in rows} == {"What is {answer} 1 + 1?\n"}
    only = Counter()
    assert len(list(preferences(table, prompts(), only, conversational=True))) == 1
    assert only == {"right": 2, "uncorrected": 2}


def test_parquet_is_written_in_groups(tmp_path, monkeypatch):
    import pyarrow as pa

    monkeypatch.setattr("rlmec.export.preferences.ROWS_AT_ONCE", 2)
    columns = pa.schema([("a", pa.int64())])
    assert write_parquet(tmp_path / "x.parquet", ({"a": i} for i in range(5)), columns) == 5
    assert pq.ParquetFile(tmp_path / "x.parquet").num_row_groups == 3
    assert write_parquet(tmp_path / "y.parquet", iter([]), columns) == 0
    assert pq.read_table(tmp_path / "y.parquet").column_names == ["a"]


# --- the card ---


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("/home/me/models/m1", "m1"),
        ("/home/my name/m1", "m1"),
        ("../models/m1/", "m1"),
        ("Qwen/Qwen3-1.7B", "Qwen/Qwen3-1.7B"),
        ("model.path=/home/me/m1", "model.path=m1"),
        ("task.path='/data sets/x.jsonl'", "task.path=x.jsonl"),
        ("a={path:/x/y/z.jsonl,b:1}", "a={path:z.jsonl,b:1}"),
        ("prompt.policy='{question}\\n1/2 and/or'", "prompt.policy='{question}\\n1/2 and/or'"),
        ("see https://arxiv.org/abs/1", "see https://arxiv.org/abs/1"),
    ],
)
def test_places_are_cut_to_their_last_name(text, wanted):
    assert placeless(text) == wanted


def test_a_card_shows_the_figures_that_matter_in_words_and_the_usage_runs(chain, capsys):
    figures = {"evaluate": {"eval/sums/accuracy": 0.25, "eval/sums/accuracy_low": 0.125}}
    figures |= {"sample": {"sample/accuracy": 0.5, "sample/duplicates": 3}}
    card = model_card("m", kind="policy", prompt="Q: {question}\n", figures=figures)
    shown = card[card.index("## Figures") : card.index("<details>")]
    assert [line.split("| ")[1:] for line in shown.splitlines()[4:] if line] == [
        ["accuracy on sums ", "0.25 |"],
        ["accuracy on sums, lower end of its 95 % interval ", "0.125 |"],
        ["right attempts of the start policy, share ", "0.5 |"],
    ]
    assert "| sample | `sample/duplicates` | 3 |" in card[card.index("<details>") :]

    for what in ("policy", "grm"):
        folder = chain[0] / "exports" / what
        card = (folder / "README.md").read_text()
        code = card.split("```python\n")[1].split("```")[0].replace(f'"{what}"', repr(str(folder)))
        known = {"question": "1 + 1?", "attempt": "3", "reference": "2"}
        exec(code, known)
        assert capsys.readouterr().out.strip()


def test_a_card_names_what_is_known_and_no_licence():
    card = model_card("m", base_model="Qwen/Qwen3-1.7B", figures={"a": {"x": 0.5, "h": [1]}})
    assert "base_model: Qwen/Qwen3-1.7B" in card
    assert "| a | `x` | 0.5 |" in card
    assert "base_model" not in model_card("m", base_model="/home/me/m")
    assert "## Usage" not in card
    assert "2401.06081" in card
    assert "license" not in card
    assert command_line(["paths.artifacts=/x", "export.path=/y", "grm.steps=3", "task=a b"]) == (
        "python train.py grm.steps=3 'task=a b'"
    )


# --- the page ---


def test_the_code_of_the_page_runs(chain, monkeypatch, tmp_path):
    root, _, _ = chain
    monkeypatch.chdir(root)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    blocks = [b.split("```")[0] for b in text.split("```python\n")[1:]]
    assert len(blocks) >= 3
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["found"].token_rewards


def test_a_model_of_another_architecture_keeps_its_generation_settings(tmp_path):
    made = network("gpt2", seed=2)
    made.generation_config.eos_token_id = [1, 5]
    export_network(made, chat_tokenizer(), tmp_path / "in")
    export_model(str(tmp_path / "in"), tmp_path / "out", card="")
    kept = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert kept["eos_token_id"] == [1, 5]
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        assert torch.equal(load_network(tmp_path / "out")(ids).logits, made(ids).logits)
