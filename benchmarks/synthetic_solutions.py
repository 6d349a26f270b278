"""Synthetic word problems with many solutions each, written without holding them in memory.

In: the numbers of problems and solutions, and a seed. Out: a file of problems in GSM8K's columns
and a file of labelled solutions, both JSON lines, with the same bytes for the same arguments.

Solutions are about as long as those of language models on GSM8K. Slightly less than half are right,
in different words. Most others have one fault: an operand, an operation, a result, a missing step,
or the answer line. A few have no answer, and some occur twice.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

NAMES = ("Mia", "Omar", "Ruth", "Ivan", "Nina", "Hugo", "Lena", "Emil", "Aisha", "Yuki", "Carl")
THINGS = ("apples", "notebooks", "coins", "candles", "stamps", "eggs", "marbles", "roses", "tiles")
PLACES = ("the market", "the school fair", "her neighbour", "the corner shop", "the old harbour")
EVENTS = {
    "+": ("{name} gets {b} more {thing} at {place}", "A friend brings {b} {thing} from {place}"),
    "-": ("{name} gives {b} {thing} away at {place}", "{b} of the {thing} are lost at {place}"),
    "*": ("After that every one of them is sold for {b} dollars at {place}",),
}
LINES = {
    "+": (
        "Together with the {b} from {place} there are now {sum} {thing}.",
        "{name} now has {sum} {thing} in all.",
        "Adding these gives {sum}.",
    ),
    "-": (
        "After those {b} are gone, {name} is left with {sum} {thing}.",
        "That leaves {sum} {thing}.",
        "We subtract what was given away: {sum}.",
    ),
    "*": (
        "Selling each of them for {b} dollars brings {sum} dollars.",
        "The money from {place} is therefore {sum} dollars.",
    ),
}
KINDS = ("right",) * 9 + (
    *("operand", "result", "result", "operator", "missing", "answer", "answer", "wordy"),
    *("operand", "no answer", "missing"),
)


class Step(NamedTuple):
    before: int
    sign: str
    operand: int
    place: str

    @property
    def after(self) -> int:
        return calculated(self.before, self.sign, self.operand)


class Story(NamedTuple):
    name: str
    thing: str
    question: str
    steps: tuple[Step, ...]


def calculated(a: int, sign: str, b: int) -> int:
    return a + b if sign == "+" else a - b if sign == "-" else a * b


def story(number: int, seed: int) -> Story:
    """Return the problem with this number, from random numbers of its own."""
    rng = random.Random(f"{seed}/{number}")
    name = rng.choice(NAMES)
    thing = rng.choice(THINGS)
    start = rng.randint(40, 900)

    steps = list[Step]()
    now = start
    told = [f"In story {number} {name} has {start} {thing}."]
    for left in range(rng.randint(2, 5), 0, -1):
        sign = "*" if left == 1 and rng.random() < 0.5 else rng.choice("+-")
        operand = rng.randint(2, 12) if sign == "*" else rng.randint(2, min(now - 1, 300))
        place = rng.choice(PLACES)
        event = rng.choice(EVENTS[sign])
        told.append(event.format(name=name, thing=thing, b=operand, place=place) + ".")
        steps.append(Step(now, sign, operand, place))
        now = steps[-1].after
        if now < 20 or sign == "*":
            break

    told.append(f"What is the number that {name} ends up with?")
    return Story(name, thing, " ".join(told), tuple(steps))


def reference(s: Story) -> str:
    """Return the reference solution in GSM8K's style, without calculator marks."""
    return "\n".join([*(_line(s, step, step.after, 0) for step in s.steps), _answer(s)])


def _line(s: Story, step: Step, result: int, wording: int) -> str:
    said = LINES[step.sign][wording % len(LINES[step.sign])]
    equation = f"{step.before} {step.sign} {step.operand} = {result}"
    return said.format(name=s.name, thing=s.thing, b=step.operand, place=step.place, sum=equation)


def _answer(s: Story) -> str:
    return f"#### {s.steps[-1].after}"


def solution(s: Story, rng: random.Random) -> tuple[str, bool]:
    """Return one solution and whether it is right."""
    kind = rng.choice(KINDS)
    fault_at = rng.randrange(len(s.steps))

    lines = list[str]()
    now = s.steps[0].before
    for i, step in enumerate(s.steps):
        fault = kind if i == fault_at else ""
        sign = step.sign
        operand = step.operand
        before = now
        if fault == "operand":
            operand += rng.randint(1, 9)
        if fault == "operator":
            sign = "+" if sign == "-" else "-"
        now = calculated(before, sign, operand)
        if fault == "result":
            now += rng.choice((-10, -1, 1, 10))
        if fault == "missing":
            now = before
            continue

        lines.append(_line(s, Step(before, sign, operand, step.place), now, rng.randrange(3)))
        if kind == "wordy":
            lines.append("Let me check this step again before going on.")

    answer = now + 1 if kind == "answer" else now
    if kind != "no answer":
        lines.append(f"#### {answer}")
    return "\n".join(lines), kind != "no answer" and answer == s.steps[-1].after


def solutions(problems: int, count: int, seed: int) -> Iterator[dict[str, object]]:
    """Yield `count` rows of question, solution, and label; the problems take turns."""
    rng = random.Random(f"{seed}/solutions")
    held = dict[int, Story]()
    for i in range(count):
        number = i % problems
        s = held[number] if number in held else story(number, seed)
        if len(held) < 1000:
            held[number] = s
        text, right = solution(s, rng)
        yield {"question": s.question, "solution": text, "right": right}


def write_files(folder: Path, problems: int, count: int, seed: int) -> tuple[Path, Path]:
    """Write both files to `folder` and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    known = folder / "problems.jsonl"
    made = folder / "solutions.jsonl"
    with known.open("w", encoding="utf-8") as file:
        for number in range(problems):
            s = story(number, seed)
            file.write(json.dumps({"question": s.question, "answer": reference(s)}) + "\n")
    with made.open("w", encoding="utf-8") as file:
        for row in solutions(problems, count, seed):
            file.write(json.dumps(row) + "\n")
    return known, made
