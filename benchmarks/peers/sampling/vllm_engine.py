"""vLLM in this process, so that its CPU seconds are counted; the loading is not timed."""

from __future__ import annotations

import os
import tempfile

from benchmarks.peers.base import Peer, Work
from benchmarks.peers.jobs import SamplingJob
from benchmarks.peers.sampling.transformers_generate import NAME

SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "HF_HUB_OFFLINE": "1",
}
"""Environment variables that are set unless the user has set them."""


def _prepare(job: SamplingJob) -> Work:
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import vllm  # pyright: ignore[reportMissingImports]

    decoding = job.decoding
    limit = decoding.max_completion_length
    folder = tempfile.TemporaryDirectory(prefix="peers-")
    job.network.save_pretrained(folder.name)
    engine = vllm.LLM(
        model=folder.name,
        skip_tokenizer_init=True,
        dtype="float32" if job.bench.precision == "32-true" else "bfloat16",
        max_model_len=max(map(len, job.prompts)) + limit,
        enable_prefix_caching=False,  # the same prompts come again in every round
        seed=job.bench.seed,
    )
    params = vllm.SamplingParams(
        n=decoding.num_generations,
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        seed=job.bench.seed,
        max_tokens=limit,
        stop_token_ids=list(job.end_ids),
        ignore_eos=True,
        detokenize=False,
    )
    prompts = [{"prompt_token_ids": list(ids)} for ids in job.prompts]

    def run() -> list[list[int]]:
        answers = engine.generate(prompts, params, use_tqdm=False)
        return [list(output.token_ids) for answer in answers for output in answer.outputs]

    def close() -> None:
        engine.llm_engine.engine_core.shutdown()
        folder.cleanup()

    return Work(run, close=close)


PEERS = (
    Peer(
        "vLLM",
        "paged cache, continuous batching, compiled layers, weights in bfloat16 unless float32",
        _prepare,
        needs=("vllm",),
        equals=NAME,
    ),
)
