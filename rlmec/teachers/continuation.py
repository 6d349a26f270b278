"""The teacher that needs no other model: the policy itself goes on from a beginning of its attempt.

In: wrong attempts, and the policy that wrote them. Out: proposals that keep the first lines of an
attempt and go on as the policy samples. The search begins with the latest cut and goes back line by
line until a continuation is right, so that the edits are few.

Only the final answer decides what is right. A continuation may reach it with wrong reasoning, most
likely where few answers are possible: `min_lines` keeps the answer line from being guessed alone.
The paper has no such teacher.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from rlmec.lm.generation import Completion, Decoding, generate
from rlmec.settings.ranges import PositiveInt, Seed, Temperature, TopP
from rlmec.tasks.base import Task, judge_of
from rlmec.teachers.base import Policy, Proposal, Proposals, WrongAttempt
from rlmec.teachers.steps import lines_of


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
        if num_proposals > 1 and temperature == 0:
            raise ValueError(
                f"teacher.num_proposals is {num_proposals}, but at temperature 0 all of them would "
                f"be the same: set teacher.temperature"
            )
        self._num_proposals = num_proposals
        self._temperature = temperature
        self._top_p = top_p
        self._min_lines = min_lines
        self._seed = seed
        self._batch_size = batch_size
        self._task = task
        self._policy = policy

    def check(self) -> None:
        """Raises nothing: the policy is there when its attempts are."""

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
        out: list[Proposals] = []
        for start in range(0, len(attempts), self._batch_size):
            batch = attempts[start : start + self._batch_size]
            out += self._continued(batch)
            for _ in batch:
                tick()
        return out

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
            asked = {i: ids for i, ids in begun.items() if ids is not None}
            for i, completions in zip(asked, self._completions(asked), strict=True):
                counts[i]["calls"] += len(completions)
                counts[i]["output_tokens"] += sum(len(c.ids) for c in completions)
                proposals[i] += self._proposed(attempts[i], cuts[i], completions)

            solved = self._solved(attempts, {i: proposals[i] for i in asked})
            searched = [i for i in searched if i not in solved and cuts[i] > 0]
            for i in searched:
                cuts[i] -= 1
        return [Proposals(p, counts=c) for p, c in zip(proposals, counts, strict=True)]

    def _beginning(self, attempt: WrongAttempt, cut: int) -> list[int] | None:
        """Ids of the prompt and the first `cut` lines, None if they leave no room to go on."""
        policy = self._known_policy
        prompt = policy.prompts.policy(attempt.problem)
        kept = policy.prompts.codec.encode(_first_lines(attempt.text, cut))
        longest = len(prompt) + len(kept) + policy.max_completion_length
        if len(kept) >= policy.max_completion_length or longest > (policy.context or longest):
            return None
        return [*prompt, *kept]

    def _completions(self, asked: Mapping[int, list[int]]) -> list[list[Completion]]:
        """The sampled continuations of each beginning."""
        if not asked:
            return []
        policy = self._known_policy
        n = self._num_proposals
        prompts = list(asked.values())
        with policy.computing():
            completions = generate(
                self._network,
                prompts,
                Decoding(policy.max_completion_length, self._temperature, self._top_p, n),
                end_ids=policy.prompts.codec.end_ids,
                pad_id=policy.prompts.codec.pad_id,
                seed=zlib.crc32(f"{self._seed}/{prompts}".encode()),
            )
        return [completions[at : at + n] for at in range(0, len(completions), n)]

    def _proposed(
        self, attempt: WrongAttempt, cut: int, completions: Sequence[Completion]
    ) -> list[Proposal]:
        policy = self._known_policy
        kept = _first_lines(attempt.text, cut)
        room = policy.max_completion_length - len(policy.prompts.codec.encode(kept))
        return [
            Proposal(
                kept + policy.prompts.codec.text(done.ids), done.clipped or len(done.ids) > room
            )
            for done in completions
        ]

    def _solved(
        self, attempts: Sequence[WrongAttempt], proposals: Mapping[int, list[Proposal]]
    ) -> set[int]:
        """The attempts with a right proposal that is not clipped."""
        if self._task is None:
            raise ValueError("the continuation teacher was given no task")
        whole = [(i, p.text) for i, own in proposals.items() for p in own if not p.clipped]
        texts = [text for _, text in whole]
        judge = judge_of(self._task, texts, [attempts[i].problem for i, _ in whole])
        return {i for i, text in whole if judge(text, attempts[i].problem) == "right"}


def _first_lines(text: str, count: int) -> str:
    """The first lines of a text, each with its line break."""
    return "".join(f"{line}\n" for line in lines_of(text)[:count])
