"""The whole chain on model directories of the architectures users have, on real problems.

Each directory is a tiny network with a tokenizer of its own kind, taught a few steps here so that
it says something; the chain gets it by `model.path` alone.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from small_models import SHAPES
from small_tokenizers import byte_level, sentencepiece, with_chat

from rlmec.data.collate import collate
from rlmec.data.row import Row
from rlmec.lm.loading import export_network, new_network
from rlmec.lm.logprobs import TokenScorer
from rlmec.lm.tokenizers import codec
from rlmec.prompts import Prompts, Templates
from rlmec.records import Problem
from rlmec.runtime.ranks import Ranks
from rlmec.settings.check import check
from rlmec.settings.command_line import check_command_line, with_split_files

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("RLMEC_DATA", "nowhere"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="RLMEC_DATA names no folder of data")
pytestmark = [pytest.mark.slow, needs_data]

DIRECTORIES = {  # architecture: its tokenizer, and whether it has a chat template
    "llama": (sentencepiece, True),
    "qwen3": (byte_level, True),
    "mistral": (sentencepiece, False),
    "gemma3_text": (lambda texts, size: sentencepiece(texts, size, kind="unigram"), True),
    "gpt2": (byte_level, False),
}
STEPS, ROWS_A_STEP = 60, 8


def settings_of(store, *overrides):
    """The bound tree of train.py with these overrides, its artifacts and outputs in `store`."""
    places = [f"paths.artifacts={store}/artifacts", f"paths.outputs={store}/outputs"]
    quiet = ["trainer.progress_bar=false", "logger=none", "trainer.threads=1"]
    given = with_split_files([*overrides, *places, *quiet])
    given = check_command_line(given, ROOT / "conf", "train")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return check(compose("train", given))


def lines(path, count):
    with (DATA / path).open(encoding="utf-8") as stream:
        return [json.loads(line) for _, line in zip(range(count), stream, strict=False)]


def texts():
    """(question, solution) of GSM8K, and of ECQA with one of its letters for the answer."""
    out = [(row["question"], row["answer"]) for row in lines("gsm8k/train.jsonl", 70)]
    for number, row in enumerate(lines("ecqa/train_part.jsonl", 150)):
        out.append((row["problem"], f"The answer is ({'ABCDE'[number % 5]})."))
    return out


def taught_directory(kind, folder):
    """A model directory of this architecture that has learnt to name one option or another."""
    make, chat = DIRECTORIES[kind]
    pieces = texts()
    tokenizer = make([part for pair in pieces for part in pair], 600)
    tokenizer = with_chat(tokenizer) if chat else tokenizer
    shape = {"model_type": kind, "initializer_range": 0.05, **SHAPES[kind]}
    shape |= {"n_positions": 1024} if kind == "gpt2" else {"max_position_embeddings": 1024}
    network = new_network(shape, tokenizer, "sdpa", 0).train()
    made = codec(tokenizer)
    prompts = Prompts(prompt_templates(chat), made)
    rows = []
    for number, (question, solution) in enumerate(pieces):
        prompt = prompts.policy(Problem(str(number), question, "?"))
        completion = made.completion(solution)
        rows.append(Row.likelihood(str(number), [*prompt, *completion], len(prompt)))
    net = TokenScorer(network)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    order = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        chosen = torch.randint(len(rows), (ROWS_A_STEP,), generator=order).tolist()
        batch = collate([rows[i] for i in chosen], made.pad_id, 1.0, 1.0)
        loss = -net(batch).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    export_network(network, tokenizer, folder)
    return str(folder)


def prompt_templates(chat):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        tree = compose("train", ["prompt=chat" if chat else "prompt=plain"])
    return Templates(**tree.prompt)


SHORT = [
    *("grm.steps=30", "grm.tokens_per_step=1024", "grm.val_problems=0", "grm.optimizer.lr=0.01"),
    *("policy.steps=3", "policy.tokens_per_step=1024", "policy.val_problems=0"),
    *("grm.max_length=1024", "policy.max_length=1024", "score.rewrite=false", "teach.share=0.9"),
    *("evaluate.num_problems=4", "sample.max_completion_length=48", "report.compare=null"),
    *("teacher=reference", "teach.max_edit_ratio=1.0", "policy.optimizer.lr=0.0001"),
]


LONG = ("qwen3", "mistral")
"""Architectures for `pytest -m long`: their tokenizers and prompts are those of the others."""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(kind, marks=pytest.mark.long if kind in LONG else ()) for kind in DIRECTORIES
    ],
)
def directory(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "model"
    return request.param, taught_directory(request.param, folder)


def chain(directory, store, *overrides):
    """What every stage made, by name, of the chain on `directory`."""
    from rlmec.stages import train

    kind, path = directory
    prompt = "prompt=chat" if DIRECTORIES[kind][1] else "prompt=plain"
    settings = settings_of(store, "model=hf", f"model.path={path}", prompt, *SHORT, *overrides)
    (store / "outputs").mkdir()
    train(settings, Ranks(), store / "outputs", list(overrides))
    summary = json.loads((store / "outputs" / "summary.json").read_text())
    return {stage["name"]: stage["metrics"] for stage in summary["stages"]}


def pairs_and_both_signs(made):
    assert made["policy"]["policy/rows"] >= 50
    assert made["policy"]["policy/rewards/positive"] > 0
    assert made["policy"]["policy/rewards/negative"] > 0
    assert made["teach"]["teach/accepted"] > 20


def test_imported_solutions_of_gsm8k(directory, tmp_path):
    made = chain(
        directory,
        tmp_path,
        *("task=gsm8k", f"task.path={DATA / 'gsm8k' / 'model_solutions_part.jsonl'}"),
        *("sample.path=${task.path}", "sample.text_field='*.solution'"),
        *("sample.label_field='*.is_correct'", "sample.max_problems=50"),
    )
    assert made["sample"]["sample/label_agreement"] == 1
    pairs_and_both_signs(made)


@pytest.mark.parametrize("directory", ["llama"], indirect=True)
def test_generated_attempts_at_ecqa(directory, tmp_path):
    """One architecture, with a chat template; the test above has them all."""
    data = DATA / "ecqa"
    made = chain(
        directory,
        tmp_path,
        *("task=ecqa", f"task.path.train={data / 'train_part.jsonl'}"),
        *(f"task.path.test={data / 'validation_part.jsonl'}", "sample.max_problems=60"),
        *("sample.num_generations=3", "sample.temperature=1.0", "sample.max_completion_length=24"),
    )
    assert 0 < made["sample"]["sample/accuracy"] < 1
    pairs_and_both_signs(made)
