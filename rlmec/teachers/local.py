"""The teacher that is a Hugging Face model on this machine: a directory or a hub name.

In: wrong attempts. Out: corrections made of the model's answers to the method's two questions,
through the project's own loading and generation, in batches; its chat template is used if it has
one. The model is loaded when the first part is asked for.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch

from rlmec.lm.generation import Completion, Decoding, generate
from rlmec.lm.loading import context_length, end_ids, load_network
from rlmec.lm.tokenizers import codec, load_tokenizer
from rlmec.prompts import Codec, Prompts, Templates
from rlmec.records import Problem
from rlmec.teachers.base import Proposal, Proposals, WrongAttempt
from rlmec.teachers.steps import (
    StepPrompts,
    lines_of,
    located_step,
    rewritten,
)


class LocalTeacher:
    """Asks the model at `path`, `batch_size` attempts at a time.

    `temperature` 0 is greedy; more than one of `num_proposals` rewrites needs it above. A prompt
    that leaves no room for an answer of `max_completion_length` tokens in the model's context gets
    none, with the reason "failed".
    """

    def __init__(
        self,
        path: str,
        prompts: StepPrompts,
        revision: str | None = None,
        attention: str = "sdpa",
        temperature: float = 0.0,
        top_p: float = 1.0,
        max_completion_length: int = 1024,
        num_proposals: int = 1,
        seed: int = 1,
        batch_size: int = 32,
        device: str = "auto",
        task: Any = None,
    ) -> None:
        del task
        if num_proposals > 1 and temperature == 0:
            raise ValueError(
                f"teacher.num_proposals is {num_proposals}, but at temperature 0 they would be all "
                f"the same: set teacher.temperature"
            )
        if batch_size < 1 or num_proposals < 1:
            raise ValueError("teacher.batch_size and teacher.num_proposals are at least 1")
        self.name = f"local:{path}"
        self._path, self._revision = path, revision
        self._attention, self._device = attention, device
        self._prompts, self._seed, self._batch_size = prompts, seed, batch_size
        self._once = Decoding(max_completion_length, temperature, top_p)
        self._several = Decoding(max_completion_length, temperature, top_p, num_proposals)

    def check(self) -> None:
        """Raises where the directory has no tokenizer, the ids of which all prompts are made."""
        _ = self._codec

    @cached_property
    def _codec(self) -> Codec:
        return codec(
            load_tokenizer(self._path, self._revision), end_ids(self._path, self._revision)
        )

    @cached_property
    def _asked(self) -> Prompts:
        chat = self._codec.chat is not None
        question = "{question}" if chat else "{question}\n"
        templates = Templates(question, "", "", "", "", chat=chat, system=self._prompts.system)
        return Prompts(templates, self._codec)

    @cached_property
    def _network(self) -> Any:
        found = "cuda" if torch.cuda.is_available() else "cpu"
        network = load_network(self._path, attention=self._attention, revision=self._revision)
        return network.to(found if self._device == "auto" else self._device).eval()

    def correct_all(
        self,
        attempts: Sequence[WrongAttempt],
        *,
        spent: Mapping[str, int],
        tick: Callable[[], None],
    ) -> list[Proposals]:
        """Proposals for each attempt. Counted: `calls`, `output_tokens`, `unlocated` (no
        step was named)."""
        del spent
        out: list[Proposals] = []
        for start in range(0, len(attempts), self._batch_size):
            some = attempts[start : start + self._batch_size]
            out += self._correct(some)
            for _ in some:
                tick()
        return out

    def _correct(self, attempts: Sequence[WrongAttempt]) -> list[Proposals]:
        counts = [Counter[str](calls=0, output_tokens=0, unlocated=0) for _ in attempts]
        several = [i for i, (_, text) in enumerate(attempts) if len(lines_of(text)) > 1]
        questions = [self._prompts.asks_to_locate(*attempts[i]) for i in several]
        steps: list[int | None] = [0] * len(attempts)
        for i, answers in zip(several, self._answers(questions, self._once), strict=True):
            steps[i] = self._step(attempts[i].text, answers, counts[i])
        tried = [(i, step) for i, step in enumerate(steps) if step is not None]
        questions = [self._prompts.asks_to_rewrite(*attempts[i], step) for i, step in tried]
        out = [Proposals(reason="failed", counts=c) for c in counts]
        for (i, step), answers in zip(tried, self._answers(questions, self._several), strict=True):
            if answers is not None:
                out[i] = self._proposals(attempts[i].text, step, answers, counts[i])
        return out

    def _step(
        self, attempt: str, answers: list[Completion] | None, counts: Counter[str]
    ) -> int | None:
        """The step to rewrite from, None where the question had no room."""
        if answers is None:
            return None
        _count(counts, answers)
        found = located_step(self._said(answers[0]), len(lines_of(attempt)))
        counts["unlocated"] += found is None
        return found or 0

    def _answers(
        self, questions: Sequence[str], decoding: Decoding
    ) -> list[list[Completion] | None]:
        """`num_generations` answers to each question, None where there is no room for one."""
        prompts = [self._asked.policy(Problem("question", question, "")) for question in questions]
        limit = context_length(self._network)
        longest = decoding.max_completion_length
        fits = [limit is None or len(ids) + longest <= limit for ids in prompts]
        some = [ids for ids, fit in zip(prompts, fits, strict=True) if fit]
        if not some:
            return [None] * len(prompts)
        done = generate(
            self._network,
            some,
            decoding,
            end_ids=self._codec.end_ids,
            pad_id=self._codec.pad_id,
            seed=zlib.crc32(f"{self._seed}/{some}".encode()),
        )
        n = decoding.num_generations
        groups = iter([done[at : at + n] for at in range(0, len(done), n)])
        return [next(groups) if fit else None for fit in fits]

    def _proposals(
        self,
        attempt: str,
        step: int,
        answers: list[Completion],
        counts: Counter[str],
    ) -> Proposals:
        _count(counts, answers)
        made = [(rewritten(attempt, step, self._said(a)), a.clipped) for a in answers]
        texts = [Proposal(text, clipped) for text, clipped in made if text is not None]
        return Proposals(texts, counts=counts)

    def _said(self, answer: Completion) -> str:
        return self._codec.text(answer.ids)


def _count(counts: Counter[str], answers: Sequence[Completion]) -> None:
    counts["calls"] += len(answers)
    counts["output_tokens"] += sum(len(answer.ids) for answer in answers)
