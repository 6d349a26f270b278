"""The same work for all peers of a table: a training step, sampling, or rewriting from a draft."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from benchmarks import library
from benchmarks.batches import PAD
from benchmarks.bench import Bench
from benchmarks.peers.base import Peer, Work
from benchmarks.samples import replaced
from benchmarks.work.training_step import GRADIENT_LIMIT, gradient_difference, gradients
from rlmec.data.row import Row
from rlmec.lm.generation import Decoding
from rlmec.lm.logprobs import TokenScorer, score_rows
from rlmec.records import Pair

CLIP = 1.0


@dataclass
class NetworkJob:
    """Work on one network, on the device and in the precision of the bench."""

    bench: Bench
    network: Any

    @property
    def device(self) -> torch.device:
        return self.bench.device

    @property
    def arithmetic(self) -> Callable[[], Any]:
        return self.bench.arithmetic


@dataclass
class TextJob(NetworkJob):
    """Work whose result are texts behind `prompts`, as token ids."""

    prompts: list[list[int]]

    def __post_init__(self) -> None:
        self.network.eval()

    def timed(self, work: Work) -> Any:
        return work.run()

    def useful(self, peer: Peer, result: list[list[int]]) -> int:
        return sum(map(len, result))

    def reference(self, work: Work) -> Any:
        """Return the texts."""
        return work.run()

    def error(self, work: Work, reference: Any) -> tuple[float | None, float | None]:
        """Return `library.greedy_error` against the texts of another peer, and its limit."""
        precision = self.bench.precision
        found = library.greedy_error(self.network, self.prompts, reference, work.run(), precision)
        return found, library.greedy_limit(precision)


def completion_row(pair: Pair, ids: Sequence[int]) -> Row:
    """Return the row for the likelihood of a completion behind the prompt of a pair."""
    prompt = pair.attempt.prompt_ids
    return Row.likelihood(pair.attempt.id, [*prompt, *ids], len(prompt))


@dataclass
class TrainingJob(NetworkJob):
    """One optimizer step on wrong attempts and their corrections.

    Old log-probs are the network's own, so that they are those of DPO's reference, too. The
    optimizer is fused AdamW with learning rate 0 after clipping: it does all of its arithmetic and
    leaves the weights as they are, so that every run and every peer sees the same ones.
    """

    pairs: list[Pair]
    micro_batch: int
    kind: str = field(default="training", init=False)

    def __post_init__(self) -> None:
        self.network.train()
        parameters = list(self.network.parameters())
        self.optimizer = torch.optim.AdamW(parameters, lr=0.0, fused=True)

    @property
    def case(self) -> str:
        return f"{len(self.pairs)} pairs, a step"

    @cached_property
    def preferences(self) -> tuple[list[Pair], dict[str, list[float]]]:
        """The pairs with exact old log-probs, and log-probs of each correction by attempt id."""
        attempts = self._logprobs([p.attempt.completion_ids for p in self.pairs])
        targets = self._logprobs([p.target_ids for p in self.pairs])
        exact = [
            replace(pair, old_logprobs=np.array(found, dtype=np.float32))
            for pair, found in zip(self.pairs, attempts, strict=True)
        ]
        ids = [pair.attempt.id for pair in self.pairs]
        return exact, dict(zip(ids, targets, strict=True))

    def _logprobs(self, completions: Sequence[list[int]]) -> list[list[float]]:
        rows = [completion_row(p, ids) for p, ids in zip(self.pairs, completions, strict=True)]
        with self.bench.arithmetic():
            return score_rows(TokenScorer(self.network), rows, PAD)

    def twin(self) -> Any:
        """Return a copy of the network with the same parameter tensors, for peers that change it.

        Gradients of the copy are those of the network.
        """
        shared = {id(p): p for p in self.network.parameters()}
        return copy.deepcopy(self.network, shared)

    def timed(self, work: Work) -> Any:
        self.network.zero_grad(set_to_none=True)
        loss = work.run()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), CLIP)
        self.optimizer.step()
        return loss

    def useful(self, peer: Peer, result: Any) -> int:
        """Return the tokens of both texts of every pair, or of the corrections for "sft"."""
        prompts = sum(len(p.attempt.prompt_ids) for p in self.pairs)
        targets = sum(len(p.target_ids) for p in self.pairs)
        if peer.loss == "sft":
            return prompts + targets
        return 2 * prompts + targets + sum(len(p.attempt.completion_ids) for p in self.pairs)

    def reference(self, work: Work) -> Any:
        """Return loss and gradients."""
        return gradients(self.network, work.run)

    def error(self, work: Work, reference: Any) -> tuple[float | None, float | None]:
        """Return the relative difference of losses and gradients; no limit in half precision."""
        limit = GRADIENT_LIMIT if self.bench.precision == "32-true" else None
        return gradient_difference(self.network, reference, work.run), limit


@dataclass
class SamplingJob(TextJob):
    """Completions of the same prompts: `decoding` is greedy or sampled."""

    end_ids: list[int]
    decoding: Decoding
    kind: str = field(default="sampling", init=False)

    @property
    def is_greedy(self) -> bool:
        return self.decoding.temperature == 0

    @property
    def case(self) -> str:
        count = self.decoding.num_generations
        how = "greedy" if self.is_greedy else f"sampled, {count} each"
        limit = self.decoding.max_completion_length
        return f"{how}, {len(self.prompts)} prompts, at most {limit} tokens"

    def error(self, work: Work, reference: Any) -> tuple[float | None, float | None]:
        """Return `library.greedy_error` of greedy texts; sampled ones only have to be texts."""
        if self.is_greedy:
            return super().error(work, reference)
        work.run()
        return None, None


@dataclass
class RewritingJob(TextJob):
    """Greedy texts of the GRM's prompts, with drafts that differ from them in `edits` tokens.

    A network with random weights copies nothing from its prompt. So the texts of ours are its own
    greedy ones, with a draft made from each. A peer that finds its draft in the prompt is told to
    generate an attempt of the data, of which its prompt holds a draft with as many edits.
    """

    attempts: list[list[int]]
    tokens: int
    edits: int
    kind: str = field(default="rewriting", init=False)

    @property
    def case(self) -> str:
        return f"{self.edits} of {self.tokens} tokens edited, {len(self.prompts)} texts"

    @cached_property
    def texts(self) -> list[list[int]]:
        """The network's greedy texts."""
        with self.arithmetic():
            return library.generate(self.network, self.prompts, self.tokens)

    def drafts(self, texts: Sequence[list[int]]) -> list[list[int]]:
        """Return each text with `edits` of its tokens replaced, never the last one."""
        draw = np.random.default_rng((self.bench.seed, 12, self.edits))
        return [
            replaced(ids, sorted(draw.choice(len(ids) - 1, self.edits, replace=False)), draw)
            for ids in texts
        ]
