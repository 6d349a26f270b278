"""The teacher that is a Hugging Face model on this machine, from a directory or the hub.

In: wrong attempts. Out: proposals made from the model's answers to the method's two questions. The
model is loaded and decoded by this project's own code, in batches, when the first part is asked
for. If the tokenizer has a chat template, the questions use it.

Departures from the paper's scripts: those of `teachers/steps.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from rlmec.lm.generation import Completion, Decoding
from rlmec.lm.loading import check_loadable, codec_of, context_length, load_network, usual_device
from rlmec.lm.loading_checks import check_model
from rlmec.prompts import Codec, Prompts, Templates, check_template_args
from rlmec.records import Problem
from rlmec.settings.ranges import (
    Attention,
    DateText,
    PathText,
    PositiveInt,
    Seed,
    Temperature,
    TopP,
)
from rlmec.teachers.base import Proposal, Proposals, WrongAttempt, require_temperature
from rlmec.teachers.sampling import count, in_batches, sampled
from rlmec.teachers.steps import StepPrompts, lines_of, located_step, rewritten


class LocalTeacher:
    """Asks the model at `path`, `batch_size` attempts at a time.

    A `temperature` of 0 is greedy decoding; more than one of `num_proposals` rewrites need a higher
    one. The samples of a batch share one random stream, so they depend on `batch_size`. If a prompt
    leaves no room in the model's context for an answer of `max_completion_length` tokens, the
    attempt gets no proposal, with the reason "failed". The model's chat template shows `date` (ISO)
    as today's, and gets `template_args` as variables.
    """

    def __init__(
        self,
        path: PathText,
        prompts: StepPrompts,
        revision: str | None = None,
        attention: Attention = "sdpa",
        temperature: Temperature = 0.0,
        top_p: TopP = 1.0,
        max_completion_length: PositiveInt = 1024,
        num_proposals: PositiveInt = 1,
        seed: Seed = 1,
        batch_size: PositiveInt = 32,
        device: str = "auto",
        date: DateText = "2024-07-26",
        template_args: dict[str, Any] | None = None,
        task: Any = None,
    ) -> None:
        del task
        require_temperature(num_proposals, temperature)
        if batch_size < 1 or num_proposals < 1:
            raise ValueError(
                f"teacher.batch_size is {batch_size} and teacher.num_proposals {num_proposals}; "
                f"both must be at least 1"
            )

        check_template_args(template_args)

        self.name = f"local:{path}"
        self._path = path
        self._revision = revision
        self._attention = attention
        self._device = device
        self._prompts = prompts
        self._date = date
        self._template_args = template_args
        self._seed = seed
        self._batch_size = batch_size
        self._locating = Decoding(max_completion_length, temperature, top_p)
        self._rewriting = Decoding(max_completion_length, temperature, top_p, num_proposals)

    def check(self) -> None:
        """Raise an error, before anything is sampled, if there is no whole model at `path`, or if
        its chat template does not read `template_args`.

        No weights are read.
        """
        check_model(self._path, self._revision, "teacher.path")
        check_loadable(self._path, self._revision, "teacher.path")
        if self._template_args and self._codec.chat is None:
            raise ValueError(f"teacher.template_args: {self._path} has no chat template")
        _ = self._question_prompts

    @cached_property
    def _codec(self) -> Codec:
        return codec_of(self._path, self._revision, turns=True)

    @cached_property
    def _question_prompts(self) -> Prompts:
        """Prompts whose policy prompt is the text of a question."""
        chat = self._codec.chat is not None
        question = "{question}" if chat else "{question}\n"
        templates = Templates(
            policy=question,
            rewrite="",
            rewrite_answer_only="",
            locate="",
            located="",
            chat=chat,
            system=self._prompts.system,
            date=self._date,
            template_args=self._template_args,
        )
        return Prompts(templates, self._codec)

    @cached_property
    def _network(self) -> Any:
        network = load_network(self._path, attention=self._attention, revision=self._revision)
        return network.to(usual_device() if self._device == "auto" else self._device)

    def correct_all(
        self,
        attempts: Sequence[WrongAttempt],
        *,
        spent: Mapping[str, int],
        tick: Callable[[], None],
    ) -> list[Proposals]:
        """Return the proposals for each attempt.

        The counts are `calls`, `output_tokens`, and `unlocated` (the answer named no step). `spent`
        is not used, because a local model has no budget.
        """
        del spent
        return in_batches(attempts, self._batch_size, self._correct, tick)

    def _correct(self, attempts: Sequence[WrongAttempt]) -> list[Proposals]:
        counts = [Counter[str](calls=0, output_tokens=0, unlocated=0) for _ in attempts]

        # First question: which step is wrong? An attempt of one line needs no answer.
        several_lines = [i for i, (_, text) in enumerate(attempts) if len(lines_of(text)) > 1]
        questions = [self._prompts.asks_to_locate(*attempts[i]) for i in several_lines]
        steps: list[int | None] = [0] * len(attempts)
        answered = self._answers(questions, self._locating)
        for i, answers in zip(several_lines, answered, strict=True):
            steps[i] = self._step(attempts[i].text, answers, counts[i])

        # Second question: the rewrite, for attempts whose first question had room.
        tried = [(i, step) for i, step in enumerate(steps) if step is not None]
        questions = [self._prompts.asks_to_rewrite(*attempts[i], step) for i, step in tried]
        out = [Proposals(reason="failed", counts=c) for c in counts]
        answered = self._answers(questions, self._rewriting)
        for (i, step), answers in zip(tried, answered, strict=True):
            if answers is not None:
                out[i] = self._proposals(attempts[i].text, step, answers, counts[i])
        return out

    def _step(
        self, attempt: str, answers: list[Completion] | None, counts: Counter[str]
    ) -> int | None:
        """The step to rewrite from, None if the question had no room."""
        if answers is None:
            return None
        count(counts, answers)
        found = located_step(self._text(answers[0]), len(lines_of(attempt)))
        counts["unlocated"] += found is None
        return found or 0

    def _answers(
        self, questions: Sequence[str], decoding: Decoding
    ) -> list[list[Completion] | None]:
        """`num_generations` answers per question, None for a question without room for them."""
        prompts = [
            self._question_prompts.policy(Problem("question", question, ""))
            for question in questions
        ]
        limit = context_length(self._network)
        has_room = [
            limit is None or len(ids) + decoding.max_completion_length <= limit for ids in prompts
        ]
        asked = [ids for ids, room in zip(prompts, has_room, strict=True) if room]
        groups = iter(sampled(self._network, self._codec, asked, decoding, self._seed))
        return [next(groups) if room else None for room in has_room]

    def _proposals(
        self,
        attempt: str,
        step: int,
        answers: list[Completion],
        counts: Counter[str],
    ) -> Proposals:
        count(counts, answers)
        proposals = []
        for answer in answers:
            text = rewritten(attempt, step, self._text(answer))
            if text is not None:
                proposals.append(Proposal(text, answer.clipped))
        return Proposals(proposals, counts=counts)

    def _text(self, answer: Completion) -> str:
        return self._codec.text(answer.ids)
