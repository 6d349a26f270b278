"""Forward passes of a rewrite: python -m benchmarks.draft_calls TOKENIZER [TEXTS]

In: a folder with a tokenizer, the folder of the public data sets in RLMEC_DATA, and the number of
texts per case (default 160). Out: a table of forward passes per 100 tokens written and, in
brackets, of tokens fed in them after the first pass, for `rlmec.lm.draft_decoding` (one text at a
time, and BATCH together) and for the prompt look-up of transformers.

No network runs. `ToldSlots` takes its place and chooses the tokens of a given target. The drafts
are released wrong solutions to GSM8K questions. The targets are their corrections by the reference
teacher, or the references. In the other cases the draft is a correction with some tokens replaced,
put in or left out, or with two lines swapped. Prompts are those of a GRM: question, reference, and
draft; the reference is left out in half of the real cases.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein
from transformers.generation.candidate_generator import PromptLookupCandidateGenerator

from benchmarks.samples import FILE
from rlmec.lm.draft_decoding import Realignment, RewriteBatch
from rlmec.lm.tokenizers import codec, load_tokenizer
from rlmec.records import Problem
from rlmec.runtime.display import markdown_table
from rlmec.teachers.reference import ReferenceTeacher

BATCH = 16
LOOKUP_TOKENS = (10, 32)
NEAR = 0.5
"""The edits of a near correction are at most this share of its draft's tokens."""
EDITS = (1, 2, 3, 6)
HEAD = ["case", "tokens", "out", "in", "look-up 10", "look-up 32", "alone", f"batch of {BATCH}"]


@dataclass(frozen=True)
class Text:
    """A prompt, a draft of the text, and the text that the network writes."""

    prompt: list[int]
    draft: list[int]
    target: list[int]


@dataclass
class Count:
    """Passes through a network; the tokens fed and written in all passes after the first."""

    calls: int = 0
    fed: int = 0
    written: int = 0

    def add(self, other: Count) -> None:
        self.calls += other.calls
        self.fed += other.fed
        self.written += other.written

    def shown(self) -> str:
        """Passes and, in brackets, tokens fed per 100 tokens written."""
        share = 100 / self.written
        return f"{self.calls * share:.1f} ({self.fed * share:.0f})"


class ToldSlots:
    """Takes the place of `kv_cache.Slots` for a network that writes given targets, one per row.

    A state is the id of the token that the network chooses next. In the first pass, after tokens of
    the draft that are not the target's, it chooses what follows in the target at the place that
    `Realignment` finds, as a trained network would.
    """

    def __init__(self, texts: Sequence[Text], vocabulary: int) -> None:
        self.texts = texts
        self.vocabulary = vocabulary
        config = SimpleNamespace(vocab_size=vocabulary)
        self.network = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: config))
        self.device = torch.device("cpu")
        self.rows = torch.arange(len(texts))
        self.calls = 0
        self.fed = 0

    def tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values))

    def begin(
        self, ids: torch.Tensor, lengths: np.ndarray, rows: np.ndarray, columns: np.ndarray
    ) -> torch.Tensor:
        del ids, lengths
        self.calls += 1
        choices = [_choices(text) for text in self.texts]
        firsts = [len(text.prompt) - 1 for text in self.texts]
        states = [choices[r][c - firsts[r]] for r, c in zip(rows, columns, strict=True)]
        return torch.tensor(states)[:, None]  # [M, 1]

    def feed(
        self,
        ids: torch.Tensor,
        starts: torch.Tensor,
        width: int,
        counts: torch.Tensor | None = None,
    ) -> torch.Tensor:
        del width, counts
        self.calls += 1
        self.fed += ids.numel()
        states = torch.zeros_like(ids)  # [R, q]
        for state, row, start in zip(states, self.rows.tolist(), starts.tolist(), strict=True):
            text = self.texts[row]
            first = start - len(text.prompt) + 1
            following = text.target[first : first + len(state)]
            state[: len(following)] = torch.tensor(following)
        return states[..., None]

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(states[:, 0], self.vocabulary).float()

    def keep(self, going: torch.Tensor) -> torch.Tensor:
        order = torch.arange(int(going.sum()))
        gaps = (~going[: len(order)]).nonzero()[:, 0]
        order[gaps] = going[len(order) :].nonzero()[:, 0] + len(order)
        self.rows = self.rows[order]
        return order


def _choices(text: Text) -> list[int]:
    """What the network chooses after each beginning of the draft, from the empty one on."""
    place = Realignment([text.target])
    choices = [text.target[0]]
    for token in text.draft:
        place.advance(np.array([0]), np.array([[token]]), np.array([1]))
        at = min(int(place.pointer[0]), len(text.target) - 1)
        choices.append(text.target[at])
    return choices


def rewritten(texts: Sequence[Text], vocabulary: int) -> Count:
    """Rewrites `texts` in one batch. Raises ValueError if a text is not its target."""
    slots = ToldSlots(texts, vocabulary)
    batch = RewriteBatch(
        cast(Any, slots),
        [t.prompt for t in texts],
        [t.draft for t in texts],
        max(len(t.target) for t in texts),
        [texts[0].target[-1]],  # the end token
    )
    made = batch.run(0, len(texts))
    for text, rewrite in zip(texts, made, strict=True):
        if rewrite.completion.ids != text.target:
            raise ValueError(f"{rewrite.completion.ids} was written instead of {text.target}")
    return Count(slots.calls, slots.fed, sum(len(t.target) for t in texts))


def looked_up(text: Text, tokens: int) -> Count:
    """Passes of prompt look-up with guesses of `tokens` tokens for one text."""
    start = len(text.prompt)
    whole = cast(Any, torch.tensor([text.prompt + text.target]))
    lookup = PromptLookupCandidateGenerator(num_output_tokens=tokens, max_length=whole.shape[1])
    count = Count(1, 0, len(text.target))  # the pass over the prompt gives the first token
    length = start + 1
    while length < whole.shape[1]:
        guess = lookup.get_candidates(whole[:, :length])[0][0, length:]
        follows = whole[0, length : length + len(guess)]
        same = (guess[: len(follows)] == follows).long().cumprod(0)
        count.calls += 1
        count.fed += 1 + len(guess)
        length += int(same.sum()) + 1
    return count


# --- cases ---


@dataclass(frozen=True)
class Solved:
    """A question, a wrong solution to it, its correction, and the reference."""

    question: list[int]
    wrong: list[int]
    corrected: list[int]
    reference: list[int]

    @property
    def is_near(self) -> bool:
        return Levenshtein.distance(self.wrong, self.corrected) <= NEAR * len(self.wrong)


def solved(path: Path, tokenizer: Any) -> list[Solved]:
    """The wrong solutions in a file of released solutions, in its order."""
    codes = codec(tokenizer)
    teacher = ReferenceTeacher()
    found = []
    for line in path.read_text().splitlines():
        row = json.loads(line)
        reference = row["ground_truth"]
        problem = Problem("p", row["question"], "0", reference)
        for made in row.values():
            if not isinstance(made, dict) or made["is_correct"] or not made["solution"].strip():
                continue
            corrected = teacher.correct(problem, made["solution"])
            texts = (made["solution"], corrected or reference, reference)
            completions = [list(codes.completion(text)) for text in texts]
            found.append(Solved(codes.encode(row["question"]), *completions))
    return found


def cases(pool: Sequence[Solved], tokenizer: Any, number: int) -> Iterator[tuple[str, list[Text]]]:
    """Name and texts of every case, `number` texts each."""
    codes = codec(tokenizer)
    parts = [codes.encode(t) for t in ("\nSolution:\n", "\nAttempt:\n", "\nCorrected:\n")]
    draw = random.Random(1)
    pool = draw.sample(pool, len(pool))
    near = [s for s in pool if s.is_near][:number]
    far = [s for s in pool if not s.is_near][:number]

    def text(s: Solved, draft: list[int], target: list[int], shown: bool = True) -> Text:
        solution = [*parts[0], *s.reference[:-1]] if shown else []
        return Text([*s.question, *solution, *parts[1], *draft[:-1], *parts[2]], draft, target)

    for kind in ("replaced", "put in", "left out"):
        for edits in EDITS:
            drafts = [edited(s.corrected, edits, kind, draw) for s in near]
            pairs = zip(near, drafts, strict=True)
            yield f"{edits} {kind}", [text(s, draft, s.corrected) for s, draft in pairs]
    line_end = codes.encode("\n")[0]
    swapped = [_swapped(s.corrected, line_end, draw) for s in near]
    pairs = zip(near, swapped, strict=True)
    yield "two lines swapped", [text(s, draft, s.corrected) for s, draft in pairs]

    for shown, words in ((True, "reference shown"), (False, "reference hidden")):
        yield f"near correction, {words}", [text(s, s.wrong, s.corrected, shown) for s in near]
        yield f"far correction, {words}", [text(s, s.wrong, s.corrected, shown) for s in far]
        yield f"reference, {words}", [text(s, s.wrong, s.reference, shown) for s in pool[:number]]
    other = [*pool[1 : number + 1]]
    useless = [text(s, o.wrong, s.reference, False) for s, o in zip(pool, other, strict=False)]
    yield "another question's draft", useless[:number]


def edited(ids: Sequence[int], count: int, kind: str, draw: random.Random) -> list[int]:
    """`ids` with `count` edits. A new token is one of `ids`, as a wrong number often is."""
    out = list(ids)
    for at in sorted(draw.sample(range(len(ids) - 1), min(count, len(ids) - 1)), reverse=True):
        other = draw.choice([i for i in ids[:-1] if i != ids[at]] or [ids[0]])
        if kind == "replaced":
            out[at] = other
        elif kind == "put in":
            out.insert(at, other)
        else:
            del out[at]
    return out


def _swapped(ids: Sequence[int], line_end: int, draw: random.Random) -> list[int]:
    """`ids` with two neighbouring lines swapped."""
    starts = [0, *(i + 1 for i, token in enumerate(ids) if token == line_end), len(ids) - 1]
    if len(starts) < 3:
        return list(ids)
    at = draw.randrange(len(starts) - 2)
    first, second, third = starts[at : at + 3]
    return [*ids[:first], *ids[second:third], *ids[first:second], *ids[third:]]


# --- the table ---


def measured(texts: Sequence[Text]) -> list[Count]:
    """Counts of look-up with each of LOOKUP_TOKENS, of rewriting alone, and of batches."""
    numbers: dict[int, int] = {}
    for text in texts:
        for token in (*text.prompt, *text.draft, *text.target):
            numbers.setdefault(token, len(numbers))
    few = [
        Text(*([numbers[i] for i in part] for part in (t.prompt, t.draft, t.target))) for t in texts
    ]  # a small vocabulary, for one-hot logits

    counts = []
    for tokens in LOOKUP_TOKENS:
        counts.append(_sum(looked_up(text, tokens) for text in few))
    for size in (1, BATCH):
        starts = range(0, len(few), size)
        counts.append(_sum(rewritten(few[i : i + size], len(numbers)) for i in starts))
    return counts


def _sum(counts: Iterator[Count]) -> Count:
    total = Count()
    for count in counts:
        total.add(count)
    return total


def line(name: str, texts: Sequence[Text]) -> list[str]:
    """The cells of a case."""
    out, put_in, tokens = 0, 0, 0
    for text in texts:
        operations = Levenshtein.editops(text.draft, text.target)
        out += sum(op.tag != "insert" for op in operations)
        put_in += sum(op.tag != "delete" for op in operations)
        tokens += len(text.target)
    edits = [f"{100 * count / tokens:.1f}" for count in (out, put_in)]
    return [name, f"{tokens / len(texts):.0f}", *edits, *(c.shown() for c in measured(texts))]


def main(arguments: list[str]) -> int:
    folder, *rest = arguments
    tokenizer = load_tokenizer(folder)
    number = int(rest[0]) if rest else 160
    pool = solved(Path(os.environ["RLMEC_DATA"]) / FILE, tokenizer)
    lines = [line(name, texts) for name, texts in cases(pool, tokenizer, number)]
    print(markdown_table(HEAD, lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
