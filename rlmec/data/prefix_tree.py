"""Rows that share what they have in common: merging into a prefix tree, trimming, taking apart.

In: rows. Out: rows that give the same loss and gradients from fewer tokens. `merge` computes every
distinct prefix token once; `trim` leaves out what no credit depends on; `flat_rows` takes a tree
apart again for models that cannot attend along one. Pure: no model, no disk, no configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rlmec.data.row import CREDIT, Row, Segment


def merge(id: str, rows: Sequence[Row], *, join: bool = True) -> Row:
    """One row that stands for flat `rows` with a common beginning: their tree of token ids.

    Segments are the longest runs without a branch, in depth-first order, branches in the order in
    which the rows take them. Scored tokens keep the rows' order. With `join`, two of the same
    source and target become one where not both have a reward and not both a weight (so the counts
    N_R and N_w stay those of the single rows); without it every one is kept, row after row.

    Raises ValueError for a row that is a tree itself, or rows whose first ids differ.
    """
    for row in rows:
        if not row.is_flat:
            raise ValueError(f"row {row.id!r} is a tree already: {len(row.segments)} segments")
    if len({row.input_ids[0] for row in rows}) != 1:
        raise ValueError(f"rows {', '.join(repr(row.id) for row in rows)} have no common beginning")
    input_ids, segments, places = _tree([np.asarray(row.input_ids) for row in rows])
    sources = [place[row.sources] for place, row in zip(places, rows, strict=True)]
    fields = {
        "sources": np.concatenate(sources),
        **{n: np.concatenate([getattr(r, n) for r in rows]) for n in ("targets", *CREDIT)},
    }
    if join:
        fields = _joined(fields)
    return Row(
        id,
        input_ids,
        segments=segments,
        tokens=sum(r.tokens for r in rows),
        attempt_tokens=sum(r.attempt_tokens for r in rows),
        whole=any(r.whole for r in rows),
        **fields,
    )


def trim(row: Row) -> Row:
    """The row without scored tokens of reward 0 and weight 0, and without ids that no other needs.

    An id is needed where it is a source, or stands before one on its path. The last id of a branch
    never is: it only ends the sequence. A tree then counts for the ids that are left (`tokens`), so
    that a step holds as many computed tokens whether rows share them or not; a flat row counts for
    what it did before. One id is left where nothing has credit.
    """
    wanted = (row.token_rewards != 0) | (row.weights != 0)  # [n]
    fields = {n: getattr(row, n)[wanted] for n in ("sources", "targets", *CREDIT)}
    needed = _needed_stops(row, fields["sources"])
    kept, number, start = [], {-1: -1}, 0
    keep = np.zeros(len(row.input_ids), dtype=bool)  # [T]
    for at, (first, _, parent) in enumerate(row.segments):
        if needed[at] > first:
            keep[first : needed[at]] = True
            number[at] = len(kept)
            kept.append(Segment(start, start + needed[at] - first, number[parent]))
            start = kept[-1].stop
    if not kept:
        keep[0], kept = True, [Segment(0, 1, -1)]
    new_place = np.cumsum(keep) - 1  # [T]
    fields["sources"] = new_place[fields["sources"]]
    ids = np.asarray(row.input_ids)[keep].tolist()
    tokens = row.tokens if row.is_flat else len(ids)
    return replace(row, input_ids=ids, segments=_run_on(kept), tokens=tokens, **fields)


def flat_rows(row: Row) -> list[Row]:
    """Flat rows with the same loss as a tree: one a leaf, each scored token in the first that has
    its source. A flat row is given back as it is; a leaf that nothing is scored in is left out. A
    row whose sequences are compared with one another raises ValueError."""
    if row.is_flat:
        return [row]
    if row.whole:
        raise ValueError(
            f"row {row.id!r} compares its sequences with one another, so they cannot be rows of "
            "their own: this objective needs a network that attends along branches"
        )
    parents = {segment.parent for segment in row.segments}
    leaves = [at for at in range(len(row.segments)) if at not in parents]
    where = row.segment_ids[row.sources]  # [n]
    open_ = np.ones(len(where), dtype=bool)  # [n]
    ids, found = np.asarray(row.input_ids), []
    for leaf in leaves:
        on_path = row.ancestors[leaf][row.segment_ids]  # [T]
        mine = open_ & row.ancestors[leaf][where]  # [n]
        if not mine.any():
            continue
        open_ &= ~mine
        fields = {n: getattr(row, n)[mine] for n in ("targets", *CREDIT)}
        place = np.cumsum(on_path) - 1  # [T]
        path = ids[on_path].tolist()
        found.append(
            Row(f"{row.id}/{len(found)}", path, place[row.sources[mine]], **fields, tokens=1)
        )
    share, rest = divmod(row.tokens, max(len(found), 1))
    return [
        replace(r, tokens=max(share + (i < rest), 1), attempt_tokens=0 if i else row.attempt_tokens)
        for i, r in enumerate(found)
    ]


def _tree(
    sequences: Sequence[np.ndarray],
) -> tuple[list[int], tuple[Segment, ...], list[np.ndarray]]:
    """Ids and segments of the sequences' prefix tree, and every sequence's places in it."""
    ids: list[int] = []
    segments: list[Segment] = []
    runs: list[list[np.ndarray]] = [[] for _ in sequences]
    todo = [(list(range(len(sequences))), 0, -1)]  # (sequences that go on here, depth, parent)
    while todo:
        members, depth, parent = todo.pop()
        longest = max(members, key=lambda i: len(sequences[i]))
        stop = min(_agree(sequences[longest], sequences[i], depth) for i in members)
        start = len(ids)
        ids += sequences[longest][depth:stop].tolist()
        segments.append(Segment(start, len(ids), parent))
        branches: dict[int, list[int]] = {}
        for i in members:
            runs[i].append(np.arange(start, start + min(stop, len(sequences[i])) - depth))
            if len(sequences[i]) > stop:
                branches.setdefault(int(sequences[i][stop]), []).append(i)
        todo += [(b, stop, len(segments) - 1) for b in reversed(branches.values())]
    return ids, tuple(segments), [np.concatenate(run) for run in runs]


def _agree(longer: np.ndarray, other: np.ndarray, depth: int) -> int:
    """Where `other` first differs from `longer`; the end of `longer` where it only ends before."""
    differ = longer[depth : len(other)] != other[depth:]  # [len(other) - depth]
    at = int(differ.argmax()) if differ.any() else -1
    return len(longer) if at < 0 else depth + at


def _joined(fields: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scored tokens of one source and target put together where their credit does not collide."""
    old = {name: values.tolist() for name, values in fields.items()}
    made: list[list[float]] = []  # [reward, old log-prob, weight]
    keys: list[tuple[int, int]] = []
    known: dict[tuple[int, int], list[int]] = {}
    credit = zip(*(old[name] for name in CREDIT), strict=True)
    for key, (reward, logprob, weight) in zip(
        zip(old["sources"], old["targets"], strict=True), credit, strict=True
    ):
        for at in known.setdefault(key, []):
            mine = made[at]
            if not (reward and mine[0]) and not (weight and mine[2]):
                if reward:
                    mine[:2] = reward, logprob
                mine[2] = mine[2] or weight
                break
        else:
            known[key].append(len(made))
            made.append([reward, logprob, weight])
            keys.append(key)
    pairs = np.array(keys, dtype=np.int64).reshape(-1, 2)
    values = np.array(made, dtype=np.float32).reshape(-1, 3)
    columns = dict(zip(CREDIT, values.T, strict=True))
    return {"sources": pairs[:, 0], "targets": pairs[:, 1], **columns}


def _needed_stops(row: Row, sources: np.ndarray) -> list[int]:
    """For every segment the end of what is needed of it: all of it below a needed child."""
    stops = [segment.start for segment in row.segments]
    for source, at in zip(sources.tolist(), row.segment_ids[sources].tolist(), strict=True):
        stops[at] = max(stops[at], source + 1)
    for at in reversed(range(len(stops))):
        parent = row.segments[at].parent
        if stops[at] > row.segments[at].start and parent >= 0:
            stops[parent] = row.segments[parent].stop
    return stops


def _run_on(segments: list[Segment]) -> tuple[Segment, ...]:
    """Segments with every only child made part of its parent, where it stands right behind it."""
    children = [0] * len(segments)
    for segment in segments:
        if segment.parent >= 0:
            children[segment.parent] += 1
    out: list[Segment] = []
    number: list[int] = []
    for start, stop, parent in segments:
        if parent >= 0 and children[parent] == 1:
            before = out[number[parent]]
            out[number[parent]] = Segment(before.start, stop, before.parent)
            number.append(number[parent])
        else:
            number.append(len(out))
            out.append(Segment(start, stop, number[parent] if parent >= 0 else -1))
    return tuple(out)
