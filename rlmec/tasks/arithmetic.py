"""The embedded task: generated word problems of a few steps, with several phrasings per step.

In: a seed and the difficulty. Out: problems with reference solutions of one line per step, a judge,
and an oracle that corrects any attempt with the fewest token edits. Nothing is read from a disk.

Every event of a question, and every solution line but the last, begins with its day
("Monday: ..."). All running numbers, and what is added or subtracted, have exactly `digits` digits.
One stream of distinct questions is drawn from the seed. The split of a question depends on a hash
of its numbers and operations, so no calculation is in two splits, and the size of one split does
not change what is in another.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from rlmec.answers.final_answer import final_answer, judge_number
from rlmec.records import Problem, Verdict
from rlmec.settings.ranges import NonNegativeInt, Operation, PositiveInt, Seed, Share
from rlmec.tasks import arithmetic_oracle
from rlmec.tasks.arithmetic_text import (
    DAYS,
    ENDINGS,
    EQUATION,
    EVENTS,
    ITEMS,
    MOST_PHRASINGS,
    NAMES,
    STARTS,
    SYMBOLS,
    VERBS,
    Step,
    Story,
    answer_line,
)
from rlmec.tasks.base import SPLITS

MARKERS = ("The answer is",)
SPLIT_OF_TENTH = ("dev", *("test",) * 3, *("train",) * 6)
MOST_FRUITLESS_DRAWS = 20_000
"""Questions in a row that are of another split or known already, before `problems` gives up."""
MOST_STORY_DRAWS = 1000
"""Attempts to draw a story in which every step stays within the digits."""


class ArithmeticTask:
    """Word problems about one person's items, in `min_steps` to `max_steps` steps (7 at most).

    `train`, `dev`, `test` are numbers of problems. `phrasings` (1 to 6) is how many wordings a step
    has in questions and solutions. Numbers have `digits` digits (of those with one digit, 0 and 1
    are left out). `max_operand` is the largest number that is added or subtracted. `operations` are
    some of add, subtract, multiply (by 2 or 3), divide (in half).

    `references` is the style of reference solutions: "steps", one line per step, or "terse", one
    line of bare equations. `reference_share` of the problems (by a hash) have one, the others an
    answer only. The oracle knows the steps of every problem.

    Raises ValueError for settings out of range, naming them. `problems` raises ValueError for an
    unknown split, and where the settings allow fewer distinct questions than asked for.
    """

    name = "arithmetic"

    def __init__(
        self,
        seed: Seed = 1,
        train: NonNegativeInt = 1500,
        dev: NonNegativeInt = 300,
        test: NonNegativeInt = 1500,
        min_steps: PositiveInt = 2,
        max_steps: PositiveInt = 3,
        digits: PositiveInt = 2,
        max_operand: PositiveInt = 20,
        phrasings: PositiveInt = 4,
        operations: Sequence[Operation] = ("add", "subtract", "multiply"),
        references: Literal["steps", "terse"] = "steps",
        reference_share: Share = 1.0,
    ) -> None:
        self.seed = seed
        self.sizes = {"train": train, "dev": dev, "test": test}
        self.min_steps = min_steps
        self.max_steps = max_steps
        self.digits = digits
        self.max_operand = max_operand
        self.phrasings = phrasings
        listed = operations.split(",") if isinstance(operations, str) else operations
        self.operations = tuple(operation.strip() for operation in listed)
        self.references = references
        self.reference_share = reference_share

        # Solutions in steps of the problems that show a terse one, or none; the oracle needs them.
        self._steps: dict[str, str] = {}
        self._check()

    @property
    def _range(self) -> tuple[int, int]:
        """The smallest and the largest number with `digits` digits; 0 and 1 are left out."""
        return max(2, 10 ** (self.digits - 1)), 10**self.digits - 1

    def _check(self) -> None:
        if not 1 <= self.min_steps <= self.max_steps <= len(DAYS):
            raise ValueError(
                f"arithmetic: min_steps {self.min_steps} and max_steps {self.max_steps} must hold "
                f"1 <= min_steps <= max_steps <= {len(DAYS)}"
            )
        if not 1 <= self.digits <= 6:
            raise ValueError(f"arithmetic: digits {self.digits} is not within 1 to 6")
        if not 1 <= self.phrasings <= MOST_PHRASINGS:
            raise ValueError(
                f"arithmetic: phrasings {self.phrasings} is not within 1 to {MOST_PHRASINGS}"
            )

        unknown = [operation for operation in self.operations if operation not in SYMBOLS]
        if unknown or not self.operations:
            raise ValueError(
                f"arithmetic: operations {list(self.operations)} must be some of {list(SYMBOLS)}"
            )
        if not 0 <= self.reference_share <= 1:
            raise ValueError(
                f"arithmetic: reference_share {self.reference_share} is not within 0 to 1"
            )

        smallest = self._range[0]
        if self.max_operand < smallest and {"add", "subtract"} & set(self.operations):
            raise ValueError(
                f"arithmetic: max_operand {self.max_operand} is below {smallest}, the smallest "
                f"operand of digits {self.digits}"
            )

    def problems(self, split: str) -> list[Problem]:
        """The problems of `split`, in a fixed order, always the same for the same settings."""
        if split not in SPLITS:
            raise ValueError(f"arithmetic: split {split!r} is none of {', '.join(SPLITS)}")
        size = self.sizes[split]
        if size < 1:
            raise ValueError(f"arithmetic: split {split!r} is empty ({split}={size})")

        # Every split draws the same stream and keeps its own part of it.
        rng = random.Random(self.seed)
        found: dict[str, Problem] = {}
        fruitless = 0
        while len(found) < size:
            story = self._story(rng)
            question = self._question(rng, story)
            solution = self._solution(rng, story)
            if _split_of(story) != split or question in found:
                fruitless += 1
                if fruitless > MOST_FRUITLESS_DRAWS:
                    raise ValueError(
                        f"arithmetic: found {len(found)} distinct questions for split {split!r} of "
                        f"the {size} asked for; allow more digits, steps or operations"
                    )
                continue

            fruitless = 0
            found[question] = Problem(
                id=f"arithmetic-{_digest(question)[:16]}",
                question=question,
                answer=str(story.answer),
                solution=solution,
                kind=f"{len(story.steps)} step{'s' if len(story.steps) > 1 else ''}",
            )
        return [self._shown(problem) for problem in found.values()]

    def _shown(self, problem: Problem) -> Problem:
        """The problem with the reference solution that the settings give it, if any."""
        steps = problem.solution or ""
        shown = problem
        if int(_digest(f"reference/{problem.id}")[:8], 16) >= self.reference_share * 16**8:
            shown = replace(problem, solution=None)
        elif self.references == "terse":
            shown = replace(problem, solution=terse(steps))

        if shown is not problem:
            self._steps[problem.id] = steps
        return shown

    def final_answer(self, text: str) -> str | None:
        """The text after the last "The answer is", or None without one."""
        return final_answer(text, MARKERS)

    def judge(self, text: str, problem: Problem) -> Verdict:
        """Compares the final answer with the gold answer as numbers."""
        return judge_number(text, problem.answer, MARKERS)

    def oracle(self, problem: Problem, text: str) -> str | None:
        """The right solution nearest to `text` (`arithmetic_oracle.line_edits`)."""
        return arithmetic_oracle.apply_edits(self._line_edits(problem, text))

    def first_wrong_line(self, problem: Problem, text: str) -> int | None:
        """Index of the first line of `text` that the oracle would change, or None.

        A missing line counts at its place, which may be one past the last line.
        """
        return arithmetic_oracle.first_wrong_line(self._line_edits(problem, text))

    def kind_of_error(self, problem: Problem, text: str) -> str:
        """The kind of the first error, one of `arithmetic_oracle.KINDS`; "none" without one."""
        return arithmetic_oracle.kind_of_error(self._line_edits(problem, text))

    def _line_edits(self, problem: Problem, text: str) -> list[arithmetic_oracle.Edit]:
        # In a run that reuses artifacts, the problems may not have been generated yet.
        if not self._steps and (self.references != "steps" or self.reference_share < 1):
            for split in (split for split in SPLITS if self.sizes[split]):
                self.problems(split)
        steps = self._steps.get(problem.id, problem.solution)
        return arithmetic_oracle.line_edits(replace(problem, solution=steps), text, self.phrasings)

    def _story(self, rng: random.Random) -> Story:
        name = rng.choice(NAMES)
        item = rng.choice(ITEMS)
        count = rng.randint(self.min_steps, self.max_steps)
        for _ in range(MOST_STORY_DRAWS):
            steps = self._steps_from(rng, rng.randint(*self._range), count)
            if len(steps) == count:
                return Story(name, item, tuple(steps))
        raise ValueError(
            f"arithmetic: no story of {count} steps with operations {list(self.operations)} stays "
            f"within {self.digits} digits"
        )

    def _steps_from(self, rng: random.Random, number: int, count: int) -> list[Step]:
        """Up to `count` steps from `number`; fewer where one of them has no possible next step."""
        steps: list[Step] = []
        while len(steps) < count:
            step = self._step(rng, number, DAYS[len(steps)])
            if step is None:
                break
            steps.append(step)
            number = step.after
        return steps

    def _step(self, rng: random.Random, number: int, day: str) -> Step | None:
        """A step from `number` to another number of as many digits; None if there is none."""
        smallest, largest = self._range
        operands = {
            "add": range(smallest, min(largest - number, self.max_operand) + 1),
            "subtract": range(smallest, min(number - smallest, self.max_operand) + 1),
            "multiply": [k for k in VERBS if number * k <= largest],
            "divide": [2] if number % 2 == 0 and number // 2 >= smallest else [],
        }

        possible = [operation for operation in self.operations if operands[operation]]
        if not possible:
            return None
        operation = rng.choice(possible)
        operand = rng.choice(operands[operation])
        return Step(number, operation, operand, _apply(number, operation, operand), day)

    def _question(self, rng: random.Random, story: Story) -> str:
        sentences = [
            rng.choice(STARTS[: self.phrasings]).format(
                name=story.name, item=story.item, a=story.steps[0].before
            )
        ]
        for step in story.steps:
            event = rng.choice(EVENTS[step.operation][: self.phrasings])
            verb = VERBS.get(step.operand, "")
            sentence = event.format(name=story.name, item=story.item, b=step.operand, verb=verb)
            sentences.append(f"{step.day}: {sentence}")
        ending = rng.choice(ENDINGS[: self.phrasings])
        sentences.append(ending.format(name=story.name, item=story.item))
        return " ".join(sentences)

    def _solution(self, rng: random.Random, story: Story) -> str:
        lines = [
            story.line(step, rng.randrange(self.phrasings), step.equations()[0])
            for step in story.steps
        ]
        return "\n".join([*lines, answer_line(story.answer)])


def terse(solution: str) -> str:
    """A solution in steps as one line of its equations, then the answer line."""
    equations = (match.group() for match in EQUATION.finditer(solution))
    return "; ".join(equations) + "\n" + solution.split("\n")[-1]


def _apply(number: int, operation: str, operand: int) -> int:
    if operation == "add":
        return number + operand
    if operation == "subtract":
        return number - operand
    return number * operand if operation == "multiply" else number // operand


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _split_of(story: Story) -> str:
    calculation = " ".join(step.equations()[0] for step in story.steps)
    return SPLIT_OF_TENTH[int(_digest(calculation), 16) % 10]
