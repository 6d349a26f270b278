"""vLLM as an engine: an optional package that is imported only when it samples.

In: parts of prompts as token ids. Out: completions as token ids with log-probs. One engine runs on
rank 0, in a process of its own, over `tensor_parallel_size` GPUs; the other ranks wait. Every
sample is a request of its own with its own seed, so that a completion depends neither on the
requests next to it nor on the number of ranks (up to rounding).

Written from the signatures of vLLM 0.33, which was not run here.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from rlmec.engines.base import EngineError, ModelPlace
from rlmec.lm.generation import Completion
from rlmec.lm.lora import adapter_at
from rlmec.settings.ranges import Dtype, PositiveInt, PositiveShare
from rlmec.training.predict_parts import GenerationPart

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM accepts for `max_lora_rank`."""
_LAUNCHER = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK", "NODE_RANK")
_LAUNCHER += ("LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "ROLE_WORLD_SIZE")


class VllmEngine:
    """Samples with vLLM.

    `dtype` is that of weights and activations (default: that of the stage's precision). It changes
    samples and is part of the fingerprint. The other settings say how GPUs are used:
    `tensor_parallel_size` GPUs, `gpu_memory_utilization` as the share of each GPU's memory,
    `max_model_len` tokens of prompt and completion (default: the model's context), and
    `enforce_eager` for no CUDA graphs.
    """

    name = "vllm"

    def __init__(
        self,
        dtype: Dtype | None = None,
        tensor_parallel_size: PositiveInt = 1,
        gpu_memory_utilization: PositiveShare = 0.9,
        max_model_len: PositiveInt | None = None,
        enforce_eager: bool = False,
    ) -> None:
        if not 0 < gpu_memory_utilization <= 1:
            raise EngineError(
                f"engine.gpu_memory_utilization is {gpu_memory_utilization}: a share in (0, 1]"
            )
        if tensor_parallel_size < 1:
            raise EngineError(f"engine.tensor_parallel_size is {tensor_parallel_size}: at least 1")
        self.dtype = dtype
        self.gpus = tensor_parallel_size
        self.memory = gpu_memory_utilization
        self.max_model_len = max_model_len
        self.enforce_eager = enforce_eager

    def check(self) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise EngineError(
                "engine=vllm: the package vllm is not installed; it needs an environment of its "
                'own (pip install -e ".[vllm]", see docs/library.md), or use engine=hf'
            )
        found = gpus_here()
        if found < self.gpus:
            raise EngineError(
                f"engine=vllm: {self.gpus} GPU(s) wanted (engine.tensor_parallel_size), {found} "
                "found; use engine=hf"
            )

    def sampler(self, place: ModelPlace) -> AbstractContextManager[VllmSampler]:
        return self._loaded(place)

    @contextlib.contextmanager
    def _loaded(self, place: ModelPlace) -> Iterator[VllmSampler]:
        self.check()
        vllm = _import("vllm")
        extra: dict[str, Any] = {}
        if self.max_model_len is not None:
            extra["max_model_len"] = self.max_model_len

        # vLLM loads the base model, and takes an adapter with each request.
        base = place.path
        request = None
        adapter = adapter_of(place.path)
        if adapter is not None:
            base, rank = adapter
            extra |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": rank}
            request = _import("vllm.lora.request").LoRARequest("adapter", 1, place.path)

        with without_launcher():
            llm = vllm.LLM(
                model=base,
                revision=place.revision,
                trust_remote_code=False,
                dtype=self.dtype or dtype_of(place.precision),
                tensor_parallel_size=self.gpus,
                gpu_memory_utilization=self.memory,
                enforce_eager=self.enforce_eager,
                generation_config="vllm",  # without the model's own sampling defaults
                logprobs_mode="raw_logprobs",  # before temperature and truncation
                load_format="safetensors",
                **extra,
            )
        try:
            yield VllmSampler(vllm, llm, place.end_ids, request)
        finally:
            llm.llm_engine.engine_core.shutdown()


class VllmSampler:
    """A model that vLLM has loaded."""

    def __init__(self, vllm: Any, llm: Any, end_ids: tuple[int, ...], lora: Any) -> None:
        self.vllm = vllm
        self.llm = llm
        self.end_ids = end_ids
        self.lora = lora

    def complete(self, part: GenerationPart) -> list[Completion]:
        """As `engines.base.Sampler`. Raises EngineError if prompt and completion do not fit, or if
        a request ends in an unknown way."""
        decoding = part.decoding
        limit = self.llm.model_config.max_model_len
        longest = max(map(len, part.prompts), default=0)
        if longest + decoding.max_completion_length > limit:
            raise EngineError(
                f"part {part.index}: the longest prompt has {longest} tokens and "
                f"max_completion_length is {decoding.max_completion_length}, but vLLM holds "
                f"{limit} (engine.max_model_len, or the model's context)"
            )

        # A seed per request needs requests of one sample each (n=1).
        prompts = []
        params = []
        for number, ids in enumerate(part.prompts):
            for sample in range(decoding.num_generations):
                prompts.append(self.vllm.TokensPrompt(prompt_token_ids=list(ids)))
                params.append(self._params(part, number, sample))
        answers = self.llm.generate(prompts, params, use_tqdm=False, lora_request=self.lora)
        if len(answers) != len(prompts):
            raise EngineError(
                f"part {part.index}: {len(answers)} answers to {len(prompts)} prompts"
            )
        return [self._completion(part, answer) for answer in answers]

    def _params(self, part: GenerationPart, number: int, sample: int) -> Any:
        decoding = part.decoding
        return self.vllm.SamplingParams(
            n=1,
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            seed=sample_seed(part.seed, number, sample),
            max_tokens=decoding.max_completion_length,
            stop_token_ids=list(self.end_ids),
            ignore_eos=True,  # only the ids above end a completion
            logprobs=0,  # of the sampled token and no other
            detokenize=False,
        )

    def _completion(self, part: GenerationPart, answer: Any) -> Completion:
        (output,) = answer.outputs
        ids = list(output.token_ids)
        if output.finish_reason not in ("stop", "length") or not ids:
            raise EngineError(
                f"part {part.index}: a request ended with {output.finish_reason!r} after "
                f"{len(ids)} tokens"
            )
        logprobs = [
            float(found[token].logprob) for token, found in zip(ids, output.logprobs, strict=True)
        ]
        return Completion(ids, logprobs, clipped=ids[-1] not in self.end_ids)


def gpus_here() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def sample_seed(seed: int, number: int, sample: int) -> int:
    """The seed of one request, 32 bits: a hash of the seed of its part, the number of its prompt,
    and the number of the sample."""
    return zlib.crc32(f"{seed}/{number}/{sample}".encode())


def dtype_of(precision: str) -> str:
    """vLLM's name of the dtype that a Lightning precision computes in.

    Raises EngineError if there is none.
    """
    kinds = {"32": "float32", "bf16": "bfloat16", "16": "float16"}
    found = kinds.get(precision.split("-")[0])
    if found is None:
        raise EngineError(f"precision {precision!r} has no dtype in vLLM: set engine.dtype")
    return found


def adapter_of(path: str) -> tuple[str, int] | None:
    """The base model and the smallest accepted `max_lora_rank` of a LoRA adapter's directory.

    None if `path` is not an adapter's directory. Raises EngineError for an adapter of another kind,
    or of a larger rank than vLLM accepts.
    """
    file = Path(path) / "adapter_config.json"
    if not file.is_file():
        return None

    config = json.loads(file.read_text(encoding="utf-8"))
    rank = config.get("r")
    kind = config.get("peft_type")
    ranks = [r for r in LORA_RANKS if isinstance(rank, int) and r >= rank]
    if kind != "LORA" or not ranks:
        raise EngineError(
            f"{file}: vLLM accepts LoRA adapters up to rank {LORA_RANKS[-1]}, this is "
            f"{kind} of rank {rank}; export it merged (train.py stage=export)"
        )
    place = adapter_at(path)
    return None if place is None else (place.base, ranks[0])


@contextlib.contextmanager
def without_launcher() -> Iterator[None]:
    """Hides the environment variables in which a launcher names the ranks of the job.

    Processes that vLLM starts inherit the environment. They are not ranks of the job and must not
    try to join its process group.
    """
    names = [n for n in os.environ if n in _LAUNCHER or n.startswith("TORCHELASTIC_")]
    hidden = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise EngineError(f"engine=vllm: {name} cannot be imported: {error}") from error
