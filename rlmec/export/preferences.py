"""Joined pairs in the columns that other trainers read.

In: a table of joined pairs. Out: rows, which are written one by one to JSON lines or Parquet. A
preference has the columns `prompt`, `chosen` and `rejected`; a completion for fine-tuning has
`prompt` and `completion`, or both as `messages`. A scored attempt is one row with its token ids,
rewards and old log-probs, and with the ids and weights of its target.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from rlmec.data.pairs import PairTable
from rlmec.prompts import Prompts
from rlmec.records import Attempt, Pair, Problem
from rlmec.store.tables import schema

T = TypeVar("T")
Form = Literal["texts", "turns", "messages"]
ROWS_AT_ONCE = 1024
_TURNS = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


@dataclass(frozen=True)
class ScoredAttempt:
    """One row of `scores.parquet`.

    `token_rewards` and `old_logprobs` (nats) have one value per id of `completion_ids`,
    `edit_weights` one per id of `target_ids`. The target is the accepted correction of a wrong
    attempt, and the attempt itself if it is right; without a correction it is empty. All ids
    include the end token.
    """

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
    """The pairs as plain rows, in their order."""
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
    """One row per accepted correction: the correction is `chosen`, its attempt `rejected`.

    With `right_and_wrong`, further rows prefer the n-th right to the n-th wrong attempt at a
    problem, for as many n as there are both. The attempts that are in no row are counted in
    `dropped` by reason, after the last row. Texts have no end token, because trainers add it.
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


def completions(
    table: PairTable, prompts: Prompts, dropped: Counter[str], *, form: Form
) -> Iterator[dict[str, Any]]:
    """One row per right attempt and per accepted correction: what the policy imitates.

    `form` is "texts" (`prompt`, `completion`), "turns" (the same as turns of a conversation) or
    "messages" (the whole conversation in one column). Wrong attempts without a correction are
    counted in `dropped`.
    """
    for attempt in table.attempts:
        correction = table.corrections.get(attempt.id)
        if not attempt.is_right and correction is None:
            dropped["uncorrected"] += 1
            continue
        text = attempt.text if attempt.is_right or correction is None else correction.text
        if form == "texts":
            yield {"prompt": prompt_text(prompts, attempt), "completion": text}
            continue
        asked = conversation(prompts, table.problems[attempt.problem_id])
        said = [{"role": "assistant", "content": text}]
        if form == "turns":
            yield {"prompt": asked, "completion": said}
        else:
            yield {"messages": asked + said}


def texts(table: PairTable, prompts: Prompts, rejected: Attempt, chosen: str) -> dict[str, Any]:
    """A row of plain texts."""
    prompt = prompt_text(prompts, rejected)
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected.text}


def prompt_text(prompts: Prompts, attempt: Attempt) -> str:
    """The text that the model reads, without the token that every sequence starts with, because
    trainers add it."""
    codec = prompts.codec
    ids = attempt.prompt_ids
    start = len(codec.prefix_ids)
    if start and tuple(ids[:start]) == codec.prefix_ids:
        ids = ids[start:]
    return codec.decode(ids)


def turns(table: PairTable, prompts: Prompts, rejected: Attempt, chosen: str) -> dict[str, Any]:
    """A row of conversations, to which trainers apply the chat template."""
    problem = table.problems[rejected.problem_id]
    return {
        "prompt": conversation(prompts, problem),
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected.text}],
    }


def conversation(prompts: Prompts, problem: Problem) -> list[dict[str, str]]:
    """The policy's prompt as turns."""
    templates = prompts.templates
    system = [{"role": "system", "content": templates.system}] if templates.system else []
    asked = templates.policy.replace("{question}", problem.question)
    return [*system, {"role": "user", "content": asked}]


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]], columns: pa.Schema) -> int:
    """Write one JSON object per line; returns the number of rows."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def write_parquet(path: Path, rows: Iterable[dict[str, Any]], columns: pa.Schema) -> int:
    """Write one row group per ROWS_AT_ONCE rows; returns the number of rows."""
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


def text_columns(names: Sequence[str], conversational: bool) -> pa.Schema:
    """Columns of texts, or of turns, for `write_parquet`."""
    kind = _TURNS if conversational else pa.string()
    return pa.schema([(name, kind) for name in names])


def write_scores(path: Path, pairs: Iterable[Pair]) -> int:
    """Write `ScoredAttempt` rows to Parquet; returns the number of rows."""
    rows = (asdict(row) for row in scored_attempts(pairs))
    return write_parquet(path, rows, schema(ScoredAttempt))


def _grouped(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    it = iter(rows)
    while group := list(islice(it, size)):
        yield group
