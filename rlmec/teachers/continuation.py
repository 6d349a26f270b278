"""The teacher that needs no other model: the policy itself goes on from a beginning of its attempt.

In: wrong attempts, and the policy that wrote them. Out: proposals that keep the first lines of an
attempt and go on as the policy samples. The search begins with the latest cut and goes back line by
line until a continuation is right, so that the edits are few.

Only the final answer decides what is right. A continuation may reach it with wrong reasoning, most
likely where few answers are possible: `min_lines` keeps the answer line from being guessed alone.
The paper has no such teacher.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from rlmec.lm.generation import Decoding
from rlmec.settings.ranges import PositiveInt, Seed, Temperature, TopP
from rlmec.tasks.base import Task, judge_of
from rlmec.teachers.base import (
    Policy,
    Proposal,
    Proposals,
    WrongAttempt,
    require_temperature,
)
from rlmec.teachers.sampling import count, in_batches, sampled
from rlmec.teachers.steps import lines_of


class _Beginning(NamedTuple):
    """The kept lines of an attempt, the prompt and these lines as ids, and how many more tokens a
    completion of the policy could have."""

    text: str
    ids: list[int]
    room: int


class ContinuationTeacher:
    """Samples `num_proposals` continuations behind each cut of an attempt, until one is right.

    A cut lies before a line. At least `min_lines` lines of the attempt are written again, or all
    of them if it has fewer. `batch_size` attempts are continued together. A proposal that is longer
    than the policy's completions counts as cut at the limit.
    """

    name = "continuation"

    def __init__(
        self,
        num_proposals: PositiveInt = 4,
        temperature: Temperature = 1.0,
        top_p: TopP = 0.95,
        min_lines: PositiveInt = 2,
        seed: Seed = 1,
        batch_size: PositiveInt = 64,
        task: Task | None = None,
        policy: Policy | None = None,
    ) -> None:
        require_temperature(num_proposals, temperature)
        self._num_proposals = num_proposals
        self._temperature = temperature
        self._top_p = top_p
        self._min_lines = min_lines
        self._seed = seed
        self._batch_size = batch_size
        self._task = task
        self._policy = policy

    def correct_all(
        self,
        attempts: Sequence[WrongAttempt],
        *,
        spent: Mapping[str, int],
        tick: Callable[[], None],
    ) -> list[Proposals]:
        """Return the proposals for each attempt, those behind the latest cut first.

        The counts are `calls` and `output_tokens`. `spent` is not used, because the policy has no
        budget.
        """
        del spent
        return in_batches(attempts, self._batch_size, self._continued, tick)

    def close(self) -> None:
        """Let go of the policy's network."""
        self.__dict__.pop("_network", None)

    @cached_property
    def _network(self) -> Any:
        return self._known_policy.load()

    @property
    def _known_policy(self) -> Policy:
        if self._policy is None:
            raise ValueError("the continuation teacher was given no policy")
        return self._policy

    def _continued(self, attempts: Sequence[WrongAttempt]) -> list[Proposals]:
        proposals: list[list[Proposal]] = [[] for _ in attempts]
        counts = [Counter[str](calls=0, output_tokens=0) for _ in attempts]

        cuts = [max(len(lines_of(text)) - self._min_lines, 0) for _, text in attempts]
        searched = list(range(len(attempts)))
        while searched:
            # An attempt whose beginning leaves no room at this cut waits for an earlier one.
            begun = {i: self._beginning(attempts[i], cuts[i]) for i in searched}
            asked = {i: beginning for i, beginning in begun.items() if beginning is not None}
            made = self._proposed(asked, counts)
            for i, own in made.items():
                proposals[i] += own

            solved = self._solved(attempts, made)
            searched = [i for i in searched if i not in solved and cuts[i] > 0]
            for i in searched:
                cuts[i] -= 1
        return [Proposals(p, counts=c) for p, c in zip(proposals, counts, strict=True)]

    def _beginning(self, attempt: WrongAttempt, cut: int) -> _Beginning | None:
        """The prompt and the first `cut` lines, None if they leave no room to go on."""
        policy = self._known_policy
        text = "".join(f"{line}\n" for line in lines_of(attempt.text)[:cut])
        prompt = policy.prompts.policy(attempt.problem)
        kept = policy.prompts.codec.encode(text)

        room = policy.max_completion_length - len(kept)
        longest = len(prompt) + len(kept) + policy.max_completion_length
        if room <= 0 or longest > (policy.context or longest):
            return None
        return _Beginning(text, [*prompt, *kept], room)

    def _proposed(
        self, asked: Mapping[int, _Beginning], counts: Sequence[Counter[str]]
    ) -> dict[int, list[Proposal]]:
        """The sampled continuations of each beginning, each behind it; they are counted."""
        policy = self._known_policy
        codec = policy.prompts.codec
        decoding = Decoding(
            policy.max_completion_length, self._temperature, self._top_p, self._num_proposals
        )
        with policy.computing():
            prompts = [beginning.ids for beginning in asked.values()]
            completions = sampled(self._network, codec, prompts, decoding, self._seed)

        made: dict[int, list[Proposal]] = {}
        for (i, begun), own in zip(asked.items(), completions, strict=True):
            count(counts[i], own)
            made[i] = [
                Proposal(begun.text + codec.text(c.ids), c.clipped or len(c.ids) > begun.room)
                for c in own
            ]
        return made

    def _solved(
        self, attempts: Sequence[WrongAttempt], made: Mapping[int, list[Proposal]]
    ) -> set[int]:
        """The attempts with a right proposal that is not clipped."""
        if self._task is None:
            raise ValueError("the continuation teacher was given no task")
        whole = [(i, p.text) for i, own in made.items() for p in own if not p.clipped]
        texts = [text for _, text in whole]
        judge = judge_of(self._task, texts, [attempts[i].problem for i, _ in whole])
        return {i for i, text in whole if judge(text, attempts[i].problem) == "right"}
