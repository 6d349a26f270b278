"""Rows whose common beginnings are computed once: prefix trees of token ids.

In: rows. Out: rows that give the same loss and gradients with fewer tokens. `merge` makes a tree of
several rows, in which every distinct prefix is stored once. `trim` leaves out what no credit
depends on. `flat_rows` splits a tree again, for networks that cannot attend along its branches.
Pure. The paper has nothing of the kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rlmec.data.row import CREDIT, Row, Segment


def merge(id: str, rows: Sequence[Row], *, join: bool = True) -> Row:
    """One row in place of several flat `rows` with a common beginning: the tree of their ids.

    The segments are the longest runs of ids without a branch, in depth-first order; branches follow
    the order of the rows that take them. Scored tokens keep the order of the rows. With `join`, two
    scored tokens with the same source and target become one, unless both have a reward or both have
    a weight. The counts N_R and N_w are therefore those of the single rows. Without `join`, every
    scored token is kept.

    Raises ValueError if a row is a tree already or the first ids of the rows differ.
    """
    for row in rows:
        if not row.is_flat:
            raise ValueError(f"row {row.id!r} is a tree already: {len(row.segments)} segments")
    if len({row.input_ids[0] for row in rows}) != 1:
        raise ValueError(f"rows {', '.join(repr(row.id) for row in rows)} have no common beginning")

    input_ids, segments, places = _tree([row.input_ids for row in rows])
    sources = [place[row.sources] for place, row in zip(places, rows, strict=True)]
    fields = {
        "sources": np.concatenate(sources),
        **{n: np.concatenate([getattr(r, n) for r in rows]) for n in ("targets", *CREDIT)},
    }
    if join:
        fields = _joined(fields)

    return Row.derived(
        id=id,
        input_ids=input_ids,
        segments=segments,
        tokens=sum(r.tokens for r in rows),
        attempt_tokens=sum(r.attempt_tokens for r in rows),
        whole=any(r.whole for r in rows),
        **fields,
    )


def trim(row: Row) -> Row:
    """The row without scored tokens of reward 0 and weight 0, and without unneeded ids.

    An id is needed if it is a source or precedes one on its path. The last id of a branch never is,
    because nothing is predicted from it. One id is left if no token has credit.

    The `tokens` of a tree become the number of ids that are left, so that steps have the same
    number of computed tokens whether rows share them or not. Those of a flat row do not change.
    """
    wanted = (row.token_rewards != 0) | (row.weights != 0)  # [n]
    fields = {n: vars(row)[n][wanted] for n in ("sources", "targets", *CREDIT)}
    if row.is_flat:
        stop = int(fields["sources"].max(initial=0)) + 1
        more = {"input_ids": row.input_ids[:stop], "segments": (Segment(0, stop, -1),)}
        return Row.derived(**(vars(row) | fields | more))

    stops = _needed_stops(row, fields["sources"])

    kept: list[Segment] = []
    number = {-1: -1}  # of a segment among the kept ones
    runs: list[np.ndarray] = []  # the ids of the kept segments
    shifts: list[int] = []  # how far the ids of each segment move to the front
    start = 0
    for at, (first, _, parent) in enumerate(row.segments):
        shifts.append(first - start)
        if stops[at] > first:
            runs.append(row.input_ids[first : stops[at]])
            number[at] = len(kept)
            kept.append(Segment(start, start + stops[at] - first, number[parent]))
            start = kept[-1].stop
    if not kept:
        runs = [row.input_ids[:1]]
        kept = [Segment(0, 1, -1)]

    if any(shifts):
        where = _segment_of(row, fields["sources"])  # [wanted]
        fields["sources"] = fields["sources"] - np.asarray(shifts)[where]
    ids = runs[0] if len(runs) == 1 else np.concatenate(runs)  # [left]
    return Row.derived(
        id=row.id,
        input_ids=ids,
        segments=_run_on(kept),
        tokens=len(ids),
        attempt_tokens=row.attempt_tokens,
        whole=row.whole,
        **fields,
    )


def flat_rows(row: Row) -> list[Row]:
    """Flat rows with the same loss as a tree, one per leaf.

    Each scored token goes into the first flat row that has its source; a leaf without a scored
    token has no row. A flat row is returned unchanged. Raises ValueError for a `whole` row, whose
    sequences are compared with one another.
    """
    if row.is_flat:
        return [row]
    if row.whole:
        raise ValueError(
            f"row {row.id!r} compares its sequences with one another, so it cannot be split: this "
            "objective needs a network that attends along branches"
        )

    parents = {segment.parent for segment in row.segments}
    leaves = [at for at in range(len(row.segments)) if at not in parents]
    where = row.segment_ids[row.sources]  # [n]
    open_ = np.ones(len(where), dtype=bool)  # [n] not yet in a flat row
    found: list[Row] = []
    for leaf in leaves:
        on_path = row.ancestors[leaf][row.segment_ids]  # [T]
        mine = open_ & row.ancestors[leaf][where]  # [n]
        if not mine.any():
            continue
        open_ &= ~mine

        fields = {n: getattr(row, n)[mine] for n in ("targets", *CREDIT)}
        place = np.cumsum(on_path) - 1  # [T]
        path = row.input_ids[on_path]
        found.append(
            Row(f"{row.id}/{len(found)}", path, place[row.sources[mine]], **fields, tokens=1)
        )

    # All flat rows together count for what the tree counted for.
    share, rest = divmod(row.tokens, max(len(found), 1))
    return [
        replace(
            flat,
            tokens=max(share + (i < rest), 1),
            attempt_tokens=row.attempt_tokens if i == 0 else 0,
        )
        for i, flat in enumerate(found)
    ]


def common_length(one: np.ndarray, other: np.ndarray) -> int:
    """The length of the common beginning of two sequences of ids."""
    least = min(len(one), len(other))
    differ = one[:least] != other[:least]  # [least]
    at = int(differ.argmax()) if least else 0
    return at if least and differ[at] else least


def _tree(
    sequences: Sequence[np.ndarray],
) -> tuple[np.ndarray, tuple[Segment, ...], list[np.ndarray]]:
    """Ids and segments of the sequences' prefix tree, and the places of each sequence in it."""
    ids: list[np.ndarray] = []  # of each segment
    segments: list[Segment] = []
    runs: list[list[np.ndarray]] = [[] for _ in sequences]
    start = 0
    todo = [(list(range(len(sequences))), 0, -1)]  # (sequences that continue, depth, parent)
    while todo:
        members, depth, parent = todo.pop()

        # The next segment ends where the first of its sequences differs from the others.
        longest = max(members, key=lambda i: len(sequences[i]))
        stop = len(sequences[longest])
        for i in members:
            if i != longest:
                stop = min(stop, _agree(sequences[longest], sequences[i], depth))
        ids.append(sequences[longest][depth:stop])
        segments.append(Segment(start, start + stop - depth, parent))

        branches: dict[int, list[int]] = {}
        for i in members:
            runs[i].append(np.arange(start, start + min(stop, len(sequences[i])) - depth))
            if len(sequences[i]) > stop:
                branches.setdefault(int(sequences[i][stop]), []).append(i)
        # The stack returns the last entry first, so the first branch goes on it last.
        todo += [(b, stop, len(segments) - 1) for b in reversed(branches.values())]
        start += stop - depth
    return np.concatenate(ids), tuple(segments), [np.concatenate(run) for run in runs]


def _agree(longer: np.ndarray, other: np.ndarray, depth: int) -> int:
    """The place from `depth` on at which `other` first differs from `longer`.

    It is the end of `longer` where `other` is only shorter.
    """
    differ = longer[depth : len(other)] != other[depth:]  # [len(other) - depth]
    at = int(differ.argmax()) if differ.size else 0
    return depth + at if differ.size and differ[at] else len(longer)


def _joined(fields: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The scored tokens, those of one source and target joined where their credit allows it.

    A joined token has the place of the first of its tokens.
    """
    # Equal places become neighbours in `order`; the sort is stable, so the first comes first.
    most = int(fields["targets"].max(initial=0)) + 1
    keys = fields["sources"] * most + fields["targets"]  # [n]
    order = np.argsort(keys, kind="stable")  # [n]
    equal = keys[order[1:]] == keys[order[:-1]]  # [n - 1]
    if not equal.any():
        return fields
    if (equal[1:] & equal[:-1]).any():
        return _joined_one_by_one(fields)

    first = order[:-1][equal]  # [twice scored]
    second = order[1:][equal]  # [twice scored]
    rewards = fields["token_rewards"].copy()  # [n]
    logprobs = fields["old_logprobs"].copy()  # [n]
    weights = fields["weights"].copy()  # [n]
    both = (rewards[first] != 0) & (rewards[second] != 0)  # [twice scored]
    both |= (weights[first] != 0) & (weights[second] != 0)
    first = first[~both]
    second = second[~both]

    has_reward = rewards[second] != 0  # [joined]
    logprobs[first] = np.where(has_reward, logprobs[second], logprobs[first])
    rewards[first] = np.where(has_reward, rewards[second], rewards[first])
    weights[first] = np.where(weights[first] != 0, weights[first], weights[second])
    kept = np.ones(len(keys), dtype=bool)  # [n]
    kept[second] = False
    columns = dict(zip(CREDIT, (rewards, logprobs, weights), strict=True))
    columns |= {"sources": fields["sources"], "targets": fields["targets"]}
    return {name: values[kept] for name, values in columns.items()}


def _joined_one_by_one(fields: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`_joined` where three or more tokens have one source and target."""
    old = {name: values.tolist() for name, values in fields.items()}
    made: list[list[float]] = []  # [reward, old log-prob, weight]
    keys: list[tuple[int, int]] = []
    known: dict[tuple[int, int], list[int]] = {}  # the joined tokens of each source and target

    places = zip(old["sources"], old["targets"], strict=True)
    credit = zip(*(old[name] for name in CREDIT), strict=True)
    for key, (reward, logprob, weight) in zip(places, credit, strict=True):
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
    """The end of the needed ids of each segment; a segment with a needed child is needed whole."""
    rising = np.sort(sources)  # [n]
    before = np.searchsorted(rising, [segment.stop for segment in row.segments])  # [S]
    stops: list[int] = []
    for segment, count in zip(row.segments, before.tolist(), strict=True):
        last = int(rising[count - 1]) if count else -1
        stops.append(max(segment.start, last + 1))

    for at in reversed(range(len(stops))):
        parent = row.segments[at].parent
        if stops[at] > row.segments[at].start and parent >= 0:
            stops[parent] = row.segments[parent].stop
    return stops


def _segment_of(row: Row, places: np.ndarray) -> np.ndarray:
    """The segment in which each place of the row is."""
    starts = [segment.start for segment in row.segments]
    return np.searchsorted(starts, places, side="right") - 1


def _run_on(segments: list[Segment]) -> tuple[Segment, ...]:
    """The segments, with each only child made part of its parent.

    Segments are in depth-first order, so an only child directly follows its parent.
    """
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
