"""A stand-in for the package vllm: the signatures of version 0.33 over a small network on the CPU.

Arguments that vLLM's LLM does not know are refused here, too. Tokens and log-probs are real: each
request is sampled alone, by a loop that shares no code with `lm.generation`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from rlmec.lm.loading import load_network

NAMED = [
    *("runner", "convert", "tokenizer"),
    *("tokenizer_mode", "skip_tokenizer_init", "trust_remote_code"),
    *("tensor_parallel_size", "dtype", "quantization"),
    *("revision", "tokenizer_revision", "chat_template"),
    *("seed", "gpu_memory_utilization", "cpu_offload_gb"),
    *("enforce_eager", "hf_overrides", "kv_cache_memory_bytes"),
    *("max_model_len", "max_logprobs", "logprobs_mode"),
    *("generation_config", "enable_lora", "max_loras"),
    *("max_lora_rank", "load_format", "max_num_seqs"),
    *("enable_prefix_caching", "disable_log_stats"),
]
"""Arguments of LLM in version 0.33, its own and those of EngineArgs."""


@dataclass
class SamplingParams:
    """The fields of version 0.33 that are used here, with their defaults."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str = ""


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class Seen:
    """The arguments with which the engine was built and called."""

    built: list[dict[str, Any]] = field(default_factory=list)
    asked: list[SamplingParams] = field(default_factory=list)
    lora: list[Any] = field(default_factory=list)
    environments: list[dict[str, str]] = field(default_factory=list)
    shutdowns: int = 0
    shift: float = 0.0  # added to every log-prob, which a test must notice
    dead: bool = False  # whether the engine's processes have ended
    refused: str | None = None  # why the model cannot be loaded
    ending: str | None = None  # a reason that every request ends with


class EngineDeadError(Exception):
    """What vLLM raises after the end of one of its processes."""


@dataclass
class Platform:
    """What is asked of `current_platform`. Not every platform of vLLM counts its devices."""

    device_type: str  # "" where vLLM finds nothing that it was built for
    devices: int | None = None

    def __post_init__(self) -> None:
        if self.devices is not None:
            self.device_count = lambda: self.devices

    def is_cpu(self) -> bool:
        return self.device_type == "cpu"

    def is_unspecified(self) -> bool:
        return not self.device_type


def on_platform(monkeypatch, device_type: str, devices: int | None = None) -> None:
    """Lets the stand-in find other hardware."""
    found = Platform(device_type, devices)
    monkeypatch.setattr(sys.modules["vllm.platforms"], "current_platform", found)


def stand_in(monkeypatch) -> Seen:
    """Replaces the module vllm, and lets the engine find two GPUs."""
    seen = Seen()
    names = ("vllm", "vllm.lora.request", "vllm.platforms", "vllm.v1.engine.exceptions")
    for name in names:
        made = ModuleType(name)
        made.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, made)
    module, lora, platforms, exceptions = (sys.modules[name] for name in names)
    platforms.current_platform = Platform("cuda", 2)
    monkeypatch.setattr("rlmec.engines.vllm.guarded", contextlib.nullcontext)  # no processes here
    exceptions.EngineDeadError = EngineDeadError
    module.LLM = lambda model, **given: _LLM(seen, model, **given)
    module.SamplingParams = SamplingParams
    module.TokensPrompt = lambda prompt_token_ids: {"prompt_token_ids": prompt_token_ids}
    lora.LoRARequest = LoRARequest
    return seen


class _LLM:
    def __init__(self, seen: Seen, model: str, **given: Any) -> None:
        assert set(given) <= set(NAMED), set(given) - set(NAMED)
        if seen.refused:
            raise RuntimeError(seen.refused)
        seen.built.append({"model": model, **given})
        os.environ["LD_PRELOAD"] = "vllm's own"
        seen.environments.append(dict(os.environ))
        self.seen, self.network = seen, load_network(model).eval()
        context = self.network.config.max_position_embeddings
        self.model_config = SimpleNamespace(max_model_len=given.get("max_model_len") or context)
        self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(shutdown=self._shutdown))

    def _shutdown(self) -> None:
        self.seen.shutdowns += 1

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True, lora_request=None):
        if self.seen.dead:
            raise EngineDeadError
        self.seen.asked += sampling_params
        self.seen.lora.append(lora_request)
        network = self.network
        if lora_request is not None:
            network = adapted(network, lora_request.lora_path)
        pairs = zip(prompts, sampling_params, strict=True)
        return [
            SimpleNamespace(outputs=[self._one(network, p["prompt_token_ids"], s)])
            for p, s in pairs
        ]

    @torch.no_grad()
    def _one(self, network: Any, prompt: list[int], params: SamplingParams) -> Any:
        assert params.ignore_eos
        assert params.n == 1
        generator = torch.Generator().manual_seed(params.seed)
        ids, places = list(prompt), []
        while True:
            logits = network(torch.tensor([ids])).logits[0, -1]
            token = _sampled(logits, params, generator)
            raw = float(logits.log_softmax(-1)[token]) + self.seen.shift
            ids.append(token)
            places.append({token: Logprob(raw)})
            stopped = token in params.stop_token_ids
            if stopped or len(places) == params.max_tokens:
                break
        reason = self.seen.ending or ("stop" if stopped else "length")
        new = ids[len(prompt) :]
        return SimpleNamespace(token_ids=new, logprobs=places, finish_reason=reason)


def _sampled(logits: torch.Tensor, params: SamplingParams, generator: torch.Generator) -> int:
    if params.temperature == 0:
        return int(logits.argmax())
    ordered, order = (logits / params.temperature).softmax(-1).sort(descending=True)
    ordered[ordered.cumsum(-1) - ordered >= params.top_p] = 0
    return int(order[torch.multinomial(ordered, 1, generator=generator)])


def adapted(network: Any, folder: str) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(network, folder).merge_and_unload()
