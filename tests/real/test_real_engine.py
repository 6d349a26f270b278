"""The engine vllm with vLLM itself, on a real model (`make vllm`); elsewhere these are skipped."""

import importlib.util
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from small_runs import run
from torch.nn import functional as F

from rlmec.data.row import Row
from rlmec.engines.base import EngineError, ModelPlace
from rlmec.engines.vllm import VllmEngine, VllmSampler
from rlmec.lm.generation import Decoding, generate
from rlmec.lm.loading import codec_of, load_network
from rlmec.lm.logprobs import TokenScorer, score_rows
from rlmec.records import Attempt
from rlmec.store.tables import read_table
from rlmec.training.predict_parts import GenerationPart

if importlib.util.find_spec("vllm") is None:
    pytest.skip("no package vllm: make vllm installs it", allow_module_level=True)

pytestmark = [
    pytest.mark.slow,
    # vLLM's own warnings, and those of what it imports
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::UserWarning"),
]
TIE = 1e-3
"""Nats between the two best tokens below which float32 kernels may choose differently."""
FLOAT32 = 1e-3
"""Nats by which log-probs may differ in float32: other kernels, other order of sums."""
BFLOAT16 = {"mean": 0.08, "max": 1.0}
"""The same for bfloat16, whose 8 bits give rounding of about 1/256 to each activation."""
QUESTIONS = (
    "Ann has 3 boxes of 12 pens and gives 5 pens away. How many pens does she have?",
    "What is the capital of France?",
    "A train goes 60 km in one hour. How far does it go in 3 hours?",
    "Name a colour.",
)


@pytest.fixture(scope="module")
def prompts(real_tokenizer):
    made = []
    for question in QUESTIONS:
        turns = [{"role": "user", "content": question}]
        ids = real_tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
        made.append(list(ids))
    return made


@pytest.fixture(scope="module")
def end_ids(smollm2):
    return codec_of(smollm2, None, turns=True).end_ids


def loaded(model, end_ids, precision="32-true", **settings):
    settings = {"enforce_eager": True, "max_model_len": 1024} | settings
    return VllmEngine(**settings).sampler(ModelPlace(str(model), None, end_ids, precision))


@pytest.fixture(scope="module")
def float32(smollm2, end_ids):
    with loaded(smollm2, end_ids) as sampler:
        yield sampler


def part(prompts, index=0, seed=5, length=48, **decoding):
    return GenerationPart(index, prompts, Decoding(length, **decoding), seed)


def trained(network, prompts, completions):
    """The trainer's log-probs of completions, one after another."""
    rows = [
        Row.likelihood(str(i), [*prompt, *done.ids], len(prompt))
        for i, (prompt, done) in enumerate(zip(prompts, completions, strict=True))
    ]
    return np.array([v for row in score_rows(TokenScorer(network), rows, 4) for v in row])


def sampled(completions):
    return np.array([v for done in completions for v in done.logprobs])


def assert_same_or_tied(network, prompt, one, other):
    """Two greedy completions are equal up to a place where the two tokens tie."""
    if one.ids == other.ids:
        assert one.clipped == other.clipped
        return
    at = next((i for i, (a, b) in enumerate(zip(one.ids, other.ids, strict=False)) if a != b), None)
    assert at is not None, "one ends where the other goes on"
    with torch.no_grad():
        logits = network(torch.tensor([[*prompt, *one.ids[:at]]])).logits[0, -1]
    best = F.log_softmax(logits.float(), -1).topk(2)
    assert {one.ids[at], other.ids[at]} == set(best.indices.tolist())
    assert best.values[0] - best.values[1] < TIE


# --- tokens and log-probs ---


def test_greedy_completions_are_those_of_the_network_itself(
    float32, prompts, end_ids, real_network
):
    found = float32.complete(part(prompts))
    own = generate(real_network, prompts, Decoding(48), end_ids=end_ids, pad_id=0)
    for prompt, one, other in zip(prompts, found, own, strict=True):
        assert_same_or_tied(real_network, prompt, one, other)
    assert {done.clipped for done in found} == {True, False}, "both ends are seen"
    equal = sum(one.ids == other.ids for one, other in zip(found, own, strict=True))
    print("greedy tokens that are equal:", equal, "of", len(own))


def test_logprobs_are_those_of_the_trainer(float32, prompts, real_network):
    found = float32.complete(part(prompts, temperature=1.3, top_p=0.9, num_generations=3))
    each = [prompt for prompt in prompts for _ in range(3)]
    gap = np.abs(sampled(found) - trained(real_network, each, found))
    print(f"float32: {gap.size} tokens, mean {gap.mean():.1e}, max {gap.max():.1e}")
    assert gap.max() < FLOAT32


def test_a_sample_depends_on_its_own_part_and_number_alone(float32, prompts):
    how = {"temperature": 1.0, "num_generations": 4}
    whole = float32.complete(part(prompts, **how))
    again = float32.complete(part(prompts, **how))
    fewer = float32.complete(part(prompts[:1], **how))
    other = float32.complete(part(prompts[:1], seed=6, **how))
    assert [done.ids for done in again] == [done.ids for done in whole]
    assert [done.ids for done in fewer] == [done.ids for done in whole[:4]], "without neighbours"
    assert [done.ids for done in other] != [done.ids for done in fewer]
    assert len({tuple(done.ids) for done in fewer}) > 1


def test_what_does_not_fit_is_refused(float32, prompts):
    with pytest.raises(EngineError, match="holds 1024"):
        float32.complete(part(prompts, length=1020))


def test_bfloat16_and_its_memory(smollm2, end_ids, prompts, real_network):
    """Log-probs next to those of the trainer in bf16-mixed; after closing nothing is left."""
    me = psutil.Process()
    before = {p.pid for p in me.children(recursive=True)}
    with loaded(smollm2, end_ids, "bf16-mixed") as sampler:
        found = sampler.complete(part(prompts, temperature=1.0, num_generations=4))
        engine = [p for p in me.children(recursive=True) if p.pid not in before]
        held = sum(p.memory_info().rss for p in engine)
    left = [p for p in engine if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    left = [p for p in left if "resource_tracker" not in " ".join(p.cmdline())]
    print(f"memory of the engine's processes: {held / 2**30:.2f} GiB, {len(left)} left")
    assert held > 2**30
    assert not left

    each = [prompt for prompt in prompts for _ in range(4)]
    with torch.autocast("cpu", torch.bfloat16):
        own = trained(real_network, each, found)
    gap = np.abs(sampled(found) - own)
    print(f"bfloat16: {gap.size} tokens, mean {gap.mean():.1e}, max {gap.max():.1e}")
    assert gap.mean() < BFLOAT16["mean"]
    assert gap.max() < BFLOAT16["max"]


def test_an_adapter_on_top_of_its_base(smollm2, end_ids, prompts, tmp_path):
    from peft import LoraConfig, get_peft_model
    from small_vllm import adapted

    config = LoraConfig(r=5, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(load_network(smollm2), config)
    draw = torch.Generator().manual_seed(0)
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            weights.data = 0.02 * torch.randn(weights.shape, generator=draw)
    model.peft_config["default"].base_model_name_or_path = str(smollm2)
    model.save_pretrained(tmp_path)

    merged = adapted(load_network(smollm2), str(tmp_path))
    own = generate(merged, prompts, Decoding(24), end_ids=end_ids, pad_id=0)
    with loaded(tmp_path, end_ids) as sampler:
        found = sampler.complete(part(prompts, length=24))
    for prompt, one, other in zip(prompts, found, own, strict=True):
        assert_same_or_tied(merged, prompt, one, other)
    assert np.abs(sampled(found) - trained(merged, prompts, found)).max() < FLOAT32


# --- a stage ---


def test_a_stage_goes_on_after_its_engine_was_killed(smollm2, tmp_path, monkeypatch):
    """The process that computes is killed (-9) before the second of three parts."""
    asked = []
    others = set(multiprocessing.active_children())
    complete = VllmSampler.complete

    def noted(self, part):
        asked.append(part.index)
        if asked == [0, 1]:
            (core,) = set(multiprocessing.active_children()) - others
            (worker,) = psutil.Process(core.pid).children()
            os.kill(worker.pid, signal.SIGKILL)
            time.sleep(1)
        return complete(self, part)

    monkeypatch.setattr(VllmSampler, "complete", noted)
    given = ["stage=sample", "engine=vllm", "engine.enforce_eager=true", "engine.max_model_len=512"]
    given += ["prompt=chat", "task.train=12", "sample.part_size=4", "sample.logprob_checks=24"]
    with pytest.raises(EngineError, match=r"part 1: a process of vLLM has died .* again"):
        run(tmp_path, smollm2, *given)
    assert asked == [0, 1]

    stage = run(tmp_path, smollm2, *given)["sample"]
    assert asked == [0, 1, 1, 2], "the finished part is not asked for again"
    found = read_table(Path(stage["artifact"]) / "attempts.parquet", Attempt)
    assert len({attempt.problem_id for attempt in found}) == 12
    assert stage["metrics"]["sample/logprob_difference/max"] < FLOAT32
