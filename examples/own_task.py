"""A task class of a user: clock times, with a judge that no built-in task has.

The command that trains on it is in examples/README.md.
"""

import re

from rlmec.records import Problem, Verdict


class ClockTask:
    name = "clock"

    def __init__(self, minutes: int = 50) -> None:
        self.minutes = minutes  # the longest wait; settings are checked by name and type

    def problems(self, split: str) -> list[Problem]:
        """Questions in a fixed order: every tenth is dev, every tenth test, the rest train."""
        waits = [(hour, wait) for hour in range(1, 12) for wait in range(21, self.minutes + 1)]
        place = {"dev": {8}, "test": {9}, "train": set(range(8))}[split]
        return [self._problem(*w) for i, w in enumerate(waits) if i % 10 in place]

    def final_answer(self, text: str) -> str | None:
        times = re.findall(r"\b\d{1,2}:\d{2}\b", text)
        return times[-1] if times else None

    def judge(self, text: str, problem: Problem) -> Verdict:
        answer = self.final_answer(text)
        if answer is None:
            return "no_answer"
        return "right" if answer.zfill(5) == problem.answer.zfill(5) else "wrong"

    def _problem(self, hour: int, wait: int) -> Problem:
        later = f"{hour + 1}:{wait - 20:02}"
        solution = f"40 + {wait} = {40 + wait}\n{40 + wait} - 60 = {wait - 20}\nIt is {later}"
        question = f"It is {hour}:40. What time is it {wait} minutes later?"
        return Problem(f"clock-{hour}-{wait}", question, later, solution)
