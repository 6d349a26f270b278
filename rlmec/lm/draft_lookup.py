"""Earlier occurrences of the last tokens of a text: places from which the text may go on.

In: one source of token ids per row (a draft, or the text itself), and the last tokens of each text.
Out: the place in each source that the longest copy of these last tokens precedes.
"""

from __future__ import annotations

import numpy as np


def longest_match(
    sources: np.ndarray, endings: np.ndarray, stops: np.ndarray, near: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A place of the longest match in each source, [S], and the length of the match, [S].

    `sources` [S, N] and `endings` [S, n] hold token ids; the last token of a text is in the last
    column. Place p of a source is before its token p. A match of length k at p means that the k
    tokens before p are the last k of the text. Only places below `stops` [S] count, so that a token
    follows. Of matches of equal length the one nearest to `near` [S] is taken, of two equally near
    ones the later. Without a match the length is 0 and the place is the one in `near`.
    """
    row, at = np.nonzero(sources == endings[:, -1:])  # [M] each, where the last token occurs
    inside = at + 1 < stops[row]
    row = row[inside]
    at = at[inside]

    back = np.arange(endings.shape[1])
    index = at[:, None] - back  # [M, n]
    same = (sources[row[:, None], np.maximum(index, 0)] == endings[row, ::-1]) & (index >= 0)
    length = np.cumprod(same, axis=1).sum(1)  # [M]

    # Sorted so that the best match of a row is its first one.
    place = at + 1
    order = np.lexsort((-place, np.abs(place - near[row]), -length, row))
    found, first = np.unique(row[order], return_index=True)
    best = order[first]
    places = near.copy()
    lengths = np.zeros_like(near)
    places[found] = place[best]
    lengths[found] = length[best]
    return places, lengths
