"""Log-probabilities of chosen tokens, and the one way in which sequences are scored.

In: a causal network, and rows (`data.row.Row`) or the batch tensors that `data.collate` makes of
them; both say which hidden state predicts which scored token. Out: the float32 log-probability
(nats) of every scored token, in the order of the rows.

`TokenScorer` is the forward pass that training and scoring share. Hidden states are selected before
the head, so prompts, padding, and tokens without credit never reach the vocabulary. `score_rows`
scores any number of rows without gradients and computes a prefix that neighbouring rows share only
once. `sharing_obstacle` finds out whether a network computes rows with shared prefixes correctly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from rlmec.data.collate import collate
from rlmec.data.prefix_tree import common_length, merge
from rlmec.data.row import Row
from rlmec.data.step_plan import like_lengths
from rlmec.lm.chunked_head import (
    entropy,
    evaluating,
    head_entropy,
    head_form,
    head_nll,
)
from rlmec.lm.tree_attention import attention_arguments, mask_obstacle
from rlmec.runtime import signals
from rlmec.runtime.display import within

COMPOSED_UP_TO = 256
"""Tokens of a row up to which attention on a CPU in bfloat16 is composed."""


class TokenScorer(nn.Module):
    """A causal network whose forward pass gives the log-probabilities of a batch's scored tokens.

    `form` describes how the network turns the output of its head into logits. It is None where that
    is more than a scale or a soft cap; then the network computes the logits itself. `sharing` keeps
    the answer of `shares_prefixes`, and is None before the first call.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.form = head_form(network)
        self.sharing: bool | None = None

    def forward(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Log-probabilities (nats) of the N scored tokens of a collated batch: float32 [N]."""
        targets = batch["targets"]  # [N]
        states = self._scored_states(batch)  # [N, D] or [N, V]

        if self.form is None:
            return -F.cross_entropy(states.float(), targets, reduction="none")
        return -head_nll(self.network.get_output_embeddings(), states, targets, self.form)

    @torch.no_grad()
    def entropies(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Entropy (nats) of the distribution that predicts each scored token: float32 [N]."""
        states = self._scored_states(batch)  # [N, D] or [N, V]

        if self.form is None:
            return entropy(states)
        return head_entropy(self.network.get_output_embeddings(), states, self.form)

    def shares_prefixes(self) -> bool:
        """Whether rows may share prefixes in scoring, where dropout is off. Tried once."""
        if self.sharing is None:
            self.sharing = sharing_obstacle(self, training=False) is None
        return self.sharing

    def _scored_states(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Hidden states [N, D] that predict the scored tokens; logits [N, V] if `form` is None."""
        arguments = {
            "input_ids": batch["input_ids"],
            "use_cache": False,
            **attention_arguments(self.network, batch),
        }
        with self._attention(batch["input_ids"]):
            if self.form is None:
                logits = self.network(**arguments).logits  # [B, T, V]
                return logits.flatten(0, 1)[batch["sources"]]

            hidden = self.network.get_decoder()(**arguments).last_hidden_state  # [B, T, D]
            return hidden.flatten(0, 1).index_select(0, batch["sources"])

    def _attention(self, ids: torch.Tensor) -> AbstractContextManager[Any]:
        """The kernel of attention for ids [B, T]: PyTorch's choice, but composed for short rows on
        a CPU in bfloat16, where the fused one is slower (docs/speed.md).

        With gradient checkpointing the choice stays, because it must be that of the recomputation.
        """
        device = ids.device.type
        composed = (
            device == "cpu"
            and ids.shape[1] <= COMPOSED_UP_TO
            and torch.is_autocast_enabled(device)
            and not getattr(self.network.get_decoder(), "gradient_checkpointing", False)
        )
        return sdpa_kernel(SDPBackend.MATH) if composed else nullcontext()


# --- scoring any number of rows ---

TOKENS_PER_BATCH = 16384
"""Padded tokens of one scoring batch on a GPU."""
TOKENS_PER_CPU_BATCH = 6144
"""Padded tokens of one scoring batch on a CPU: few enough for activations to stay in its cache."""
MAX_PADDING = 0.1
MIN_BATCH = TOKENS_PER_BATCH // 4
MIN_CPU_BATCH = 512
"""A batch of MIN_BATCH tokens or more (on a CPU MIN_CPU_BATCH) takes no row that raises its padding
above MAX_PADDING. On a GPU a pass over few tokens takes as long as one over many."""


@torch.no_grad()
def score_rows(scorer: TokenScorer, rows: Sequence[Row], pad_id: int) -> list[list[float]]:
    """Log-probabilities (nats, float32) of each row's scored tokens, in the order of `rows`.

    The forward pass is that of training, without dropout: the scorer is in eval mode meanwhile and
    then returns to the mode it was in. Which rows are computed together changes rounding only.
    Raises RunStopped between two batches when a signal asks the run to stop.
    """
    device = next(scorer.parameters()).device
    on_cpu = device.type == "cpu"
    limit = TOKENS_PER_CPU_BATCH if on_cpu else TOKENS_PER_BATCH

    merged = _with_shared_prefixes(scorer, rows, limit)
    lengths = [len(row.input_ids) for row in merged]
    scored: list[list[float]] = [[] for _ in merged]
    done = 0
    with evaluating(scorer):
        for group in scoring_batches(lengths, on_cpu):
            signals.check()
            batch = collate([merged[i] for i in group], pad_id, 1.0, 1.0)
            logprobs = scorer({name: value.to(device) for name, value in batch.items()})  # [N]
            pieces = logprobs.cpu().split([merged[i].sources.size for i in group])
            for i, piece in zip(group, pieces, strict=True):
                scored[i] = piece.tolist()
            done += len(group)
            within(done, len(merged), "rows scored")

    # A merged row scores the tokens of its rows one row after another, so that the values of all
    # merged rows together can be cut at the original rows' token counts.
    flat = [value for piece in scored for value in piece]
    counts = [row.sources.size for row in rows]
    ends = np.cumsum(counts, dtype=np.int64).tolist()
    return [flat[end - count : end] for end, count in zip(ends, counts, strict=True)]


def scoring_batches(lengths: Sequence[int], on_cpu: bool) -> list[list[int]]:
    """Row numbers of each scoring batch: rows of like lengths, the longest first."""
    if on_cpu:
        return like_lengths(lengths, TOKENS_PER_CPU_BATCH, MAX_PADDING, MIN_CPU_BATCH)
    return like_lengths(lengths, TOKENS_PER_BATCH, MAX_PADDING, MIN_BATCH)


def _with_shared_prefixes(scorer: TokenScorer, rows: Sequence[Row], limit: int) -> list[Row]:
    """The rows, with neighbours merged into one prefix tree where that is less work.

    Merged rows score the same tokens in the same order.
    """
    width = getattr(scorer.network.config.get_text_config(), "hidden_size", 0)
    groups = _groups_worth_sharing(rows, width, limit)
    if len(groups) == len(rows) or not scorer.shares_prefixes():
        return list(rows)

    merged = []
    for group in groups:
        first = rows[group[0]]
        several = [rows[i] for i in group]
        merged.append(first if len(group) == 1 else merge(first.id, several, join=False))
    return merged


def _groups_worth_sharing(rows: Sequence[Row], width: int, limit: int) -> list[list[int]]:
    """Runs of neighbouring rows to compute as one: a row joins the run before it if that is less
    work than a row of its own, and if the run stays within `limit` tokens."""
    groups: list[list[int]] = []
    tree_tokens = 0  # of the last run: distinct tokens of its tree
    shared_tokens = 0  # of the last run: length of the beginning that all its rows share
    for i, row in enumerate(rows):
        own_tokens = len(row.input_ids)

        if groups and row.is_flat and rows[groups[-1][-1]].is_flat:
            first = rows[groups[-1][0]]
            common = min(shared_tokens, common_length(first.input_ids, row.input_ids))
            together = tree_tokens + own_tokens - common
            saved = _work(tree_tokens, width) + _work(own_tokens, width) - _work(together, width)
            if common and saved > 0 and together <= limit:
                groups[-1].append(i)
                tree_tokens = together
                shared_tokens = common
                continue

        groups.append([i])
        tree_tokens = own_tokens
        shared_tokens = own_tokens
    return groups


def _work(tokens: int, width: int) -> int:
    """Relative cost of one row of T tokens in a network of width D: T (6 D + T).

    A layer has matrices of about 12 D^2 weights, and attention over all T tokens: the mask of a
    tree does not skip the pairs it hides.
    """
    return tokens * (6 * width + tokens)


# --- whether rows may share prefixes ---

TRIAL_TRUNK = 18
TRIAL_TAILS = (7, 5)
"""Tokens of the pair that is tried. It can be shorter than a sliding window, so windows are always
read from the configuration and never inferred from the trial."""


def sharing_obstacle(scorer: TokenScorer, *, training: bool) -> str | None:
    """Why rows of this network must not share prefixes, in words; None if they may.

    With `training`, active dropout is an obstacle, because the sequences of one row would share
    what is dropped. The trial is deterministic, draws no random number, and leaves the mode and the
    weights as they are.
    """
    found = mask_obstacle(scorer.network)
    if found is None and training and has_dropout(scorer):
        found = "its dropout is active in training"
    return found or _trial_obstacle(scorer)


def has_dropout(module: nn.Module) -> bool:
    """Whether any part of the module drops values at random in training."""
    return any(isinstance(m, nn.Dropout) and m.p > 0 for m in module.modules()) or any(
        getattr(m, "attention_dropout", 0.0) for m in module.modules()
    )


@torch.no_grad()
def _trial_obstacle(scorer: TokenScorer) -> str | None:
    """Compares the log-probs of one pair in a packed row with those in two separate rows.

    Networks that ignore the mask fail without an error. They are recognised by a third row, in
    which the second tail does see the first one: `leak` is how much that changes. A packed row
    must be far closer to separate rows than that.
    """
    rows, leaking = _trial_rows(scorer.network.config.get_text_config().vocab_size)
    packed = merge("packed", rows, join=False)
    dtype = next(scorer.parameters()).dtype
    device = next(scorer.parameters()).device

    try:
        with evaluating(scorer), torch.autocast(device.type, enabled=False):
            separate = _batch_logprobs(scorer, rows)
            shared = _batch_logprobs(scorer, [packed])
            wrong = _batch_logprobs(scorer, [leaking])
    except (TypeError, ValueError, KeyError, RuntimeError, IndexError, AttributeError) as error:
        return f"it does not take the mask of a row that branches ({type(error).__name__}: {error})"

    difference = float((shared - separate).abs().max())
    leak = float((wrong - separate[-len(wrong) :]).abs().max())
    limit = max(0.01 * leak, 2e-6) if dtype == torch.float32 else 0.1 * leak
    if difference <= limit:
        return None
    return f"log-probs of one pair differ by {difference:.1e} between packed and separate rows"


def _trial_rows(vocabulary: int) -> tuple[list[Row], Row]:
    """Two rows with a common trunk, and one plain row of the trunk and both tails in which only the
    second tail is scored."""
    ids = [(7 * i * i + 3 * i + 1) % vocabulary for i in range(TRIAL_TRUNK + sum(TRIAL_TAILS) + 1)]
    trunk = ids[:TRIAL_TRUNK]
    one = ids[TRIAL_TRUNK : TRIAL_TRUNK + TRIAL_TAILS[0]]
    other = ids[-TRIAL_TAILS[1] :]
    if other[0] == one[0]:  # the tails must branch right after the trunk
        other[0] = (one[0] + 1) % vocabulary

    rows = [Row.likelihood("one", trunk + one, 4), Row.likelihood("other", trunk + other, 4)]
    return rows, Row.likelihood("leaking", trunk + one + other, TRIAL_TRUNK + TRIAL_TAILS[0] + 1)


def _batch_logprobs(scorer: TokenScorer, rows: list[Row]) -> torch.Tensor:
    """Log-probs of the scored tokens of rows that fit one batch: float32 [N] on the CPU."""
    device = next(scorer.parameters()).device
    batch = collate(rows, 0, 1.0, 1.0)
    return scorer({name: value.to(device) for name, value in batch.items()}).cpu()
