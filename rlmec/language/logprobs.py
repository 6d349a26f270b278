"""Log-probabilities of chosen tokens, without the logits of all others.

In: the tensors of `batching.collate`, which say at which place each scored token is predicted. Out:
their float32 log-probabilities, in the batch's order. Hidden states are picked before the head, so
prompts, padding and tokens without credit never reach the vocabulary, and the head runs over a part
of them at a time, so that float32 logits of a whole batch are never held.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from rlmec.language.attention import attention_arguments

DENSE_LOGITS = 2**22
"""Up to so many logits at once are computed plainly (16 MiB in float32); changes rounding only."""
PARTS, LEAST_PART = 16, 192
"""More are cut into about PARTS parts of at least LEAST_PART tokens."""


class TokenLogprobs(nn.Module):
    """A causal network whose forward gives the log-probabilities of a batch's scored tokens.

    Where the head is more than its matrix (soft-capped or scaled logits), found by one trial at
    construction, the network's own logits are used. `shares_prefixes` keeps the answer of
    `selfcheck` once it was asked.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.plain_head = _head_is_plain(network)
        self.shares_prefixes: bool | None = None

    def forward(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Tensors of `batching.collate` -> float32 [N], nats."""
        sources, targets = batch["sources"], batch["targets"]  # [N]
        arguments = {
            "input_ids": batch["input_ids"],
            "use_cache": False,
            **attention_arguments(self.network, batch),
        }
        if not self.plain_head:
            logits = self.network(**arguments).logits  # [B, T, V]
            return -_nll(logits.flatten(0, 1)[sources], targets)
        hidden = self.network.get_decoder()(**arguments).last_hidden_state  # [B, T, D]
        chosen = hidden.flatten(0, 1).index_select(0, sources)  # [N, D]
        return -head_nll(self.network.get_output_embeddings(), chosen, targets)


def head_nll(head: Any, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """-log p of each target under a linear head: [N, D], [N] -> float32 [N].

    Small batches are computed plainly, large ones part by part, forward and backward, with torch's
    own operation where it is exact (a plain float32 matrix), else by recomputing each part.
    """
    count, vocabulary = len(targets), head.weight.shape[0]
    if count * vocabulary <= DENSE_LOGITS:
        return _nll(head(hidden), targets)
    part = max(LEAST_PART, -(-count // PARTS))
    if _has_fused_form(head, hidden):
        options = nn.LinearCrossEntropyOptions(batch_chunk_size=part, chunking_method=None)
        return F.linear_cross_entropy(
            hidden,
            head.weight,
            targets,
            linear_bias=head.bias,
            reduction="none",
            options=options,
        )
    return torch.cat(
        [
            _part_nll(head, h, y)
            for h, y in zip(hidden.split(part), targets.split(part), strict=True)
        ]
    )


def _part_nll(head: Any, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    def run(h: torch.Tensor) -> torch.Tensor:
        return _nll(head(h), targets)

    if not torch.is_grad_enabled():
        return run(hidden)
    return checkpoint(run, hidden, use_reentrant=False, preserve_rng_state=False)


def _nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.float(), targets, reduction="none")  # [N]


def _has_fused_form(head: Any, hidden: torch.Tensor) -> bool:
    """Whether torch's chunked operation computes this head in float32 (it is there from 2.13 on;
    in half precision it would round the log-probs themselves)."""
    return (
        hasattr(F, "linear_cross_entropy")
        and type(head) is nn.Linear
        and hidden.dtype == head.weight.dtype == torch.float32
        and not torch.is_autocast_enabled(hidden.device.type)
    )


@torch.no_grad()
def _head_is_plain(network: Any) -> bool:
    """Whether logits are the head's output as it is, and its input the decoder's as it is.

    The head's output is replaced by large numbers on the way, so that the answer does not depend on
    the weights: at small logits a soft cap is hardly seen.
    """
    decoder, head = network.get_decoder(), network.get_output_embeddings()
    if decoder is None or head is None or decoder is network:
        return False
    device = next(network.parameters()).device
    ids = torch.arange(4, device=device)[None] % network.config.get_text_config().vocab_size
    seen: list[torch.Tensor] = []

    def replaced(_: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        large = torch.linspace(-100, 100, output.numel(), device=device).view_as(output)
        seen.extend([inputs[0], large.to(output.dtype)])
        return seen[1]

    was_training, handle = network.training, head.register_forward_hook(replaced)
    network.eval()
    try:
        logits = network(input_ids=ids, use_cache=False).logits
        hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state
    finally:
        handle.remove()
        network.train(was_training)
    return torch.equal(logits, seen[1]) and torch.allclose(seen[0], hidden, atol=1e-5)
