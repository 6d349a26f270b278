"""Batches of tensors from rows: the only place that pads.

In: the rows of one micro-batch, and the counts of the whole optimizer step. Out: padded tensors
that carry these counts, so that the loss does not depend on how the step was cut. No disk, no
model.

Departs from the paper: the divisors N_R and N_w are counted over the optimizer step, not over a
micro-batch (docs/method.md, step 7).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from rlmec.data.row import (
    CREDIT,
    NO_SIZES,
    Row,
    StepSizes,
)


def step_normalizers(rows_of_step: Sequence[Row]) -> tuple[float, float]:
    """(N_R, N_w): an optimizer step's tokens with a reward and with a weight, each at least 1.

    `rows_of_step` are all rows of the step, over every micro-batch and rank. Source:
    docs/method.md, step 7.
    """
    rewarded = sum(int(np.count_nonzero(row.token_rewards)) for row in rows_of_step)
    weighted = sum(int(np.count_nonzero(row.weights)) for row in rows_of_step)
    return float(max(rewarded, 1)), float(max(weighted, 1))


def collate(
    rows: Sequence[Row],
    pad_id: int,
    policy_normalizer: float,
    imitation_normalizer: float,
    index: int = 0,
    sizes: StepSizes = NO_SIZES,
) -> dict[str, torch.Tensor]:
    """One micro-batch of B rows, in order, padded on the right to T ids, with N scored tokens.

    - `input_ids`, `attention_mask` (1 = real), `position_ids`: int64 [B, T];
    - `sources` (flat places b * T + t), `targets`, `row_ids` (b): int64 [N];
    - `token_rewards`, `old_logprobs`, `weights`: float32 [N];
    - `policy_normalizer` (N_R), `imitation_normalizer` (N_w), `attempt_normalizer` and
      `row_normalizer` (of `sizes`): float32, 0-d;
    - `index`, the optimizer step: int64, 0-d;
    - only if a row is a tree: `segments` int64 [B, T], and `ancestors` bool [B, S, S], True at
      (s, a) where a is s or an ancestor of s. The last segment is that of padding and has none.

    Without rows, the batch is a filler of two pad tokens that are attended to and not scored: a
    forward pass over it is finite, and its loss and gradients are 0. Raises ValueError for a
    negative `pad_id`.
    """
    if pad_id < 0:
        raise ValueError(f"pad_id {pad_id} is not a token of any vocabulary")
    height = max(len(rows), 1)
    width = max((len(row.input_ids) for row in rows), default=2)

    counts = {"policy": policy_normalizer, "imitation": imitation_normalizer, **sizes._asdict()}
    batch = {
        "input_ids": torch.full((height, width), pad_id, dtype=torch.int64),  # [B, T]
        "attention_mask": torch.zeros(height, width, dtype=torch.int64),  # [B, T]
        "position_ids": torch.zeros(height, width, dtype=torch.int64),  # [B, T]
        **_scored(rows, width),
        **{f"{n}_normalizer": torch.tensor(v, dtype=torch.float32) for n, v in counts.items()},
        "index": torch.tensor(index, dtype=torch.int64),  # []
    }
    if not rows:
        batch["attention_mask"][:] = 1

    for at, row in enumerate(rows):
        end = len(row.input_ids)
        batch["input_ids"][at, :end] = torch.from_numpy(row.input_ids)
        batch["attention_mask"][at, :end] = 1
        batch["position_ids"][at, :end] = torch.from_numpy(row.position_ids)
    if not all(row.is_flat for row in rows):
        batch |= _segments(rows, width)
    return batch


def _scored(rows: Sequence[Row], width: int) -> dict[str, torch.Tensor]:
    """What is known of the scored tokens of all rows, [N] each."""
    none = np.zeros(0)  # without rows there is nothing else to concatenate
    sources = [row.sources + at * width for at, row in enumerate(rows)]
    row_ids = [np.full(row.targets.size, at) for at, row in enumerate(rows)]
    places = {"sources": sources, "row_ids": row_ids}
    out = {name: np.concatenate([none, *of]).astype(np.int64) for name, of in places.items()}
    for name, kind in {"targets": np.int64, **dict.fromkeys(CREDIT, np.float32)}.items():
        out[name] = np.concatenate([none, *(getattr(row, name) for row in rows)]).astype(kind)
    return {name: torch.from_numpy(values) for name, values in out.items()}


def _segments(rows: Sequence[Row], width: int) -> dict[str, torch.Tensor]:
    """`segments` and `ancestors` of a batch with trees (see `collate`)."""
    most = max(len(row.segments) for row in rows)
    segments = torch.full((len(rows), width), most, dtype=torch.int64)  # [B, T]
    ancestors = torch.zeros(len(rows), most + 1, most + 1, dtype=torch.bool)  # [B, S, S]
    for at, row in enumerate(rows):
        segments[at, : len(row.input_ids)] = torch.from_numpy(row.segment_ids)
        count = len(row.segments)
        ancestors[at, :count, :count] = torch.from_numpy(row.ancestors)
    return {"segments": segments, "ancestors": ancestors}


def pad_left(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts padded on the left: `input_ids` and `attention_mask` (1 = real), int64 [B, T].

    Raises ValueError if there are no sequences or one of them is empty.
    """
    if not sequences or not all(len(ids) for ids in sequences):
        raise ValueError(f"{len(sequences)} sequences to pad: there must be one, and none empty")
    width = max(len(ids) for ids in sequences)
    input_ids = torch.full((len(sequences), width), pad_id, dtype=torch.int64)  # [B, T]
    attention_mask = torch.zeros_like(input_ids)  # [B, T]
    for at, ids in enumerate(sequences):
        input_ids[at, width - len(ids) :] = torch.tensor(list(ids), dtype=torch.int64)
        attention_mask[at, width - len(ids) :] = 1
    return input_ids, attention_mask
