"""Log-probabilities of chosen tokens; the only place that shifts targets against predictions.

In: padded ids and the mask of completion tokens. Out: float32 log-probabilities of those tokens,
flat, in row-major order. Positions are chosen before the head, so prompts and padding never reach
the vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class TokenLogprobs(nn.Module):
    """A causal network whose forward gives the log-probabilities of the completion tokens.

    Where the head is more than its matrix (soft-capped or scaled logits), found by one trial at
    construction, the network's own logits are used.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.plain_head = _head_is_plain(network)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        completion_mask: torch.Tensor,
    ) -> torch.Tensor:
        """[B, T] ids, attention (1: real), mask (True: wanted, not in column 0) -> [N] float32."""
        chosen = completion_mask[:, 1:]  # [B, T-1]
        targets = input_ids[:, 1:][chosen]  # [N]
        if self.plain_head:
            hidden = self.network.get_decoder()(
                input_ids=input_ids, attention_mask=attention_mask, use_cache=False
            ).last_hidden_state
            logits = self.network.get_output_embeddings()(hidden[:, :-1][chosen])  # [N, V]
        else:
            logits = self.network(
                input_ids=input_ids, attention_mask=attention_mask, use_cache=False
            ).logits[:, :-1][chosen]  # [N, V]
        return -nn.functional.cross_entropy(logits.float(), targets, reduction="none")


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
