"""What is measured: a network with random weights or from a folder, and its pairs and prompts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import library
from benchmarks.bench import Bench
from benchmarks.credit import credited_pairs
from benchmarks.peers.jobs import RewritingJob, SamplingJob, TrainingJob
from benchmarks.samples import Sample, Samples, load_samples, replaced
from benchmarks.work.generation import MEAN_LENGTH
from rlmec.lm.generation import Decoding

KINDS = ("training", "sampling", "rewriting")


@dataclass
class Subject:
    """A network and its samples. Without a `folder` it has random weights of the bench's shape."""

    bench: Bench
    folder: Path | None = None

    @cached_property
    def samples(self) -> Samples:
        return load_samples(self.bench.seed, model=self.folder)

    def network(self, *, for_texts: bool) -> Any:
        """Return the network; random weights `for_texts` are such that greedy texts vary."""
        bench = self.bench
        if self.folder is None:
            return bench.network(**library.spread(bench.shape) if for_texts else {})

        from rlmec.lm.loading import load_network, quiet

        quiet()
        dtype = torch.bfloat16 if bench.precision == "bf16-true" else torch.float32
        network = load_network(self.folder).to(bench.device, dtype)
        # Every peer gets its end tokens from the job.
        network.generation_config.eos_token_id = None
        network.generation_config.pad_token_id = 0
        return network

    @cached_property
    def end_ids(self) -> list[int]:
        """The end tokens of the model, or random ones that end texts at MEAN_LENGTH on average."""
        if self.folder is None:
            draw = np.random.default_rng((self.bench.seed, 6))
            size = self.bench.vocabulary_size
            many = np.arange(2, size)
            return draw.choice(many, max(size // MEAN_LENGTH, 1), replace=False).tolist()

        from rlmec.lm.loading import codec_of

        return list(codec_of(self.folder, None, turns=True).end_ids)

    # --- jobs ---

    def training(
        self, *, pairs: int, tokens_per_micro_batch: int, edited: float | None
    ) -> Iterator[TrainingJob]:
        """Yield the step on `pairs` wrong attempts."""
        network = self.network(for_texts=False)
        chosen = self.bench.drawn(self.samples.wrong, pairs, salt=1)
        if edited is not None:
            chosen = [self._edited(sample, edited) for sample in chosen]
        made = credited_pairs(
            chosen, network, punished_removed=0.8, punished_kept=0.05, seed=self.bench.seed
        )
        yield TrainingJob(self.bench, network, made, tokens_per_micro_batch)

    def _edited(self, sample: Sample, share: float) -> Sample:
        """The sample with another correction: its attempt with a share of the tokens replaced."""
        draw = np.random.default_rng((self.bench.seed, 16, len(sample.attempt)))
        count = max(round(share * len(sample.attempt)), 1)
        places = sorted(draw.choice(len(sample.attempt) - 1, count, replace=False))
        return replace(sample, target=replaced(sample.attempt, places, draw))

    def sampling(
        self, *, prompts: int, num_generations: int, tokens: int, temperature: float, top_p: float
    ) -> Iterator[SamplingJob]:
        """Yield greedy decoding and sampling of the same prompts."""
        network = self.network(for_texts=True)
        asked = [s.prompt for s in self.bench.drawn(self.samples.all, prompts, salt=5)]
        sampled = Decoding(tokens, temperature, top_p, num_generations)
        for decoding in (Decoding(tokens), sampled):
            yield SamplingJob(self.bench, network, asked, self.end_ids, decoding)

    def rewriting(self, *, texts: int, tokens: int, edits: list[int]) -> Iterator[RewritingJob]:
        """Yield one job per number of edits."""
        network = self.network(for_texts=True)
        prompts = [s.rewrite_prompt for s in self.bench.drawn(self.samples.wrong, texts, salt=14)]
        ends = {1, *self.end_ids} if self.folder is not None else {1}
        pool = [t for s in self.samples.wrong for t in s.attempt if t not in ends]
        draw = np.random.default_rng((self.bench.seed, 15))
        starts = draw.integers(0, len(pool) - tokens, texts).tolist()
        attempts = [pool[start : start + tokens] for start in starts]
        for count in edits:
            yield RewritingJob(self.bench, network, prompts, attempts, tokens, count)
