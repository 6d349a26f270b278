"""Pairs and scores in the columns that other trainers read.

In: a table of joined pairs. Out: rows, written as they come, to JSON lines or
Parquet. Preferences have `prompt`, `chosen`, `rejected`; a scored attempt is one row with its token
ids, rewards, old log-probs, and the ids and weights of what it should have been.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from rlmec.data.pairs import PairTable
from rlmec.prompts import Prompts
from rlmec.records import Attempt, Pair, Problem
from rlmec.store.tables import schema

T = TypeVar("T")
ROWS_AT_ONCE = 1024
_TURNS = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


@dataclass(frozen=True)
class ScoredAttempt:
    """One row of `scores.parquet`. `token_rewards` and `old_logprobs` (nats) run over
    `completion_ids`, `edit_weights` over `target_ids`; a right attempt is its own target, of a
    wrong one without a correction the target is empty. End tokens are there."""

    id: str
    problem_id: str
    prompt_ids: list[int]
    completion_ids: list[int]
    is_right: bool
    token_rewards: list[float]
    old_logprobs: list[float]
    target_ids: list[int]
    edit_weights: list[float]
    corrected_by: str


def scored_attempts(pairs: Iterable[Pair]) -> Iterator[ScoredAttempt]:
    """Pairs as plain rows, in their order."""
    for pair in pairs:
        a = pair.attempt
        yield ScoredAttempt(
            a.id,
            a.problem_id,
            a.prompt_ids,
            a.completion_ids,
            a.is_right,
            pair.token_rewards.tolist(),
            pair.old_logprobs.tolist(),
            pair.target_ids,
            pair.edit_weights.tolist(),
            pair.corrected_by,
        )


def preferences(
    table: PairTable,
    prompts: Prompts,
    dropped: Counter[str],
    *,
    conversational: bool,
    right_and_wrong: bool = False,
) -> Iterator[dict[str, Any]]:
    """One row an accepted correction: it is `chosen`, its attempt `rejected`.

    With `right_and_wrong`, after them the n-th right and the n-th wrong attempt at a problem, as
    far as both go. `dropped` counts the attempts that are in no row, by reason. Texts end without
    an end token, which trainers add.
    """
    row = turns if conversational else texts
    right: dict[str, list[Attempt]] = defaultdict(list)
    wrong: dict[str, list[Attempt]] = defaultdict(list)
    used: set[str] = set()
    for attempt in table.attempts:
        (right if attempt.is_right else wrong)[attempt.problem_id].append(attempt)
        correction = table.corrections.get(attempt.id)
        if correction is not None and not attempt.is_right:
            used.add(attempt.id)
            yield row(table, prompts, attempt, correction.text)
    if right_and_wrong:
        for problem_id, several in right.items():
            for good, bad in zip(several, wrong[problem_id], strict=False):
                used |= {good.id, bad.id}
                yield row(table, prompts, bad, good.text)
    for attempt in table.attempts:
        if attempt.id not in used:
            dropped["right" if attempt.is_right else "uncorrected"] += 1


def texts(table: PairTable, prompts: Prompts, rejected: Attempt, chosen: str) -> dict[str, Any]:
    """Plain text: the prompt as the model reads it, without the token that every sequence starts
    with, which trainers add."""
    codec, ids = prompts.codec, rejected.prompt_ids
    start = len(codec.prefix_ids)
    if start and tuple(ids[:start]) == codec.prefix_ids:
        ids = ids[start:]
    return {"prompt": codec.decode(ids), "chosen": chosen, "rejected": rejected.text}


def turns(table: PairTable, prompts: Prompts, rejected: Attempt, chosen: str) -> dict[str, Any]:
    """Turns of a conversation, to which trainers apply the chat template."""
    problem = table.problems[rejected.problem_id]
    return {
        "prompt": conversation(prompts, problem),
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected.text}],
    }


def conversation(prompts: Prompts, problem: Problem) -> list[dict[str, str]]:
    """The policy's prompt as turns."""
    t = prompts.templates
    system = [{"role": "system", "content": t.system}] if t.system else []
    asked = t.policy.replace("{question}", problem.question)
    return [*system, {"role": "user", "content": asked}]


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]], columns: pa.Schema) -> int:
    """One JSON object a line; returns the number of rows."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def write_parquet(path: Path, rows: Iterable[dict[str, Any]], columns: pa.Schema) -> int:
    """A row group for every ROWS_AT_ONCE rows; returns the number of rows."""
    count = 0
    with pq.ParquetWriter(path, columns, compression="zstd") as writer:
        for group in _grouped(rows, ROWS_AT_ONCE):
            writer.write_table(pa.Table.from_pylist(group, schema=columns))
            count += len(group)
    return count


WRITERS: dict[str, Callable[[Path, Iterable[dict[str, Any]], pa.Schema], int]] = {
    "jsonl": write_jsonl,
    "parquet": write_parquet,
}


def preference_columns(conversational: bool) -> pa.Schema:
    kind = _TURNS if conversational else pa.string()
    return pa.schema([(name, kind) for name in ("prompt", "chosen", "rejected")])


def write_scores(path: Path, pairs: Iterable[Pair]) -> int:
    """Writes `ScoredAttempt` rows to Parquet; returns their number."""
    rows = (asdict(row) for row in scored_attempts(pairs))
    return write_parquet(path, rows, schema(ScoredAttempt))


def _grouped(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    it = iter(rows)
    while group := list(islice(it, size)):
        yield group
