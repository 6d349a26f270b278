"""A key/value cache in which a token's column is its position: rows of any length side by side.

In: a causal network and rows of token ids. Out: its states or logits for tokens fed at any position
of any row. What is fed again at a position is written over; no query ever sees a column behind its
own position, so rejected guesses need no hole, prompts no padding on the left, and a sliding window
is exact, since columns count as positions do. Buffers are written in place and grow in blocks.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from rlmec.data.step_plan import like_lengths
from rlmec.lm.chunked_head import (
    HeadForm,
    evaluating,
    head_form,
    head_output,
)
from rlmec.lm.tree_attention import (
    WINDOWED,
    layer_kinds,
    mask_obstacle,
    window_of,
)

BLOCK = 64
"""Columns by which a buffer grows at least."""
TOKENS_AT_ONCE, BYTES_AT_ONCE = 2**17, 2**33
"""Limits of one batch: columns of all its rows, and what its cache may take."""
BEGUN_AT_ONCE = 2**13
"""Tokens of the pieces in which a batch begins: larger ones fall out of a processor's cache."""


def table_of(sequences: Sequence[Sequence[int]]) -> tuple[torch.Tensor, np.ndarray]:
    """Ids int64 [R, T] and lengths [R]; a shorter row repeats its last token, which nobody reads.

    No sequences, or an empty one, raise ValueError.
    """
    lengths = np.array([len(ids) for ids in sequences], dtype=np.int64)  # [R]
    if not len(lengths) or not lengths.min():
        raise ValueError(f"{len(lengths)} sequences to feed: none, or one of them is empty")
    flat = np.fromiter(itertools.chain.from_iterable(sequences), np.int64, int(lengths.sum()))
    starts = np.cumsum(lengths) - lengths  # [R]
    place = np.minimum(np.arange(lengths.max()), lengths[:, None] - 1)  # [R, T]
    return torch.from_numpy(flat[starts[:, None] + place]), lengths


def batches(network: Any, lengths: Sequence[int], copies: int = 1) -> list[list[int]]:
    """Rows of like length, by falling length, in runs that keep within the limits of one batch.

    `lengths` are the columns each row will need, `copies` how often it is there.
    """
    config = network.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    bytes_a_token = 8 * config.num_hidden_layers * heads * width  # keys and values in float32
    limit = max(min(TOKENS_AT_ONCE, BYTES_AT_ONCE // bytes_a_token), 1)
    return like_lengths(lengths, limit // copies)


@dataclass
class _Place:
    """Where the tokens of a pass are written, and what of the buffers its queries are shown."""

    rows: torch.Tensor  # [R, 1] slots
    columns: torch.Tensor  # [R, q]
    width: int
    every: bool  # rows are slots 0..R-1


class _Layer(DynamicLayer):
    """Keys and values [slots, heads, capacity, size].

    What is no token is written behind its row's tokens, where it is written over before it is seen;
    the last column, which is never shown, takes what would stand behind the buffer.
    """

    place: _Place | slice | None = None
    used = rows = columns = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        place, pair = self.place, (key_states, value_states)
        if not isinstance(place, _Place):  # the beginning of some rows
            if not self.is_initialized:
                self.keys, self.values = (self._empty(states) for states in pair)
                self.is_initialized = True
            for buffer, states in zip(self.buffers(), pair, strict=True):
                buffer[place, :, : states.shape[2]] = states
            return pair
        if place.width >= self.buffers()[0].shape[2]:
            capacity = place.width + max(BLOCK, place.width // 2)
            self.keys, self.values = (_grown(b, self.used, capacity) for b in self.buffers())
        self.used = max(self.used, place.width)
        shown = []
        for buffer, states in zip(self.buffers(), pair, strict=True):
            columns = place.columns.clamp(max=buffer.shape[2] - 1)
            buffer[place.rows, :, columns] = states.transpose(1, 2)
            if place.every:
                shown.append(buffer[: len(states), :, : place.width])
            else:
                shown.append(buffer[:, :, : place.width].index_select(0, place.rows[:, 0]))
        return shown[0], shown[1]

    def buffers(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self.keys is None or self.values is None:
            raise RuntimeError("a cache is read before anything was fed")
        return self.keys, self.values

    def _empty(self, states: torch.Tensor) -> torch.Tensor:
        _, heads, _, size = states.shape
        self.used = self.columns
        return states.new_zeros(self.rows, heads, self.columns + BLOCK + 1, size)

    def get_seq_length(self) -> int:
        return self.used if isinstance(self.place, _Place) else 0

    def repeat(self, copies: int) -> None:
        self.keys, self.values = (b.repeat_interleave(copies, 0) for b in self.buffers())

    def move(self, source: torch.Tensor, target: torch.Tensor) -> None:
        for buffer in self.buffers():
            buffer[target, :, : self.used] = buffer[source, :, : self.used]


def _grown(states: torch.Tensor, used: int, capacity: int) -> torch.Tensor:
    """The first `used` columns in a buffer of `capacity` and a spare one; zeros are never NaN."""
    rows, heads, _, size = states.shape
    out = states.new_zeros(rows, heads, capacity + 1, size)
    out[:, :, :used] = states[:, :, :used]
    return out


class Slots:
    """One batch of rows over a network, which must be free of `slots_obstacle`.

    Rows live in slots 0..R-1. `begin` feeds every row from its start, `feed` some tokens at chosen
    positions. Of the states that they give `logits` makes float32 logits.
    """

    def __init__(self, network: Any) -> None:
        self.network = network
        self.form = _form_of(network)
        config = network.config.get_text_config()
        self.kinds, self.window = layer_kinds(config), window_of(config)
        self.additive = config._attn_implementation == "eager"
        self.device = next(network.parameters()).device
        self.layers = [_Layer() for _ in DynamicCache(config=network.config).layers]
        self.cache = Cache(layers=list(self.layers))

    def begin(
        self, ids: torch.Tensor, lengths: np.ndarray, rows: np.ndarray, columns: np.ndarray
    ) -> torch.Tensor:
        """[R, T] ids, of which `lengths` [R] are tokens, from position 0 on; the states [M, size]
        in `columns` [M] of `rows` [M], which do not fall.

        Causal attention over rows that are shorter than T on the right needs no mask.
        """
        ids, found, start = ids.to(self.device), [], 0
        for layer in self.layers:
            layer.rows, layer.columns = ids.shape
        while start < len(ids):
            stop = start + max(1, BEGUN_AT_ONCE // int(lengths[start:].max()))
            width = int(lengths[start:stop].max())
            mine = (rows >= start) & (rows < stop)
            first = int(columns[mine].min(initial=width - 1))  # nobody asks about columns before
            for layer in self.layers:
                layer.place = slice(start, stop)
            positions = torch.arange(width, device=self.device)[None]  # [1, width]
            states = self._run(ids[start:stop, :width], positions, None, width - first)
            row, column = rows[mine] - start, columns[mine] - first
            found.append(states[self.tensor(row), self.tensor(column)])
            start = stop
        return torch.cat(found)

    def feed(
        self,
        ids: torch.Tensor,
        starts: torch.Tensor,
        width: int,
        rows: torch.Tensor | None = None,
        counts: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[R, q] ids, the first at position `starts` [R]; states [R, q, size].

        `width` is above every position fed; `rows` are the slots (default: the first R); `counts`
        [R] how many of a row's ids are tokens (default: all), the rest is without effect.
        """
        height, q = ids.shape
        step = torch.arange(q, device=self.device)  # [q]
        positions = columns = starts[:, None] + step  # [R, q]
        if counts is not None:
            positions = torch.minimum(positions, (starts + counts - 1)[:, None])
        every = rows is None
        slots = torch.arange(height, device=self.device) if rows is None else rows
        place = _Place(slots[:, None], columns, width, every)
        for layer in self.layers:
            layer.place = place
        return self._run(ids.to(self.device), positions, self._masks(positions, width), q)

    def tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Float32 logits [N, V] of states [N, size]."""
        if self.form is None:
            return states.float()
        return self.form.logits(head_output(self.network.get_output_embeddings(), states))

    def repeat(self, copies: int) -> None:
        """Every row `copies` times, side by side."""
        for layer in self.layers:
            layer.repeat(copies)

    def keep(self, going: torch.Tensor) -> torch.Tensor:
        """Fills the slots of rows that are not `going` (bool [R]) with rows from the end; the slot
        that each row left came from [kept]."""
        count = int(going.sum())
        order = torch.arange(count, device=going.device)  # [kept]
        gaps = (~going[:count]).nonzero()[:, 0]
        if len(gaps):
            order[gaps] = going[count:].nonzero()[:, 0] + count
            for layer in self.layers:
                layer.move(order[gaps], gaps)
        return order

    def _run(self, ids: torch.Tensor, positions: torch.Tensor, mask: Any, keep: int) -> Any:
        arguments: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": positions,
            "past_key_values": self.cache,
            "use_cache": True,
        }
        if self.form is not None:
            return self.network.get_decoder()(**arguments).last_hidden_state[:, -keep:]
        return self.network(**arguments, logits_to_keep=keep).logits

    def _masks(self, positions: torch.Tensor, width: int) -> Any:
        """What a query may see, [R, 1, q, width]: columns up to its position, within its window."""
        columns = torch.arange(width, device=self.device)  # [width]
        own = positions[:, None, :, None]  # [R, 1, q, 1]
        seen = columns <= own
        masks = {}
        for kind in self.kinds:
            mask = seen
            if kind == WINDOWED and self.window is not None:
                mask = seen & (columns > own - self.window)
            if self.additive:
                dtype = self.network.dtype
                low = torch.finfo(dtype).min
                mask = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, low)
            masks[kind] = mask
        return masks if len(masks) > 1 else masks[self.kinds[0]]


_OBSTACLES: WeakKeyDictionary[Any, str | None] = WeakKeyDictionary()
_FORMS: WeakKeyDictionary[Any, HeadForm | None] = WeakKeyDictionary()


def slots_obstacle(network: Any) -> str | None:
    """Why `Slots` cannot be used with this network, in words; None where it can. Asked of it once.

    First what its configuration says (attention that takes no mask, layers other than attention
    with or without a window), then a trial of every operation against plain forward passes.
    """
    if network not in _OBSTACLES:
        _OBSTACLES[network] = _obstacle(network)
    return _OBSTACLES[network]


def _form_of(network: Any) -> HeadForm | None:
    if network not in _FORMS:
        _FORMS[network] = head_form(network)
    return _FORMS[network]


def _obstacle(network: Any) -> str | None:
    if (found := mask_obstacle(network)) is not None:
        return found
    plain = {DynamicLayer, DynamicSlidingWindowLayer}
    kinds = {type(layer) for layer in DynamicCache(config=network.config).layers}
    if not kinds or (strange := kinds - plain):
        return f"its cache has layers of {', '.join(sorted(k.__name__ for k in strange))}"
    try:
        with evaluating(network):
            return _trial(network)
    except (TypeError, ValueError, KeyError, RuntimeError, IndexError, AttributeError) as error:
        return f"a trial failed ({type(error).__name__}: {error})"


@torch.no_grad()
def _trial(network: Any) -> str | None:
    """Two rows fed in pieces, with guesses that are written over, repeated and moved, must give the
    logits of plain passes: nearer by far than passes that saw the guesses."""
    device, vocabulary = next(network.parameters()).device, network.get_input_embeddings().weight
    ids = [(7 * i * i + 3 * i + 1) % len(vocabulary) for i in range(24)]
    one, other, wrong = ids[:9], ids[9:15], ids[15:18]
    with torch.autocast(device.type, enabled=False):
        slots = Slots(network)
        ends = np.array([0, 1]), np.array([4, 2])
        slots.begin(*table_of([one[:5], other[:3]]), *ends)
        starts = torch.tensor([5, 3], device=device)
        slots.feed(torch.tensor([wrong, wrong]), starts, 8)
        slots.repeat(2)  # slots 0 and 1 hold the one, 2 and 3 the other
        slots.keep(torch.tensor([False, True, False, True], device=device))  # the other, the one
        rest = table_of([other[3:], one[5:]])[0]  # 3 and 4 tokens
        counts = torch.tensor([3, 4], device=device)
        starts = torch.tensor([3, 5], device=device)
        states = slots.feed(rest, starts, 9, torch.tensor([0, 1], device=device), counts)
        found = slots.logits(torch.stack([states[0, 2], states[1, 3]]))  # [2, V]
        kept, leaked = [
            [network(input_ids=torch.tensor([row], device=device)).logits[0, -1] for row in rows]
            for rows in ((other, one), (other[:3] + wrong + other[3:], one[:5] + wrong + one[5:]))
        ]
    off = max(float((a - b).abs().max()) for a, b in zip(found, kept, strict=True))
    leak = max(float((a - b).abs().max()) for a, b in zip(leaked, kept, strict=True))
    share, rounding = (0.01, 1e-6) if network.dtype == torch.float32 else (0.1, 1e-2)
    if off <= max(share * leak, rounding * max(float(row.abs().max()) for row in kept)):
        return None
    return f"logits differ by {off:.1e} between one pass and several"
