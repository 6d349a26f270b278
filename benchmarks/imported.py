"""Word problems and many ready-made solutions of each, made up as the file is written.

In: how many problems, how many solutions, a seed. Out: a file of problems in GSM8K's columns and a
file of solutions with labels, both JSON lines, the same bytes for the same numbers. Solutions are
about as long as models' own on GSM8K. Somewhat under half are right, in words that differ; the
others have one thing wrong (an operand, an operation, a result, a step left out, the answer's
line), a few have no answer, and some stand in the file twice. Nothing is held in memory.
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
    """The problem of a number, from its own random numbers."""
    rng = random.Random(f"{seed}/{number}")
    name, thing, start = rng.choice(NAMES), rng.choice(THINGS), rng.randint(40, 900)
    steps, now = list[Step](), start
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
    """The reference solution in GSM8K's way, without calculator marks."""
    return "\n".join([*(_line(s, step, step.after, 0) for step in s.steps), _answer(s)])


def _line(s: Story, step: Step, result: int, wording: int) -> str:
    said = LINES[step.sign][wording % len(LINES[step.sign])]
    equation = f"{step.before} {step.sign} {step.operand} = {result}"
    return said.format(name=s.name, thing=s.thing, b=step.operand, place=step.place, sum=equation)


def _answer(s: Story) -> str:
    return f"#### {s.steps[-1].after}"


def solution(s: Story, rng: random.Random) -> tuple[str, bool]:
    """One solution and whether it is right."""
    kind, at = rng.choice(KINDS), rng.randrange(len(s.steps))
    lines, now = list[str](), s.steps[0].before
    for i, step in enumerate(s.steps):
        sign, operand, before = step.sign, step.operand, now
        if i == at and kind == "operand":
            operand += rng.randint(1, 9)
        if i == at and kind == "operator":
            sign = "+" if sign == "-" else "-"
        now = calculated(before, sign, operand)
        if i == at and kind == "result":
            now += rng.choice((-10, -1, 1, 10))
        if i == at and kind == "missing":
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
    """`count` rows with question, solution and label, a problem's own ones not side by side."""
    rng, held = random.Random(f"{seed}/solutions"), dict[int, Story]()
    for i in range(count):
        number = i % problems
        s = held[number] if number in held else story(number, seed)
        if len(held) < 1000:
            held[number] = s
        text, right = solution(s, rng)
        yield {"question": s.question, "solution": text, "right": right}


def write_files(folder: Path, problems: int, count: int, seed: int) -> tuple[Path, Path]:
    """Writes both files to `folder`; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    known, made = folder / "problems.jsonl", folder / "solutions.jsonl"
    with known.open("w", encoding="utf-8") as file:
        for number in range(problems):
            s = story(number, seed)
            file.write(json.dumps({"question": s.question, "answer": reference(s)}) + "\n")
    with made.open("w", encoding="utf-8") as file:
        for row in solutions(problems, count, seed):
            file.write(json.dumps(row) + "\n")
    return known, made
