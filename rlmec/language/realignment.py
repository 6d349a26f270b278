"""Where a text that is being said stands in its draft: the last row of a Levenshtein table.

In: drafts of token ids, and the tokens said so far, a few at a time. Out: for each row the place in
its draft after which the rest is most likely to follow. All rows of a batch move at once (numpy).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NOTHING = -1
"""Stands behind the end of a draft; no token has this id."""


class Realignment:
    """`pointer` [R]: the draft goes on at this index. `run` [R]: how many of the tokens said last
    were the draft's own, one after the other."""

    def __init__(self, drafts: Sequence[Sequence[int]]) -> None:
        self.lengths = np.array([len(d) for d in drafts], dtype=np.int64)  # [R]
        self.width = max(int(self.lengths.max()), 1)
        self.drafts = np.full((len(drafts), self.width), NOTHING, dtype=np.int64)  # [R, N]
        for row, draft in zip(self.drafts, drafts, strict=True):
            row[: len(draft)] = draft
        self.places = np.arange(self.width + 1, dtype=np.int32)  # [N + 1]
        self.table = np.tile(self.places, (len(drafts), 1))  # [R, N + 1], nothing said yet
        self.pointer = np.zeros(len(drafts), dtype=np.int64)
        self.run = np.zeros(len(drafts), dtype=np.int64)

    def copied(self, rows: np.ndarray, counts: np.ndarray) -> None:
        """Rows that have said the first `counts` tokens of their drafts and nothing else."""
        self.table[rows] = np.abs(self.places - counts[:, None]).astype(np.int32)
        self.pointer[rows], self.run[rows] = counts, counts

    def said(self, rows: np.ndarray, tokens: np.ndarray, counts: np.ndarray) -> None:
        """`rows` [S] went on with the first `counts` [S], at least 1, of `tokens` [S, m].

        The pointer goes to where the draft's beginning is fewest edits from what was said, to the
        last of several such places: a token is taken for changed rather than for put in.
        """
        drafts, table = self.drafts[rows], self.table[rows]
        for at in range(int(counts.max())):
            table = self._next(table, drafts, tokens[:, at], counts > at)
        self.table[rows] = table
        last = tokens[np.arange(len(rows)), counts - 1]  # [S]
        behind = self.places > self.lengths[rows][:, None]  # [S, N + 1]
        edits = np.where(behind, np.iinfo(np.int32).max, table)
        found = self.width - edits[:, ::-1].argmin(1)  # [S]
        own = (found > 0) & (drafts[np.arange(len(rows)), np.maximum(found, 1) - 1] == last)
        follows = found == self.pointer[rows] + counts
        self.run[rows] = np.where(own, np.where(follows, self.run[rows] + counts, 1), 0)
        self.pointer[rows] = found

    def _next(
        self, table: np.ndarray, drafts: np.ndarray, token: np.ndarray, on: np.ndarray
    ) -> np.ndarray:
        """The row of the table after one more token, where `on`."""
        new = np.empty_like(table)
        new[:, 0] = table[:, 0] + 1
        np.minimum(table[:, 1:] + 1, table[:, :-1] + (drafts != token[:, None]), out=new[:, 1:])
        new -= self.places
        np.minimum.accumulate(new, axis=1, out=new)
        new += self.places
        return new if on.all() else np.where(on[:, None], new, table)
