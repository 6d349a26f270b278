"""The argument of every row of the table: device, samples, networks, repeats."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from benchmarks import networks
from benchmarks.samples import Sample, Samples, load_samples


@dataclass(frozen=True)
class BenchSettings:
    """The settings that every program with a preset has. `threads` is None for torch's default."""

    preset: str
    device: str
    precision: str
    vocabulary_size: int
    shape: dict[str, Any]
    repeats: int
    seed: int
    threads: int | None
    output: str

    def bench(self) -> Bench:
        """Return what the rows share, with the number of threads set; ValueError as `Bench`."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        return Bench(
            *(self.device, self.precision, self.shape, self.vocabulary_size),
            *(self.repeats, self.seed),
        )


@dataclass
class Bench:
    """Settings that all rows share, and costly objects that are made once.

    `shape` and `vocabulary_size` determine the network; `precision` is 32-true, bf16-mixed, or
    bf16-true. Raises ValueError for any other precision, for fewer than one repeat, and for a cuda
    device that torch does not find.
    """

    device_name: str
    precision: str
    shape: dict[str, Any]
    vocabulary_size: int
    repeats: int
    seed: int
    _built: tuple[Any, Any] = field(default=(None, None), repr=False)

    def __post_init__(self) -> None:
        if self.device_name == "cuda" and not torch.cuda.is_available():
            raise ValueError(
                "this preset measures a GPU (device=cuda), and torch finds none here; "
                "preset=cpu_13m and preset=cpu_124m run without one"
            )
        if self.repeats < 1:
            raise ValueError(f"repeats is {self.repeats}; it must be at least 1")
        if self.precision not in ("32-true", "bf16-mixed", "bf16-true"):
            raise ValueError(
                f"precision is {self.precision!r}; it must be 32-true, bf16-mixed, or bf16-true"
            )

    @property
    def device(self) -> torch.device:
        return torch.device(self.device_name)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @cached_property
    def samples(self) -> Samples:
        return load_samples(self.seed)

    def drawn(self, pool: Sequence[Sample], count: int, salt: int) -> list[Sample]:
        """Return `count` samples of a pool in an order determined by the seed and `salt`.

        Samples repeat only if the pool is smaller than `count`.
        """
        draw = np.random.default_rng((self.seed, salt))
        order = [i for _ in range(-(-count // len(pool))) for i in draw.permutation(len(pool))]
        return [pool[i] for i in order[:count]]

    def network(self, **changes: Any) -> Any:
        """Return the preset's network with the seed's random weights, in eval mode.

        The last network is kept, so that rows with the same `changes` share one.
        """
        key = tuple(sorted(changes.items()))
        if self._built[0] != key:
            # The old network is freed before the new one is built: both may not fit in memory.
            self._built = (None, None)
            gc.collect()
            vocabulary = changes.pop("vocabulary_size", self.vocabulary_size)
            made = networks.build(
                self.shape | changes, vocabulary, self.precision, self.device, self.seed
            )
            self._built = (key, made.eval())
        network = self._built[1]
        network.zero_grad(set_to_none=True)
        return network.eval()

    def arithmetic(self) -> Any:
        """Return the context of a forward pass at this precision."""
        return networks.arithmetic(self.precision, self.device)

    def gpu_figures(
        self, side: str, flops: float, tokens: int, seconds: float, peak: int
    ) -> dict[str, Any]:
        """Return tokens per second, share of the GPU's peak, and memory; nothing on a CPU."""
        if not self.on_gpu:
            return {}
        top = networks.peak_flops(self.device)
        return {
            f"{side} tokens/s": tokens / seconds,
            f"{side} MFU": None if top is None else round(flops / seconds / top, 4),
            f"{side} peak GiB": round(peak / 2**30, 3),
        }
