"""A key/value cache in which the column of a token is its position, for rows of any length.

In: a causal network, and token ids with the row and the position at which each is fed. Out: the
network's states or logits for these tokens.

A token that is fed at a position again overwrites the one before, and no query ever sees a column
after its own position. So a rejected guess needs no hole in the mask, and prompts need no padding
on the left. A sliding window is exact, because it counts positions and so do the columns. Buffers
are written in place and grow in blocks. `generation` and `draft_decoding` both decode with it.
"""

from __future__ import annotations

import functools
import inspect
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
"""Least number of columns by which a buffer grows."""
TOKENS_AT_ONCE = 2**17
"""Columns of all rows of one batch, at most."""
BYTES_AT_ONCE = 2**33
"""Memory of the cache of one batch, at most."""
BEGUN_AT_ONCE = 2**13
"""Tokens of one piece in which a batch begins, about: larger pieces fall out of a CPU's cache."""


# --- input ---


@functools.cache
def cache_argument(kind: type) -> str:
    """The name by which a kind of network takes a cache: transformers 5.24 renamed it."""
    names = inspect.signature(kind.forward).parameters  # type: ignore[attr-defined]
    return "cache" if "cache" in names else "past_key_values"


def table_of(sequences: Sequence[Sequence[int]]) -> tuple[torch.Tensor, np.ndarray]:
    """Ids int64 [R, T] and lengths [R] of sequences; shorter ones repeat their last token, whose
    copies are never read.

    Raises ValueError if there are no sequences, or if one of them is empty.
    """
    lengths = np.array([len(ids) for ids in sequences], dtype=np.int64)  # [R]
    if not len(lengths) or not lengths.min():
        raise ValueError(f"{len(lengths)} sequences to feed: none, or one of them is empty")

    # One array of all tokens and one gather: a loop over rows would be slow for large batches.
    flat = np.fromiter(itertools.chain.from_iterable(sequences), np.int64, int(lengths.sum()))
    starts = np.cumsum(lengths) - lengths  # [R]
    place = np.minimum(np.arange(lengths.max()), lengths[:, None] - 1)  # [R, T]
    return torch.from_numpy(flat[starts[:, None] + place]), lengths


def batches(network: Any, lengths: Sequence[int], copies: int = 1) -> list[list[int]]:
    """Groups of row numbers with similar lengths, longest first, each within the limits of a batch.

    `lengths` are the columns that each row will need, `copies` is how often each row occurs.
    """
    config = network.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    bytes_per_token = 8 * config.num_hidden_layers * heads * width  # keys and values in float32

    limit = max(min(TOKENS_AT_ONCE, BYTES_AT_ONCE // bytes_per_token), 1)
    return like_lengths(lengths, limit // copies)


# --- buffers of one layer ---


@dataclass
class _Place:
    """Where the tokens of a pass are written, and which part of the buffers its queries see."""

    rows: torch.Tensor  # [R, 1] slots
    columns: torch.Tensor  # [R, q]
    width: int  # columns that queries see


class _Layer(DynamicLayer):
    """Keys and values of one layer: [slots, heads, capacity + 1, size] each.

    The network calls `update`, which cannot be given further arguments. `place` is therefore set
    before each pass: a slice of slots when these rows begin, a _Place in all later passes. `rows`
    and `columns` are the first size of the buffers.

    Padding of a pass is written, too. It lies after the tokens of its row, where no query sees it
    and later tokens overwrite it. The last column is spare and never seen: it takes the padding
    that would lie outside the buffer.
    """

    place: _Place | slice | None = None
    used = 0  # columns that may hold tokens
    rows = 0
    columns = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores new keys and values [R, heads, q, size]; returns those that the queries may see,
        [R, heads, width, size] each."""
        if isinstance(self.place, _Place):
            return self._written(self.place, key_states, value_states)

        # The beginning of some rows: its queries see only the new keys and values themselves.
        if not self.is_initialized:
            self.keys = self._empty(key_states)
            self.values = self._empty(value_states)
            self.is_initialized = True
        states = (key_states, value_states)
        for buffer, new in zip(self.buffers(), states, strict=True):
            buffer[self.place, :, : new.shape[2]] = new
        return states

    def _written(
        self, place: _Place, key_states: torch.Tensor, value_states: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if place.width >= self.buffers()[0].shape[2]:
            capacity = place.width + max(BLOCK, place.width // 2)
            self.keys, self.values = (_grown(b, self.used, capacity) for b in self.buffers())
        self.used = max(self.used, place.width)

        seen = []
        for buffer, new in zip(self.buffers(), (key_states, value_states), strict=True):
            columns = place.columns.clamp(max=buffer.shape[2] - 1)
            buffer[place.rows, :, columns] = new.transpose(1, 2)
            seen.append(buffer[: len(new), :, : place.width])
        return seen[0], seen[1]

    def buffers(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values. Raises RuntimeError before the first pass."""
        if self.keys is None or self.values is None:
            raise RuntimeError("a cache is read before anything was fed")
        return self.keys, self.values

    def _empty(self, states: torch.Tensor) -> torch.Tensor:
        _, heads, _, size = states.shape
        self.used = self.columns
        return states.new_zeros(self.rows, heads, self.columns + BLOCK + 1, size)

    def get_seq_length(self) -> int:
        """Asked by the network when it makes masks and positions of its own."""
        return self.used if isinstance(self.place, _Place) else 0

    def repeat(self, copies: int) -> None:
        self.keys, self.values = (b.repeat_interleave(copies, 0) for b in self.buffers())

    def move(self, source: torch.Tensor, target: torch.Tensor) -> None:
        for buffer in self.buffers():
            buffer[target, :, : self.used] = buffer[source, :, : self.used]


def _grown(states: torch.Tensor, used: int, capacity: int) -> torch.Tensor:
    """The first `used` columns in a buffer of `capacity` columns and a spare one.

    New columns are zeros: a hidden key is multiplied by probability 0, and 0 * NaN is NaN.
    """
    rows, heads, _, size = states.shape
    grown = states.new_zeros(rows, heads, capacity + 1, size)
    grown[:, :, :used] = states[:, :, :used]
    return grown


# --- rows of all layers ---


class Slots:
    """One batch of rows in the cache of a network without a `slots_obstacle`.

    Rows are in slots 0..R-1. `begin` feeds every row from position 0 on, and `feed` feeds tokens at
    chosen positions. Both return states, of which `logits` makes float32 logits.
    """

    def __init__(self, network: Any) -> None:
        self.network = network
        self.form = _form_of(network)
        config = network.config.get_text_config()
        self.kinds = layer_kinds(config)
        self.window = window_of(config)
        self.additive = config._attn_implementation == "eager"
        self.device = next(network.parameters()).device
        self.layers = [_Layer() for _ in DynamicCache(config=network.config).layers]
        self.cache = Cache(layers=list(self.layers))

    def begin(
        self, ids: torch.Tensor, lengths: np.ndarray, rows: np.ndarray, columns: np.ndarray
    ) -> torch.Tensor:
        """Feeds `ids` [R, T], of which `lengths` [R] are tokens, from position 0 on.

        Returns the states [M, size] at `columns` [M] of `rows` [M]; `rows` must not fall.
        """
        ids = ids.to(self.device)
        for layer in self.layers:
            layer.rows, layer.columns = ids.shape

        # Rows are padded on the right, so plain causal attention needs no mask.
        states_of_pieces = []
        start = 0
        while start < len(ids):
            stop = start + max(1, BEGUN_AT_ONCE // int(lengths[start:].max()))
            width = int(lengths[start:stop].max())
            for layer in self.layers:
                layer.place = slice(start, stop)

            # States are kept from the first column that is wanted in this piece.
            mine = (rows >= start) & (rows < stop)
            first = int(columns[mine].min(initial=width - 1))
            positions = torch.arange(width, device=self.device)[None]  # [1, width]
            states = self._run(ids[start:stop, :width], positions, None, width - first)

            row = rows[mine] - start
            column = columns[mine] - first
            states_of_pieces.append(states[self.tensor(row), self.tensor(column)])
            start = stop
        return torch.cat(states_of_pieces)

    def feed(
        self,
        ids: torch.Tensor,
        starts: torch.Tensor,
        width: int,
        counts: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Feeds `ids` [R, q] of the slots 0..R-1, the first of each at position `starts` [R].

        `width` is larger than every position fed. `counts` [R] is how many ids of a row are tokens
        (default: all); the others have no effect. Returns the states [R, q, size].
        """
        height, q = ids.shape
        step = torch.arange(q, device=self.device)  # [q]
        columns = starts[:, None] + step  # [R, q]
        positions = columns
        if counts is not None:
            # Padding is written after the tokens but stays within the positions of the model.
            positions = torch.minimum(positions, (starts + counts - 1)[:, None])

        slots = torch.arange(height, device=self.device)  # [R]
        place = _Place(slots[:, None], columns, width)
        for layer in self.layers:
            layer.place = place
        return self._run(ids.to(self.device), positions, self._masks(positions, width), q)

    def tensor(self, values: np.ndarray) -> torch.Tensor:
        """An array as a tensor on the network's device."""
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Float32 logits [N, V] of states [N, size]."""
        if self.form is None:  # the states are logits already
            return states.float()
        return self.form.logits(head_output(self.network.get_output_embeddings(), states))

    def repeat(self, copies: int) -> None:
        """Makes `copies` adjacent rows of every row."""
        for layer in self.layers:
            layer.repeat(copies)

    def keep(self, going: torch.Tensor) -> torch.Tensor:
        """Drops the rows that are not `going` (bool [R]): rows from the end fill their slots.

        Returns for each slot that is left the slot from which its row came, [kept].
        """
        count = int(going.sum())
        order = torch.arange(count, device=going.device)  # [kept]
        gaps = (~going[:count]).nonzero()[:, 0]
        if len(gaps):
            order[gaps] = going[count:].nonzero()[:, 0] + count
            for layer in self.layers:
                layer.move(order[gaps], gaps)
        return order

    def _run(self, ids: torch.Tensor, positions: torch.Tensor, mask: Any, keep: int) -> Any:
        """States [R, keep, size] of the last `keep` tokens; logits if the network has no `form`."""
        arguments: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": positions,
            "use_cache": True,
        }
        called = self.network if self.form is None else self.network.get_decoder()
        arguments[cache_argument(type(called))] = self.cache
        if self.form is None:
            return called(**arguments, logits_to_keep=keep).logits
        return called(**arguments).last_hidden_state[:, -keep:]

    def _masks(self, positions: torch.Tensor, width: int) -> Any:
        """Which columns each query sees, [R, 1, q, width]: those up to its own position, within the
        window of its layer. A dict by kind of layer if there are several kinds."""
        columns = torch.arange(width, device=self.device)  # [width]
        own = positions[:, None, :, None]  # [R, 1, q, 1]
        seen = columns <= own
        masks = {}
        for kind in self.kinds:
            mask = seen
            if kind == WINDOWED and self.window is not None:
                mask = seen & (columns > own - self.window)
            if self.additive:  # eager attention would add a boolean mask as a number
                dtype = self.network.dtype
                low = torch.finfo(dtype).min
                mask = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, low)
            masks[kind] = mask
        return masks if len(masks) > 1 else masks[self.kinds[0]]


# --- whether a network can be used with it ---

# Answers are kept per network, because each takes forward passes.
_OBSTACLES: WeakKeyDictionary[Any, str | None] = WeakKeyDictionary()
_FORMS: WeakKeyDictionary[Any, HeadForm | None] = WeakKeyDictionary()


def slots_obstacle(network: Any) -> str | None:
    """Why `Slots` cannot be used with this network, in words; None if it can. Tried once.

    First its configuration is read: attention that takes no mask, and layers other than attention
    with or without a window, are obstacles. Then a trial compares every operation of `Slots` with
    plain forward passes.
    """
    if network not in _OBSTACLES:
        _OBSTACLES[network] = _obstacle(network)
    return _OBSTACLES[network]


def _form_of(network: Any) -> HeadForm | None:
    if network not in _FORMS:
        _FORMS[network] = head_form(network)
    return _FORMS[network]


def _obstacle(network: Any) -> str | None:
    found = mask_obstacle(network)
    if found is not None:
        return found

    known = {DynamicLayer, DynamicSlidingWindowLayer}
    kinds = {type(layer) for layer in DynamicCache(config=network.config).layers}
    strange = kinds - known
    if not kinds or strange:
        return f"its cache has layers of {', '.join(sorted(k.__name__ for k in strange))}"

    try:
        with evaluating(network):
            return _trial_obstacle(network)
    except (TypeError, ValueError, KeyError, RuntimeError, IndexError, AttributeError) as error:
        return f"a trial failed ({type(error).__name__}: {error})"


@torch.no_grad()
def _trial_obstacle(network: Any) -> str | None:
    """Feeds two rows in pieces, overwrites wrong guesses, and repeats and moves the rows.

    The logits must be those of plain passes. Rounding makes them differ a little; plain passes over
    rows that still contain the guesses show how much a mistake would change them.
    """
    device = next(network.parameters()).device
    vocabulary = len(network.get_input_embeddings().weight)
    ids = [(7 * i * i + 3 * i + 1) % vocabulary for i in range(24)]
    one = ids[:9]
    other = ids[9:15]
    wrong = ids[15:18]

    with torch.autocast(device.type, enabled=False):
        slots = Slots(network)
        slots.begin(*table_of([one[:5], other[:3]]), np.array([0, 1]), np.array([4, 2]))
        starts = torch.tensor([5, 3], device=device)
        slots.feed(torch.tensor([wrong, wrong]), starts, 8)
        slots.repeat(2)  # slots 0 and 1 hold `one`, 2 and 3 `other`
        slots.keep(torch.tensor([False, True, False, True], device=device))  # now `other`, `one`

        rest = table_of([other[3:], one[5:]])[0]  # 3 and 4 tokens
        counts = torch.tensor([3, 4], device=device)
        starts = torch.tensor([3, 5], device=device)
        states = slots.feed(rest, starts, 9, counts)
        found = slots.logits(torch.stack([states[0, 2], states[1, 3]]))  # [2, V]

        plain = _last_logits(network, [other, one])
        leaking = _last_logits(network, [other[:3] + wrong + other[3:], one[:5] + wrong + one[5:]])

    difference = max(float((a - b).abs().max()) for a, b in zip(found, plain, strict=True))
    leak = max(float((a - b).abs().max()) for a, b in zip(leaking, plain, strict=True))
    largest = max(float(row.abs().max()) for row in plain)
    share, rounding = (0.01, 1e-6) if network.dtype == torch.float32 else (0.1, 1e-2)
    if difference <= max(share * leak, rounding * largest):
        return None
    return f"logits differ by {difference:.1e} between one pass and several"


def _last_logits(network: Any, rows: list[list[int]]) -> list[torch.Tensor]:
    """The logits [V] after each row, by a pass of its own without a cache."""
    device = next(network.parameters()).device
    return [network(input_ids=torch.tensor([row], device=device)).logits[0, -1] for row in rows]
